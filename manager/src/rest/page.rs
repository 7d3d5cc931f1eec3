//! The page at `/`, for a browser: it asks for `/plugins`, `/logs`, and whatever
//! its reader does.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ekuiper_core::printable::excerpt;

use super::extract::Path;
use super::{Answer, Refusal};
use crate::Manager;

/// What the page may do: nothing but with this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The files of the page, as they are in the folder `page`.
const FILES: [(&str, &str, &str); 7] = [
    ("page.css", CSS, include_str!("page/page.css")),
    ("page.js", SCRIPT, include_str!("page/page.js")),
    ("install.js", SCRIPT, include_str!("page/install.js")),
    ("logs.js", SCRIPT, include_str!("page/logs.js")),
    ("plugins.js", SCRIPT, include_str!("page/plugins.js")),
    ("server.js", SCRIPT, include_str!("page/server.js")),
    ("symbol.js", SCRIPT, include_str!("page/symbol.js")),
];

/// The routes of the page's files.
pub(super) fn routes() -> Router<Arc<Manager>> {
    Router::new().route("/page/{file}", get(file))
}

/// The page itself.
pub(super) fn html() -> Response {
    content(HTML, include_str!("page/page.html"))
}

async fn file(Path(name): Path<String>) -> Answer {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, kind, text)) => Ok(content(kind, text)),
        None => Err(Refusal::not_found(format!("the page has no file {}", excerpt(&name)))),
    }
}

fn content(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The server may be another version soon.
        (header::CACHE_CONTROL, "no-cache"),
        // At `/` a program gets JSON.
        (header::VARY, "accept"),
    ];
    (headers, text).into_response()
}
