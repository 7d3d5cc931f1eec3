//! `GET /sources/{name}`: the tuples of a source, as they come.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use ekuiper_host::{AsyncSource, ErrorKind, SymbolKind, Tuple};
use futures_core::Stream;
use serde_json::{Value, json};

use super::ending::ENDING;
use super::extract::{Path, Query};
use super::stream::{self, Gone, Place, Writer};
use super::symbols::{Asked, EVENTS, LINES, check, configuration, not_opened, number, rule, words};
use super::{Answer, Refusal};
use crate::Manager;
use crate::ending::End;

/// Pause after which a stream of events has an empty one, so that a proxy does
/// not take it for dead.
const PAUSE: Duration = Duration::from_secs(15);

/// What a browser adds when it asks for the same stream again.
const LAST_EVENT: &str = "last-event-id";

/// The first event, which is empty, and has an id, so that a browser knows one.
const FIRST_EVENT: &str = "id: 0\n\n";

/// The last event of a source that has ended, or was read as far as was asked.
const END_EVENT: &str = "event: end\ndata: {}\n\n";

pub(super) async fn read(
    State(manager): State<Arc<Manager>>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Answer {
    let count = count(&asked)?;
    let place = Place::take(&manager)?;
    let has_events = wants_events(&headers);
    if has_events && headers.contains_key(LAST_EVENT) {
        // A browser that has lost its stream asks for the rest of that. There is
        // none: the source would only begin again. This answer ends its attempts.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (own, symbol, settings) = (manager.clone(), name.clone(), asked.clone());
    let config = super::work(move || configuration(&own, SymbolKind::Source, &symbol, &settings)).await?;
    let mut source = manager.host().source(&name).rule(rule()).config(config);
    if let Some(datasource) = asked.get("datasource") {
        source = source.datasource(datasource);
    }
    let source = source.open_async::<Value>().await.map_err(|error| not_opened(&manager, &error))?;
    let (mut writer, response) = stream::answer(kind(has_events));
    let end = manager.ending.watch();
    tokio::spawn(async move {
        tokio::select! {
            () = place.end() => {
                // A source that ends by itself has no such line.
                let line = in_form(&json!({ "error": ENDING }).to_string(), has_events);
                if writer.write(&line).await.is_ok() {
                    let _ = writer.flush().await;
                }
            }
            _ = pass_on(source, &mut writer, count, has_events, &end) => {}
        }
    });
    Ok(response)
}

/// Answers what would be read, but for the tuples: the source is not opened.
pub(super) async fn head(
    State(manager): State<Arc<Manager>>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Answer {
    count(&asked)?;
    super::work(move || configuration(&manager, SymbolKind::Source, &name, &asked)).await?;
    Ok(stream::response(kind(wants_events(&headers)), Body::empty()))
}

/// Checks the parameters of a request; returns the number of tuples.
fn count(asked: &Asked) -> Result<Option<u64>, Refusal> {
    check(asked, &["datasource", "config", "key", "count"])?;
    number(asked, "count")
}

fn wants_events(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).is_some_and(|kinds| kinds.contains(EVENTS))
}

fn kind(has_events: bool) -> &'static str {
    if has_events { EVENTS } else { LINES }
}

fn in_form(line: &str, has_events: bool) -> String {
    if has_events { format!("data: {line}\n\n") } else { format!("{line}\n") }
}

/// Writes tuples, until there are so many, the source ends, or the reader goes.
async fn pass_on(
    mut source: AsyncSource,
    writer: &mut Writer,
    count: Option<u64>,
    has_events: bool,
    end: &End,
) -> Result<(), Gone> {
    if has_events {
        writer.write(FIRST_EVENT).await?;
    }
    let mut tuples = 0;
    let mut is_over = false;
    while !is_over && count.is_none_or(|count| tuples < count) {
        let next = poll_fn(|context| Pin::new(&mut source).poll_next(context));
        let next = async {
            tokio::select! {
                next = next => Some(next),
                () = tokio::time::sleep(PAUSE), if has_events => None,
            }
        };
        let line = match writer.wait(next).await? {
            None => {
                writer.write(":\n\n").await?;
                continue;
            }
            Some(None) => break,
            Some(Some(Ok(Tuple { message, meta }))) => {
                tuples += 1;
                format!("{{\"message\":{message},\"meta\":{meta}}}")
            }
            Some(Some(Err(error))) => {
                is_over = !matches!(error.kind(), ErrorKind::Source | ErrorKind::Message | ErrorKind::Overrun);
                json!({ "error": words(&error, end) }).to_string()
            }
        };
        writer.write(&in_form(&line, has_events)).await?;
    }
    if has_events {
        writer.write(END_EVENT).await?;
    }
    writer.flush().await
}
