//! Requests that must carry a token.

use std::fmt;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Refusal;

/// Returns whether a path is one that says only whether somebody is there.
pub(super) fn is_public(path: &str) -> bool {
    ["/healthz", "/readyz"].contains(&path)
}

/// Minimum length of a token, in bytes: a shorter one can be guessed.
const SHORTEST: usize = 16;

/// The token that requests must carry, as `Authorization: Bearer TOKEN`.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Takes a token of at least 16 printable ASCII characters without spaces.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence.
    pub fn new(token: &str) -> Result<Self, String> {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has other characters than letters, digits and signs of ASCII".into());
        }
        if token.len() < SHORTEST {
            return Err(format!("has {} characters, and less than {SHORTEST} can be guessed", token.len()));
        }
        Ok(Self(digest(token.as_bytes())))
    }

    /// Compares a request's header, in a time that tells nothing about the
    /// token. Engines take the token alone, so that is taken as well.
    fn is_in(&self, header: Option<&HeaderValue>) -> bool {
        let given = header.map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, rest) = given.split_at_checked(7).unwrap_or_default();
        let given = if scheme.eq_ignore_ascii_case(b"bearer ") { rest.trim_ascii() } else { given };
        let differing = digest(given).iter().zip(&self.0).fold(0, |sum, (one, other)| sum | (one ^ other));
        std::hint::black_box(differing) == 0
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A mark of requests that carry the token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Authorized;

/// Adds a check of the token to routes; what answers `/healthz` and `/readyz`,
/// and the page's files, need none.
pub fn with_token(router: Router, token: Token) -> Router {
    router.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let token = token.clone();
        async move {
            if token.is_in(request.headers().get(header::AUTHORIZATION)) {
                request.extensions_mut().insert(Authorized);
            } else if !is_open(&request) {
                return refusal();
            }
            next.run(request).await
        }
    }))
}

/// Whether a request asks for what tells nothing: whether somebody is there, and
/// the page's files, which ask their reader for the token.
fn is_open(request: &Request) -> bool {
    let path = request.uri().path();
    let wants_page = || {
        let accepted = request.headers().get(header::ACCEPT).map(HeaderValue::as_bytes).unwrap_or_default();
        accepted.windows(9).any(|part| part == b"text/html")
    };
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    is_public(path) || is_read && (path.starts_with("/page/") || path == "/" && wants_page())
}

fn refusal() -> Response {
    let text = "the request carries no token that is known here: send it as Authorization: Bearer TOKEN";
    let mut response = Refusal::new(StatusCode::UNAUTHORIZED, text).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = Token::new("0123456789abcdef").unwrap();
        let is_in = |header: &'static str| token.is_in(Some(&HeaderValue::from_static(header)));
        for good in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef ", "0123456789abcdef"] {
            assert!(is_in(good), "{good}");
        }
        for bad in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef"]
        {
            assert!(!is_in(bad), "{bad}");
        }
        assert!(!token.is_in(None));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn what_can_be_guessed_or_sent_by_nobody_is_no_token() {
        assert!(Token::new("short").unwrap_err().contains("has 5 characters"));
        for bad in ["0123456789 abcdef", "0123456789\tabcdef", "0123456789abcdefä"] {
            assert!(Token::new(bad).unwrap_err().contains("other characters"), "{bad:?}");
        }
    }
}
