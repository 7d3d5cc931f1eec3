//! `POST /sinks/{name}`: rows for a sink, and what became of each.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use ekuiper_host::{AsyncSink, Error, ErrorDelivery, PendingAck, SymbolKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Answer;
use super::extract::{Path, Query};
use super::stream::{self, Gone, Line, Lines, Place, Writer};
use super::symbols::{Asked, LINES, check, configuration, lines_hint, not_opened, rule, words};
use crate::Manager;
use crate::ending::{End, Stage};

/// Number of rows that are sent before the first of them is acknowledged.
const AHEAD: usize = 256;

const NOT_SENT: ErrorDelivery = ErrorDelivery::NotSent;

pub(super) async fn feed(
    State(manager): State<Arc<Manager>>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    check(&asked, &["config", "key"])?;
    let place = Place::take(&manager)?;
    let (own, symbol) = (manager.clone(), name.clone());
    let config = super::work(move || configuration(&own, SymbolKind::Sink, &symbol, &asked)).await?;
    let sink = manager.host().sink(&name).rule(rule()).config(config).require_ack(true);
    let sink = sink.open_async().await.map_err(|error| not_opened(&manager, &error))?;
    let end = manager.ending.watch();
    let sink = OpenSink { sink: Some(sink), end: end.clone() };
    let lines = Lines::of(body, place.end(), &headers, lines_hint(&headers)).await;
    let (writer, response) = stream::answer(LINES);
    let (posts, posted) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let send = send_all(lines, sink, posts);
        stream::exchange(send, answer_all(posted, writer, &end)).await;
    });
    Ok(response)
}

/// A sink that is drained and stopped, whatever ends its use; when the host is
/// shut down, it is drained no longer.
struct OpenSink {
    /// Absent once it is being closed.
    sink: Option<AsyncSink>,
    end: End,
}

impl OpenSink {
    /// Sends a row, or an array of rows.
    async fn post(&mut self, row: &Value) -> Result<PendingAck, (ErrorDelivery, Error)> {
        let Some(sink) = &mut self.sink else { return Err((NOT_SENT, Error::Stopped)) };
        let before = sink.delivery().sent;
        let posted = sink.post(row).await;
        // The error may be that of an earlier row, or of the sink's end.
        let was_sent = sink.delivery().sent > before;
        posted.map_err(|error| (if was_sent { error.delivery() } else { NOT_SENT }, error))
    }

    /// Drains and stops the sink, which goes on if this is given up.
    async fn close(mut self) -> Result<(), Error> {
        match self.begin_close() {
            Some(closed) => closed.await.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }

    fn begin_close(&mut self) -> Option<JoinHandle<Result<(), Error>>> {
        let (sink, end) = (self.sink.take()?, self.end.clone());
        let stopper = sink.stopper();
        Some(tokio::spawn(async move { end.cuts(Stage::Shutdown, sink.close(), || stopper.abandon()).await }))
    }
}

impl Drop for OpenSink {
    fn drop(&mut self) {
        drop(self.begin_close());
    }
}

/// A row on its way, or an error that is not one of a row.
enum Posted {
    Row(Result<PendingAck, (ErrorDelivery, String)>),
    Error(String),
}

async fn send_all<E: Future>(mut lines: Lines<E>, mut sink: OpenSink, posts: mpsc::Sender<Posted>) {
    while let Some(line) = lines.next().await {
        let post = match line {
            Line::Json(row @ (Value::Object(_) | Value::Array(_))) => match sink.post(&row).await {
                // None of the rest is sent either.
                Err((NOT_SENT, error @ Error::Stopped)) => {
                    let _ = posts.send(Posted::Error(lines.nothing_after(1, &words(&error, &sink.end)))).await;
                    break;
                }
                posted => Posted::Row(posted.map_err(|(delivery, error)| (delivery, words(&error, &sink.end)))),
            },
            Line::Json(_) => not_sent("the line is neither a JSON object nor an array of rows".to_owned()),
            Line::Bad(problem) => not_sent(problem),
            Line::BrokenOff(problem) => Posted::Error(problem),
        };
        if posts.send(post).await.is_err() {
            return;
        }
    }
    let end = sink.end.clone();
    if let Err(error) = sink.close().await {
        let _ = posts.send(Posted::Error(words(&error, &end))).await;
    }
}

fn not_sent(problem: String) -> Posted {
    Posted::Row(Err((NOT_SENT, problem)))
}

async fn answer_all(mut posted: mpsc::Receiver<Posted>, mut writer: Writer, end: &End) -> Result<(), Gone> {
    let mut row = 0;
    while let Some(post) = writer.wait(posted.recv()).await? {
        let outcome = match post {
            Posted::Error(error) => {
                writer.write(&format!("{}\n", json!({ "error": error }))).await?;
                continue;
            }
            Posted::Row(Ok(ack)) => writer.wait(ack).await?.map_err(|error| (error.delivery(), words(&error, end))),
            Posted::Row(Err(problem)) => Err(problem),
        };
        row += 1;
        let line = match outcome {
            Ok(()) => json!({ "row": row, "state": "acked" }),
            Err((ErrorDelivery::Unknown, error)) => json!({ "row": row, "state": "unknown", "error": error }),
            Err((_, error)) => json!({ "row": row, "state": "failed", "error": error }),
        };
        writer.write(&format!("{line}\n")).await?;
    }
    writer.flush().await
}
