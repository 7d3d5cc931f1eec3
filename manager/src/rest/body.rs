//! What a request may be: its size, its time, and who sends it.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ekuiper_core::printable;
use futures_core::Stream;

use super::Refusal;
use super::ending::is_ending;
use super::token::{self, Authorized};
use crate::Manager;
use crate::ending::Stage;

/// Maximum length of a request's body, in bytes.
const LONGEST: usize = 1 << 20;

/// Maximum time of a body's arrival.
const ARRIVAL: Duration = Duration::from_secs(10);

/// What is wrong with a body of which the rest does not come, or cannot be told
/// from what follows.
pub(super) const BROKE_OFF: &str = "broke off: the connection was closed, or its length or chunks are wrong";

/// Reads a body of at most 1 MiB, which must come within 10 seconds.
///
/// # Errors
/// The status of the refusal, and what is wrong with the body, as the rest of a
/// sentence.
pub async fn read_body(body: Body) -> Result<Vec<u8>, (StatusCode, String)> {
    match tokio::time::timeout(ARRIVAL, arrived(body)).await {
        Ok(arrived) => arrived,
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, format!("did not come within {ARRIVAL:?}"))),
    }
}

async fn arrived(body: Body) -> Result<Vec<u8>, (StatusCode, String)> {
    let too_long = || Err((StatusCode::PAYLOAD_TOO_LARGE, format!("has more than {LONGEST} bytes")));
    if body.size_hint().lower() > LONGEST as u64 {
        return too_long();
    }
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = poll_fn(|context| Pin::new(&mut pieces).poll_next(context)).await {
        bytes.extend_from_slice(&piece.map_err(|_| (StatusCode::BAD_REQUEST, BROKE_OFF.to_owned()))?);
        if bytes.len() > LONGEST {
            return too_long();
        }
    }
    Ok(bytes)
}

/// Reads a body, or refuses the request.
pub(super) async fn read(manager: &Manager, body: Body) -> Result<Vec<u8>, Refusal> {
    let end = manager.ending.watch();
    let read = tokio::select! {
        biased;
        read = read_body(body) => read,
        () = end.comes(Stage::Shutdown) => return Err(is_ending("and nothing was done: not all of the body has come")),
    };
    read.map_err(|(status, problem)| Refusal::new(status, format!("Invalid body: it {problem}")))
}

/// Refuses what a browser sends for a page of another site, also for one whose
/// name leads to this machine: it could install programs here.
pub(super) async fn refuse_other_sites(request: Request, next: Next) -> Response {
    // No page has the token but by its user.
    if request.extensions().get::<Authorized>().is_some() {
        return next.run(request).await;
    }
    if let Some(origin) = foreign_origin(&request) {
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

/// Returns the origin of a request, if that is not the host that it names.
fn foreign_origin(request: &Request) -> Option<String> {
    let origin = String::from_utf8_lossy(request.headers().get(header::ORIGIN)?.as_bytes()).into_owned();
    let site = origin.split_once("://").map(|(_, site)| site);
    let is_site = |host: &str| site.is_some_and(|site| site.eq_ignore_ascii_case(host));
    let is_foreign = !hosts(request).all(|host| is_own(&host) && is_site(&host));
    is_foreign.then_some(origin)
}

/// Refuses requests to this machine by a name that anybody may give it.
pub(super) async fn refuse_other_names(request: Request, next: Next) -> Response {
    let count = request.headers().get_all(header::HOST).iter().count();
    if count > 1 {
        let text = format!("the request has {count} headers Host: send one");
        return Refusal::new(StatusCode::BAD_REQUEST, text).into_response();
    }
    if is_unnamed(&request) {
        // No browser asks so, but what looks whether somebody is there may.
        if token::is_public(request.uri().path()) {
            return next.run(request).await;
        }
        let text = "the request names no host: send a header Host, with this machine's address or localhost";
        return Refusal::new(StatusCode::FORBIDDEN, text).into_response();
    }
    if let Some(host) = hosts(&request).find(|host| !is_own(host)) {
        let text = format!("the host is {:?}: ask for it by its address, or as localhost", printable::excerpt(&host));
        return Refusal::new(StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

/// Returns whether a request names no host at all, as HTTP/1.0 allows.
fn is_unnamed(request: &Request) -> bool {
    !request.headers().contains_key(header::HOST) && request.uri().authority().is_none()
}

/// Returns the hosts that a request names, with their ports: in its headers, or
/// an empty text if it has none there, and in its target, if that is a whole URL.
fn hosts(request: &Request) -> impl Iterator<Item = String> + '_ {
    let headers = request.headers().get_all(header::HOST).iter();
    let named = headers.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let unnamed = (!request.headers().contains_key(header::HOST)).then(String::new);
    named.chain(unnamed).chain(request.uri().authority().map(Authority::to_string))
}

/// Returns whether a host is an address, or this machine by its usual name: any
/// other name may be made to lead here.
fn is_own(host: &str) -> bool {
    let Some(authority) = host.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@')) else {
        return false;
    };
    let name = authority.host();
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anyone_can_take_are_not_this_machine() {
        for own in ["127.0.0.1:9081", "localhost", "LocalHost:1", "[::1]:9081", "192.168.0.7:80"] {
            assert!(is_own(own), "{own}");
        }
        for other in
            ["", "evil.example", "evil.example:9081", "localhost.evil.example", "a b", "a@localhost", "localhost@a"]
        {
            assert!(!is_own(other), "{other}");
        }
    }
}
