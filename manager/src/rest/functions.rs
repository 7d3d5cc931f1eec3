//! `POST /functions/{name}`: one call, or one for each line of the body.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use ekuiper_core::printable::excerpt;
use ekuiper_host::{CallOptions, FunctionPool, PooledCall};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::ending::ENDING;
use super::extract::{Path, Query};
use super::stream::{self, Gone, Line, Lines, Place, Writer};
use super::symbols::{
    Asked, LINES, bad, call_refused, check, content_type, fate, lines_hint, not_opened, number, words,
};
use super::{Answer, body, json as answer, unique};
use crate::Manager;
use crate::ending::End;

/// Number of calls that are made before the first of them is answered.
const AHEAD: usize = 256;

pub(super) async fn call(
    State(manager): State<Arc<Manager>>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    check(&asked, &["timeout", "ordered"])?;
    let timeout = match number(&asked, "timeout")? {
        Some(0) => return Err(bad("timeout is to be at least 1, in milliseconds".to_owned())),
        milliseconds => milliseconds.map(Duration::from_millis),
    };
    let is_ordered = match asked.get("ordered").map(String::as_str) {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => return Err(bad(format!("ordered is to be true or false, not {:?}", excerpt(other)))),
    };
    let function = manager.functions.get(manager.host(), &name).await;
    let function = function.map_err(|error| not_opened(&manager, &error))?;
    let options = function.options();
    let end = manager.ending.watch();
    if content_type(&headers).eq_ignore_ascii_case(LINES) {
        // Not from the moment at which a line is read: it waits for those before.
        let options = timeout.map_or(options, |time| options.answer_within(time).batch_rows(1));
        let place = Place::take(&manager)?;
        // There is no hint: its content type is that of lines.
        let lines = Lines::of(body, place.end(), &headers, "").await;
        return Ok(call_lines(lines, function, options, is_ordered, end));
    }
    let options = timeout.map_or(options, |time| options.deadline(time));
    let bytes = body::read(&manager, body).await?;
    let arguments = unique::list(&bytes).map_err(|problem| {
        let hint = if problem.is_data() { "" } else { lines_hint(&headers) };
        bad(format!("the arguments are to be a JSON array: {problem}{hint}"))
    })?;
    let calls = FunctionPool::clone(&function).with_options(options);
    let called = calls.call_async::<Value>(arguments.as_slice());
    let refused = |error: ekuiper_host::Error| call_refused(&error, &end);
    answer(&called.map_err(refused)?.await.map_err(refused)?)
}

/// A line, and the call that was made for it.
type Called = Result<PooledCall<Value>, Uncalled>;

/// Why there is no call for a line.
enum Uncalled {
    Refused(ekuiper_host::Error),
    /// The line is none of arguments, or the rest does not come.
    NoCall(String),
}

/// Calls the function for each line, in order, while the answers to the lines
/// before are written.
fn call_lines<E: Future + Send + 'static>(
    lines: Lines<E>,
    function: Arc<FunctionPool>,
    options: CallOptions,
    is_ordered: bool,
    end: End,
) -> Response {
    let (writer, response) = stream::answer(LINES);
    let (calls, called) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let pool = FunctionPool::clone(&function).with_options(options);
        let make = make_all(lines, &pool, calls);
        match is_ordered {
            true => stream::exchange(make, answer_in_order(called, writer, &end)).await,
            false => stream::exchange(make, answer_as_they_come(called, writer, &end)).await,
        }
    });
    response
}

async fn make_all<E: Future>(mut lines: Lines<E>, function: &FunctionPool, calls: mpsc::Sender<Called>) {
    while let Some(line) = lines.next().await {
        let call = match line {
            Line::Json(Value::Array(arguments)) => function.call_async(arguments.as_slice()).map_err(Uncalled::Refused),
            Line::Json(_) => Err(Uncalled::NoCall("the line is no JSON array of arguments".to_owned())),
            Line::Bad(problem) | Line::BrokenOff(problem) => Err(Uncalled::NoCall(problem)),
        };
        if calls.send(call).await.is_err() {
            return;
        }
    }
}

async fn answer_in_order(mut called: mpsc::Receiver<Called>, mut writer: Writer, end: &End) -> Result<(), Gone> {
    while let Some(call) = writer.wait(called.recv()).await? {
        let line = writer.wait(outcome_of(call, end)).await?;
        writer.write(&format!("{line}\n")).await?;
    }
    writer.flush().await
}

/// Writes each answer when it is there, with the number of its line.
async fn answer_as_they_come(mut called: mpsc::Receiver<Called>, mut writer: Writer, end: &End) -> Result<(), Gone> {
    // Dropped with its calls, if the reader goes.
    let mut under_way = JoinSet::new();
    let mut row = 0u64;
    let mut is_over = false;
    loop {
        let has_room = !is_over && under_way.len() < AHEAD;
        let next = async {
            tokio::select! {
                biased;
                Some(done) = under_way.join_next() => Next::Done(done),
                call = called.recv(), if has_room => Next::Call(call),
                else => Next::End,
            }
        };
        match writer.wait(next).await? {
            Next::Call(Some(call)) => {
                row += 1;
                let end = end.clone();
                under_way.spawn(async move { (row, outcome_of(call, &end).await) });
            }
            Next::Call(None) => is_over = true,
            Next::Done(Ok((row, mut line))) => {
                line["row"] = json!(row);
                writer.write(&format!("{line}\n")).await?;
            }
            Next::Done(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Next::End => return writer.flush().await,
        }
    }
}

/// What comes next of calls that are answered as they come.
enum Next<T> {
    Call(Option<Called>),
    Done(Result<T, JoinError>),
    End,
}

/// Waits for a call; returns the line that tells of it.
async fn outcome_of(call: Called, end: &End) -> Value {
    let outcome = match call {
        Ok(call) => call.await.map_err(Uncalled::Refused),
        Err(uncalled) => Err(uncalled),
    };
    match outcome {
        Ok(result) => json!({ "result": result }),
        Err(Uncalled::NoCall(problem)) => json!({ "error": problem }),
        Err(Uncalled::Refused(error)) => match fate(&error, end) {
            Some(fate) => json!({ "error": format!("{ENDING}, {fate}") }),
            None => json!({ "error": words(&error, end) }),
        },
    }
}
