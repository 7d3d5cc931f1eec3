//! eKuiper's REST interface for portable plugins, as a router for
//! [axum], which an engine can mount beside its own routes.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use ekuiper_manager::{Manager, rest};
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let manager = Arc::new(Manager::builder("/var/lib/plugins").open()?);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:9081").await?;
//! axum::serve(listener, rest::router(manager)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Paths, statuses, bodies and content types are those of a real engine, with
//! these differences, each a fault of it: an update keeps the old version until
//! the new one works, and is refused for a plugin that is not installed, or for
//! another name in the body than in the path; a plugin that is in use is not
//! deleted, unless `?users=stop` asks for it; settings are those of installed
//! symbols, are checked, and are stored as they are sent; a page of another site
//! is refused, where the engine answers any; and refusals say more: the engine's
//! words are only how they begin.

mod body;
mod busy;
mod ending;
mod extract;
mod functions;
mod logs;
mod metadata;
mod openapi;
mod page;
mod plugins;
mod portables;
mod sinks;
mod sources;
mod stream;
mod symbols;
mod token;
mod unique;
mod uploads;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use ekuiper_core::printable::excerpt;
use ekuiper_host::{Host, metrics};
use serde::Serialize;
use serde_json::{Value, json};

use crate::archive::ArchiveError;
use crate::{Error, Manager};

pub use body::read_body;
pub use token::{Token, with_token};

/// eKuiper's code of an error without a code of its own.
const UNDEFINED: u32 = 1000;

/// eKuiper's code of what is not there.
const NOT_FOUND: u32 = 1002;

/// Adds a check of the `Host` header to routes that are served at a loopback
/// address: it must be an address, or `localhost`. Any other name may be made to
/// lead here by a page of another site, which could then read what is answered.
pub fn of_this_machine(router: Router) -> Router {
    router.layer(middleware::from_fn(body::refuse_other_names))
}

/// Returns the routes. Whoever can send requests can install programs: listen
/// on a loopback address, or ask for a token ([`with_token`]).
pub fn router(manager: Arc<Manager>) -> Router {
    let at_the_end = middleware::from_fn_with_state(manager.clone(), ending::answer_at_the_end);
    let of_engine = Router::new()
        .route("/plugins/portables", get(portables::list).post(portables::install))
        .route("/plugins/portables/{name}", get(portables::show).put(portables::update).delete(portables::remove))
        .route("/plugins/portables/{name}/status", get(portables::status))
        // A package has a limit of its own.
        .route("/config/uploads", get(uploads::list).post(uploads::add).layer(DefaultBodyLimit::disable()))
        .route("/config/uploads/{name}", delete(uploads::remove))
        .route("/metadata/functions", get(metadata::functions))
        .route("/metadata/sources", get(metadata::sources))
        .route("/metadata/sources/{name}", get(metadata::source))
        .route("/metadata/sources/yaml/{name}", get(metadata::source_settings))
        .route("/metadata/sources/{name}/confKeys/{key}", put(metadata::set_source).delete(metadata::unset_source))
        .route("/metadata/sinks", get(metadata::sinks))
        .route("/metadata/sinks/{name}", get(metadata::sink))
        .route("/metadata/sinks/yaml/{name}", get(metadata::sink_settings))
        .route("/metadata/sinks/{name}/confKeys/{key}", put(metadata::set_sink).delete(metadata::unset_sink))
        .method_not_allowed_fallback(no_method)
        .layer(at_the_end.clone())
        .layer(middleware::map_response(as_the_engine));
    let routes = Router::new()
        .route("/functions/{name}", post(functions::call))
        .route("/sources/{name}", get(sources::read).head(sources::head))
        .route("/sinks/{name}", post(sinks::feed))
        .route("/plugins", get(plugins::list))
        .route("/metrics", get(show_figures))
        .route("/openapi.json", get(openapi::show))
        .route("/logs", get(logs::show))
        .route("/", get(about))
        .merge(page::routes())
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(plugins::ready));
    let routes = routes.method_not_allowed_fallback(no_method).layer(at_the_end);
    guarded(routes.merge(of_engine)).with_state(manager)
}

/// Adds what is answered where there is no route, and what is refused of any.
fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .fallback(not_found)
        .layer(middleware::from_fn(body::refuse_other_sites))
        .layer(middleware::from_fn_with_state(busy::room(), busy::refuse_beyond))
}

/// Returns the route `GET /metrics` alone, with the figures of a host: for a
/// program that runs plugins and manages none.
pub fn figures(host: Arc<Host>) -> Router {
    let show = move || {
        let host = host.clone();
        blocking(move || Ok(shown(&host)))
    };
    guarded(Router::new().route("/metrics", get(show)))
}

/// The plugins' figures, for Prometheus.
async fn show_figures(State(manager): State<Arc<Manager>>) -> Answer {
    blocking(move || Ok(shown(manager.host()))).await
}

fn shown(host: &Host) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(host)).into_response()
}

/// Gives refusals the engine's content type.
async fn as_the_engine(mut answer: Response) -> Response {
    if answer.extensions().get::<Refused>().is_some() {
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    }
    answer
}

async fn no_method(method: Method) -> Refusal {
    let text = format!("{} is no method of this address: GET /openapi.json says which are", excerpt(method.as_str()));
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// As the engine answers it.
async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

/// For a browser the page, and for others what the engine says of itself, with
/// our version, and that this is none of eKuiper's images.
async fn about(headers: HeaderMap) -> Answer {
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/html")) {
        return Ok(page::html());
    }
    let processor = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json(&json!({
        "version": env!("CARGO_PKG_VERSION"), "os": std::env::consts::OS, "arch": processor, "manager": "ekuiper-manager",
    }))
}

type Answer = Result<Response, Refusal>;

/// Does what may block, in a thread for that; returns its answer.
async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    self::work(work).await
}

/// Does what may block, in a thread for that.
async fn work<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let broken = |_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the manager failed at this request"));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(broken)
}

fn json(value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value);
    let text = text.map_err(|problem| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, problem.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response())
}

/// Returns the status of a change or a question that has failed: mostly, the
/// request is wrong in itself.
fn status_of(problem: &Error) -> StatusCode {
    match problem {
        // The manager's folder is gone, or its disk is full.
        Error::Folder { .. } | Error::Left { .. } | Error::Archive(ArchiveError::Write { .. }) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Error::Ending => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Refuses a body that is JSON and no object.
fn check_object(bytes: &[u8]) -> Result<(), &'static str> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Null) => Err("null"),
        Ok(Value::Array(_)) => Err("a list"),
        Ok(Value::Bool(_) | Value::Number(_) | Value::String(_)) => Err("a single value"),
        // Its reader says what is wrong with it.
        Ok(Value::Object(_)) | Err(_) => Ok(()),
    }
}

/// A refusal, in the form of the engine's.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: u32,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: UNDEFINED, message: message.into() }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self { code: NOT_FOUND, ..Self::new(StatusCode::NOT_FOUND, message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
        let text = format!("{}\n", json!({ "error": self.code, "message": self.message }));
        (self.status, headers, Extension(Refused), text).into_response()
    }
}

/// A mark of answers that are refusals.
#[derive(Clone, Copy)]
struct Refused;

/// Content type of text.
const TEXT: &str = "text/plain; charset=utf-8";

/// Text that no browser takes for anything else.
fn plain(status: StatusCode, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, TEXT), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, text).into_response()
}
