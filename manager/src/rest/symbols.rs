//! What the routes of functions, sources and sinks have in common: the settings
//! of a request, and what an error of the host is for its sender.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, StatusCode, header};
use ekuiper_core::Chain;
use ekuiper_core::printable::excerpt;
use ekuiper_host::{ErrorDelivery, ErrorKind, SymbolKind};
use serde_json::Value;

use super::ending::{ENDING, is_ending};
use super::{Refusal, status_of, unique};
use crate::ending::{End, Stage};
use crate::{Error, Manager};

/// Content type of lines of JSON.
pub(super) const LINES: &str = "application/x-ndjson";

/// Content type of server-sent events.
pub(super) const EVENTS: &str = "text/event-stream";

/// The parameters of a request's query.
pub(super) type Asked = BTreeMap<String, String>;

/// Content type by which curl sends a body, unless it is told another.
const FORM: &str = "application/x-www-form-urlencoded";

/// Returns the content type of a request's body, without its parameters.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}

/// Returns what is added to the error of a body that is not JSON, if curl may
/// have taken the ends of its lines away.
pub(super) fn lines_hint(headers: &HeaderMap) -> &'static str {
    match content_type(headers).eq_ignore_ascii_case(FORM) {
        true => "; if these are lines, use --data-binary and -H 'content-type: application/x-ndjson'",
        false => "",
    }
}

/// Refuses parameters that are none of these.
pub(super) fn check(asked: &Asked, known: &[&str]) -> Result<(), Refusal> {
    match asked.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(bad(format!("{:?} is none of {}", excerpt(name), known.join(", ")))),
        None => Ok(()),
    }
}

/// Returns a parameter that is a whole number.
pub(super) fn number(asked: &Asked, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = asked.get(name) else { return Ok(None) };
    let number = text.parse().map_err(|_| bad(format!("{name} is to be a whole number, not {:?}", excerpt(text))))?;
    Ok(Some(number))
}

/// Returns what a symbol is opened with: the settings of a key, and the fields
/// of `config`. May block.
pub(super) fn configuration(
    manager: &Manager,
    kind: SymbolKind,
    symbol: &str,
    asked: &Asked,
) -> Result<Value, Refusal> {
    let mut fields = match asked.get("config") {
        None => serde_json::Map::new(),
        Some(text) => unique::object(text.as_bytes())
            .map_err(|problem| bad(format!("config is to be a JSON object, not {:?}: {problem}", excerpt(text))))?,
    };
    let key = asked.get("key").map(String::as_str);
    let mut config = manager.configuration(kind, symbol, key).map_err(|problem| match problem {
        Error::NoSymbol { .. } => no_symbol(manager, kind, symbol, &problem),
        problem => Refusal::new(status_of(&problem), Chain(&problem).to_string()),
    })?;
    config.append(&mut fields);
    Ok(config.into())
}

/// Returns a name of a rule that no other request has.
pub(super) fn rule() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("http{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn bad(text: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

/// The refusal of a symbol that the host does not open; if it is of another
/// kind, with the route that serves it.
pub(super) fn not_opened(manager: &Manager, error: &ekuiper_host::Error) -> Refusal {
    match error {
        ekuiper_host::Error::NoSuchSymbol { kind, symbol, .. } => no_symbol(manager, *kind, symbol, error),
        error => Refusal { message: words(error, &manager.ending.watch()), ..refused(error) },
    }
}

fn no_symbol(manager: &Manager, kind: SymbolKind, symbol: &str, error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::not_found(match manager.symbol(symbol) {
        Some((of, _)) if of != kind => {
            let method = if of == SymbolKind::Source { "GET" } else { "POST" };
            let (symbol, known) = (excerpt(symbol), manager.known_instead(kind, symbol));
            format!("there is no {kind} {symbol}: {known}: {method} /{of}s/{symbol}")
        }
        _ => Chain(error).to_string(),
    })
}

/// What an error of the host says to the sender of a request: what has ended its
/// symbol is known here.
pub(super) fn words(error: &ekuiper_host::Error, end: &End) -> String {
    match error {
        ekuiper_host::Error::Stopped if end.has_come(Stage::Ending) => ENDING.to_owned(),
        // Its plugin was ended, which it does not know.
        error if end.has_come(Stage::Shutdown) && error.delivery() == ErrorDelivery::Unknown => ENDING.to_owned(),
        ekuiper_host::Error::Stopped => "the plugin was removed or stopped".to_owned(),
        error => Chain(error).to_string(),
    }
}

/// Returns what has become of a call that has failed since the server ends.
pub(super) fn fate(error: &ekuiper_host::Error, end: &End) -> Option<&'static str> {
    match error.delivery() {
        _ if !end.has_come(Stage::Shutdown) => None,
        ErrorDelivery::NotSent => Some("and the call was not sent"),
        ErrorDelivery::Unknown => Some("and the outcome of the call is unknown"),
        _ => None,
    }
}

/// The refusal of a call.
pub(super) fn call_refused(error: &ekuiper_host::Error, end: &End) -> Refusal {
    match fate(error, end) {
        Some(fate) => is_ending(fate),
        None => Refusal { message: words(error, end), ..refused(error) },
    }
}

/// The refusal for an error of the host.
fn refused(error: &ekuiper_host::Error) -> Refusal {
    let status = match error.kind() {
        ErrorKind::NoSuchSymbol | ErrorKind::NoSuchPlugin => {
            return Refusal::not_found(Chain(error).to_string());
        }
        ErrorKind::Message | ErrorKind::Config => StatusCode::BAD_REQUEST,
        ErrorKind::Function | ErrorKind::Refused | ErrorKind::Source | ErrorKind::Sink => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ErrorKind::Expired | ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::OutcomeUnknown => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refusal::new(status, Chain(error).to_string())
}
