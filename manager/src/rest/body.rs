//! What a request may be: its size, its time, and who sends it.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ekuiper_core::printable;

use super::Refusal;
use super::token::Authorized;

/// Maximum length of a request's body, in bytes.
const LONGEST: usize = 1 << 20;

/// Maximum time of a body's arrival.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Reads a body of at most 1 MiB, which must come within 10 seconds.
///
/// # Errors
/// The status of the refusal, and what is wrong with the body, as the rest of a
/// sentence.
pub async fn read_body(body: Body) -> Result<Vec<u8>, (StatusCode, String)> {
    let is_long = body.size_hint().lower() > LONGEST as u64;
    let arrived = async { if is_long { None } else { to_bytes(body, LONGEST).await.ok() } };
    match tokio::time::timeout(ARRIVAL, arrived).await {
        Ok(Some(bytes)) => Ok(bytes.into()),
        Ok(None) => {
            let text = format!("cannot be read, or has more than {LONGEST} bytes");
            Err((StatusCode::PAYLOAD_TOO_LARGE, text))
        }
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, format!("did not come within {ARRIVAL:?}"))),
    }
}

/// Reads a body, or refuses the request.
pub(super) async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    read_body(body).await.map_err(|(status, problem)| Refusal::new(status, format!("Invalid body: it {problem}")))
}

/// Refuses what a browser sends for a page of another site, also for one whose
/// name leads to this machine: it could install programs here.
pub(super) async fn refuse_other_sites(request: Request, next: Next) -> Response {
    // No page has the token but by its user.
    if request.extensions().get::<Authorized>().is_some() {
        return next.run(request).await;
    }
    let (origin, host) = (request.headers().get(header::ORIGIN), host(request.headers()));
    let origin = origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
    if let Some(origin) = origin
        && (origin.split_once("://").map(|(_, site)| site) != Some(&host) || !is_own(&host))
    {
        let text = format!("a page of {} may not manage plugins here", printable::excerpt(&origin));
        return Refusal::new(StatusCode::FORBIDDEN, text).into_response();
    }
    // What a browser says where it sends no origin.
    let site = request.headers().get("sec-fetch-site");
    if site.is_some_and(|site| site == "cross-site" || site == "same-site") {
        return Refusal::new(StatusCode::FORBIDDEN, "a page of another site may not look at plugins here")
            .into_response();
    }
    next.run(request).await
}

/// Refuses requests to this machine by a name that anybody may give it.
pub(super) async fn refuse_other_names(request: Request, next: Next) -> Response {
    let host = host(request.headers());
    if !is_own(&host) {
        let text = format!("the host is {:?}: ask for it by its address, or as localhost", printable::excerpt(&host));
        return Refusal::new(StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

fn host(headers: &HeaderMap) -> String {
    headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).unwrap_or_default()
}

/// Returns whether a page's host is an address, or this machine by its usual
/// name: any other name may be made to lead here.
fn is_own(host: &str) -> bool {
    let name = host.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anyone_can_take_are_not_this_machine() {
        for own in ["127.0.0.1:9081", "localhost", "localhost:1", "[::1]:9081", "192.168.0.7:80"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["", "evil.example", "evil.example:9081", "localhost.evil.example", "a b"] {
            assert!(!is_own(other), "{other}");
        }
    }
}
