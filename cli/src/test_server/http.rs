//! The requests of the test server, over HTTP.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::routing::post;
use ekuiper_core::message::{Control, Meta};
use ekuiper_core::printable;
use ekuiper_manager::rest;

use super::Symbols;
use crate::error::{Error, Result, column, excerpt};
use crate::http_server::{self, Bounds, Security};

/// A text, and its status.
type Answer = (StatusCode, String);

/// Answers requests, in a thread of its own, as long as the process lives.
pub(super) fn serve(listener: TcpListener, symbols: Arc<Symbols>) -> Result<()> {
    listener.set_nonblocking(true).map_err(Error::Serve)?;
    let is_own = listener.local_addr().map_err(Error::Serve)?.ip().is_loopback();
    let router = router(symbols);
    let router = if is_own { rest::of_this_machine(router) } else { router };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(Error::Serve)?;
    let listener = {
        let _in_runtime = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(Error::Serve)?
    };
    let served =
        http_server::serve(listener, Security::Plain, router, Bounds::default(), std::future::pending(), async |_| {});
    let work = move || runtime.block_on(served);
    std::thread::Builder::new().name("http".into()).spawn(work).map_err(Error::Thread)?;
    Ok(())
}

fn router(symbols: Arc<Symbols>) -> Router {
    Router::new()
        .route("/symbol/start", post(start))
        .route("/symbol/stop", post(stop))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            (StatusCode::METHOD_NOT_ALLOWED, format!("{} takes POST, not {}\n", uri.path(), shown(method.as_str())))
        })
        .fallback(async |uri: Uri| {
            let path = shown(uri.path());
            (
                StatusCode::NOT_FOUND,
                format!("there is no {path}: POST /symbol/start and POST /symbol/stop are served\n"),
            )
        })
        .with_state(symbols)
}

async fn start(State(symbols): State<Arc<Symbols>>, request: Request) -> Answer {
    answer(request, move |control| symbols.start(&control)).await
}

async fn stop(State(symbols): State<Arc<Symbols>>, request: Request) -> Answer {
    answer(request, move |control| symbols.stop(&control)).await
}

/// Reads a request's control message, and does what it asks for. That may take
/// any time: the plugin may be at a breakpoint.
async fn answer(request: Request, work: impl FnOnce(Control) -> Result<(), String> + Send + 'static) -> Answer {
    let refused = |status, text: String| (status, format!("{text}\n"));
    if let Some(origin) = foreign_origin(&request) {
        return refused(StatusCode::FORBIDDEN, format!("a page of {origin} may not start symbols here"));
    }
    let body = match rest::read_body(request.into_body()).await {
        Ok(body) => body,
        Err((status, problem)) => return refused(status, format!("the body {problem}")),
    };
    let control = match control(&body) {
        Ok(control) => control,
        Err(problem) => return refused(StatusCode::BAD_REQUEST, format!("invalid body: {problem}")),
    };
    match tokio::task::spawn_blocking(move || work(control)).await {
        Ok(Ok(())) => (StatusCode::OK, "ok".into()),
        Ok(Err(problem)) => refused(StatusCode::BAD_REQUEST, printable::lines(&problem).replace('\n', " ")),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the command failed at this request".into()),
    }
}

/// Parses a control message, as an engine sends it to a plugin.
fn control(body: &[u8]) -> Result<Control, String> {
    const WANTED: &str = r#"{"symbolName":"random","meta":{"ruleId":"rule1","opId":"op1","instanceId":1},"pluginType":"source","config":{}}"#;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(format!("it is empty; it is to be like {WANTED}"));
    }
    let mut control: Control = serde_json::from_slice(body).map_err(|error| {
        format!(
            "{}, in {}; it is to be like {WANTED}",
            printable::excerpt(&column(&error)),
            excerpt(body, error.column())
        )
    })?;
    if control.symbol_name.is_empty() {
        return Err("symbolName is empty".into());
    }
    if control.meta == Meta::default() {
        // Upstream's, which looks at no meta.
        control.meta = Meta { rule_id: "rule1".into(), op_id: "op1".into(), instance_id: 1 };
    }
    Ok(control)
}

/// The origin of a browser's request, unless it is a page of this machine.
fn foreign_origin(request: &Request) -> Option<String> {
    let origin = request.headers().get(header::ORIGIN)?;
    let text = String::from_utf8_lossy(origin.as_bytes());
    let host = text.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let is_own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    (!is_own).then(|| shown(&text))
}

fn shown(text: &str) -> String {
    excerpt(text.as_bytes(), 0)
}
