//! `POST /sinks/{name}`: rows for a sink, and what became of each.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use ekuiper_core::Chain;
use ekuiper_host::{AsyncSink, ErrorDelivery, PendingAck, SymbolKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Answer;
use super::extract::{Path, Query};
use super::stream::{self, Gone, Line, Lines, Place, Writer};
use super::symbols::{Asked, LINES, check, configuration, lines_hint, not_opened, rule};
use crate::Manager;

/// Number of rows that are sent before the first of them is acknowledged.
const AHEAD: usize = 256;

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
    let lines = Lines::of(body, place.end(), &headers, lines_hint(&headers)).await;
    let (writer, response) = stream::answer(LINES);
    let (posts, posted) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        // Dropping the sink drains and stops it, whatever ends this.
        let send = send_all(lines, sink, posts);
        stream::exchange(send, answer_all(posted, writer)).await;
    });
    Ok(response)
}

/// A row on its way, or an error that is not one of a row.
enum Posted {
    Row(Result<PendingAck, (ErrorDelivery, String)>),
    Error(String),
}

async fn send_all<E: Future>(mut lines: Lines<E>, mut sink: AsyncSink, posts: mpsc::Sender<Posted>) {
    while let Some(line) = lines.next().await {
        let post = match line {
            Line::Json(row @ (Value::Object(_) | Value::Array(_))) => {
                Posted::Row(sink.post(&row).await.map_err(|error| state(&error)))
            }
            Line::Json(_) => not_sent("the line is neither a JSON object nor an array of rows".to_owned()),
            Line::Bad(problem) => not_sent(problem),
            Line::BrokenOff(problem) => Posted::Error(problem),
        };
        if posts.send(post).await.is_err() {
            return;
        }
    }
    if let Err(error) = sink.close().await {
        let (_, text) = state(&error);
        let _ = posts.send(Posted::Error(text)).await;
    }
}

fn not_sent(problem: String) -> Posted {
    Posted::Row(Err((ErrorDelivery::NotSent, problem)))
}

fn state(error: &ekuiper_host::Error) -> (ErrorDelivery, String) {
    (error.delivery(), Chain(error).to_string())
}

async fn answer_all(mut posted: mpsc::Receiver<Posted>, mut writer: Writer) -> Result<(), Gone> {
    let mut row = 0;
    while let Some(post) = writer.wait(posted.recv()).await? {
        let outcome = match post {
            Posted::Error(error) => {
                writer.write(&format!("{}\n", json!({ "error": error }))).await?;
                continue;
            }
            Posted::Row(Ok(ack)) => writer.wait(ack).await?.map_err(|error| state(&error)),
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
