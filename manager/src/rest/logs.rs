//! `GET /logs`: the last lines of the plugins, and those that follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use ekuiper_core::printable;
use ekuiper_host::{LogLevel, LogLine};
use serde_json::json;
use tokio::sync::mpsc;

use super::extract::Query;
use super::{Answer, Refusal, stream, symbols};
use crate::Manager;
use crate::logs::{CannotFollow, Entry, Follower, Next, READERS, Wanted, next};

/// Number of lines, unless the request says another.
const LINES: usize = 100;

/// Pause after which a stream of events has an empty one, so that a proxy does
/// not take it for dead.
const PAUSE: Duration = Duration::from_secs(15);

/// Form of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A JSON object per line.
    Lines,
    /// Server-sent events.
    Events,
}

impl Form {
    fn kind(self) -> &'static str {
        match self {
            Self::Lines => symbols::LINES,
            Self::Events => symbols::EVENTS,
        }
    }
}

pub(super) async fn show(
    State(manager): State<Arc<Manager>>,
    Query(asked): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Answer {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = if accepts.contains(symbols::EVENTS) { Form::Events } else { Form::Lines };
    let (mut wanted, follows) = read(&asked)?;
    // What a browser says when it connects again.
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok()?.parse().ok());
    wanted.after = last.unwrap_or(0);
    if let Some(plugin) = &wanted.plugin
        && !manager.logs.has(plugin)
        && manager.host().status(plugin).is_err()
    {
        let text = format!("there is no plugin {}, and no line of it", printable::excerpt(plugin));
        return Err(Refusal::not_found(text));
    }
    // A stream of events goes on: a browser would only ask again.
    if !follows && form == Form::Lines {
        let lines = manager.logs.last(&wanted);
        return Ok(answer(form, Body::from(text_of(form, &lines))));
    }
    let (lines, receiver) = manager.logs.follow(&wanted).map_err(|problem| {
        let text = match problem {
            CannotFollow::TooMany => format!("{READERS} readers follow the log already"),
            CannotFollow::Ended => "the manager is ending".to_owned(),
        };
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let (pieces, body) = stream::body();
    tokio::spawn(follow(receiver, wanted, form, text_of(form, &lines), pieces));
    Ok(answer(form, body))
}

/// Reads what is asked for, and whether later lines are.
fn read(asked: &BTreeMap<String, String>) -> Result<(Wanted, bool), Refusal> {
    let mut wanted = Wanted { plugin: None, level: LogLevel::Trace, after: 0, lines: LINES };
    let mut follows = false;
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    for (name, value) in asked {
        let wrong = |is_to_be: &str| bad(format!("{name} is to be {is_to_be}, not {:?}", printable::excerpt(value)));
        match name.as_str() {
            "plugin" if value.is_empty() => {
                return Err(bad("plugin is empty: name one, or leave it out for all".into()));
            }
            "plugin" => wanted.plugin = Some(value.clone()),
            "level" => wanted.level = value.parse().map_err(|_| wrong("error, warn, info, debug or trace"))?,
            "lines" => wanted.lines = value.parse().map_err(|_| wrong("a whole number"))?,
            "follow" => match value.as_str() {
                "1" | "true" | "" => follows = true,
                "0" | "false" => follows = false,
                _ => return Err(wrong("1 or 0")),
            },
            _ => {
                let name = printable::excerpt(name);
                return Err(bad(format!("{name:?} is none of plugin, level, lines and follow")));
            }
        }
    }
    Ok((wanted, follows))
}

/// Sends later lines, until the reader goes or the manager ends.
async fn follow(mut receiver: Follower, wanted: Wanted, form: Form, first: String, pieces: mpsc::Sender<String>) {
    // Sent even if it is empty: the reader knows then that it follows.
    let mut piece = if form == Form::Events { format!(": the log\n\n{first}") } else { first };
    loop {
        if !piece.is_empty() && pieces.send(piece).await.is_err() {
            return;
        }
        piece = tokio::select! {
            () = pieces.closed() => return,
            next = next(&mut receiver, &wanted) => match next {
                Next::Line(entry) => text_of(form, &[entry]),
                Next::LeftOut(count) => in_form(form, None, &left_out(count)),
                Next::End => return,
            },
            () = tokio::time::sleep(PAUSE), if form == Form::Events => ":\n\n".to_owned(),
        };
    }
}

fn text_of(form: Form, lines: &[Arc<Entry>]) -> String {
    lines.iter().map(|entry| in_form(form, Some(entry.number), &described(&entry.line))).collect()
}

fn described(line: &LogLine) -> serde_json::Value {
    json!({
        "unix_seconds": seconds(line.time), "plugin": line.plugin, "pid": line.pid, "level": line.level,
        "line": line.text,
    })
}

/// What a reader is told that does not keep up.
fn left_out(count: u64) -> serde_json::Value {
    let text = format!("{count} lines of all plugins left out: they came faster than they were read");
    json!({
        "unix_seconds": seconds(SystemTime::now()), "plugin": null, "pid": null, "level": LogLevel::Warn, "line": text,
    })
}

/// Returns the time since 1970, in milliseconds.
fn seconds(time: SystemTime) -> f64 {
    let milliseconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    milliseconds as f64 / 1000.0
}

fn in_form(form: Form, number: Option<u64>, line: &serde_json::Value) -> String {
    match (form, number) {
        (Form::Lines, _) => format!("{line}\n"),
        (Form::Events, Some(number)) => format!("id: {number}\ndata: {line}\n\n"),
        (Form::Events, None) => format!("data: {line}\n\n"),
    }
}

fn answer(form: Form, body: Body) -> Response {
    stream::response(form.kind(), body)
}
