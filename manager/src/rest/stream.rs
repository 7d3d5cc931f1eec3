//! Bodies that come and go in pieces: lines of a request, and answers that have
//! no end of their own.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::body::BROKE_OFF;
use super::ending::{ENDING, is_ending};
use super::{Refusal, unique};
use crate::Manager;
use crate::ending::{End, STREAMS, Stage};

/// Number of pieces of an answer that are made before the reader takes them.
const AHEAD: usize = 16;

/// Length from which a piece is not added to, in bytes.
const FULL: usize = 16 << 10;

/// Maximum time for which an answer waits for a client that waits for the word.
const WORD: Duration = Duration::from_secs(1);

/// Maximum length of a line of a request, in bytes.
const LONGEST: usize = 1 << 20;

/// Returns an answer of this content type, and what writes it.
pub(super) fn answer(kind: &'static str) -> (Writer, Response) {
    let (pieces, body) = body();
    (Writer { pieces, piece: String::new() }, response(kind, body))
}

/// Returns a body, and what its pieces are sent to.
pub(super) fn body() -> (mpsc::Sender<String>, Body) {
    let (pieces, stream) = mpsc::channel(AHEAD);
    (pieces, Body::from_stream(Pieces(stream)))
}

/// Returns an answer that no browser keeps, or takes for anything else.
pub(super) fn response(kind: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

/// Pieces of a body, as they come.
struct Pieces(mpsc::Receiver<String>);

impl Stream for Pieces {
    type Item = Result<String, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(Ok))
    }
}

/// The reader of an answer has gone.
#[derive(Debug)]
pub(super) struct Gone;

/// Writes an answer.
pub(super) struct Writer {
    pieces: mpsc::Sender<String>,
    piece: String,
}

impl Writer {
    /// Adds text, which is sent with what follows at once.
    pub(super) async fn write(&mut self, text: &str) -> Result<(), Gone> {
        self.piece.push_str(text);
        if self.piece.len() < FULL { Ok(()) } else { self.flush().await }
    }

    /// Sends what was added. Nothing is lost if that is given up.
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let room = self.pieces.reserve().await.map_err(|_| Gone)?;
        room.send(std::mem::take(&mut self.piece));
        Ok(())
    }

    /// Waits for `next`. If it takes time, what was added is sent first; fails if
    /// the reader goes meanwhile.
    pub(super) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<T, Gone> {
        let mut next = std::pin::pin!(next);
        tokio::select! {
            biased;
            next = &mut next => return Ok(next),
            () = std::future::ready(()) => {}
        }
        self.flush().await?;
        tokio::select! {
            biased;
            next = next => Ok(next),
            () = self.pieces.closed() => Err(Gone),
        }
    }
}

/// Takes the lines of a request, and writes the answer to its end meanwhile.
pub(super) async fn exchange(take: impl Future<Output = ()>, write: impl Future<Output = Result<(), Gone>>) {
    let mut take = std::pin::pin!(take);
    let mut write = std::pin::pin!(write);
    tokio::select! {
        // A reader that has gone ends both.
        _ = &mut write => {}
        () = &mut take => drop(write.await),
    }
}

/// Place of an answer that may have no end of its own.
pub(super) struct Place {
    end: End,
    #[expect(dead_code, reason = "it is given back when this is dropped")]
    permit: OwnedSemaphorePermit,
}

impl Place {
    /// Takes a place, unless all are taken, or the manager ends.
    pub(super) fn take(manager: &Manager) -> Result<Self, Refusal> {
        let end = manager.ending.watch();
        if end.has_come(Stage::Ending) {
            return Err(is_ending("and nothing is begun any more"));
        }
        let Some(permit) = manager.ending.stream() else {
            let text = format!("{STREAMS} sources, sinks and functions are in use by requests: try again later");
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
        };
        Ok(Self { end, permit })
    }

    /// Waits until the manager ends such answers.
    pub(super) async fn end(self) {
        self.end.comes(Stage::Ending).await;
    }
}

/// The lines of a request's body, until the manager ends.
pub(super) struct Lines<E> {
    body: BodyDataStream,
    end: Pin<Box<E>>,
    buffer: Vec<u8>,
    /// What of the buffer was returned already.
    read: usize,
    /// What of the buffer has no end of a line.
    searched: usize,
    /// Number of lines that were returned.
    count: u64,
    is_over: bool,
    /// Why the rest does not come, until that is returned.
    broken_off: Option<String>,
    hint: &'static str,
}

/// What comes next of a body.
pub(super) enum Line {
    Json(Value),
    /// A line that is not JSON, and the sentence that says so.
    Bad(String),
    /// The rest of the body does not come, and the sentence that says so.
    BrokenOff(String),
}

/// Returns whether the client sends no body before it is told to, or has waited
/// for a while: curl does so with a large one.
fn expects_word(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl<E: Future> Lines<E> {
    /// Returns the lines of a body that come before `end`; `hint` is added to
    /// what is said of those that are not JSON. A client that
    /// [waits](expects_word) for the word to send its body gets it first: it is
    /// said by reading, and not after the answer has begun.
    pub(super) async fn of(body: Body, end: E, headers: &HeaderMap, hint: &'static str) -> Self {
        let (body, end) = (body.into_data_stream(), Box::pin(end));
        let (buffer, broken_off) = Default::default();
        let mut lines = Self { body, end, buffer, read: 0, searched: 0, count: 0, is_over: false, broken_off, hint };
        if expects_word(headers) {
            // One that sends nothing then is answered as any other.
            let _ = tokio::time::timeout(WORD, lines.fill()).await;
        }
        lines
    }

    /// Reads the next piece.
    async fn fill(&mut self) {
        let next = poll_fn(|context| Pin::new(&mut self.body).poll_next(context));
        let next = tokio::select! {
            biased;
            _ = &mut self.end => Some(Err(ENDING.to_owned())),
            next = next => next.map(|next| next.map_err(|_| format!("the body {BROKE_OFF}"))),
        };
        match next {
            Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
            None => self.is_over = true,
            // Half a line may look like a whole one.
            Some(Err(problem)) => {
                self.is_over = true;
                self.buffer.clear();
                self.searched = 0;
                self.broken_off = Some(self.nothing_after(0, &problem));
            }
        }
    }

    /// Returns the sentence of what has ended the exchange, where this many of the
    /// lines that were returned were not taken.
    pub(super) fn nothing_after(&self, not_taken: u64, problem: &str) -> String {
        format!("{problem}; nothing after line {} was taken", self.count - not_taken)
    }

    /// Returns the next line that is not blank, without its end. `None` at the
    /// end of the body.
    pub(super) async fn next(&mut self) -> Option<Line> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let line = match end {
                Some(at) => {
                    let line = self.read..self.searched + at;
                    (self.read, self.searched) = (line.end + 1, line.end + 1);
                    line
                }
                None if self.is_over && self.read < self.buffer.len() => {
                    let line = self.read..self.buffer.len();
                    (self.read, self.searched) = (line.end, line.end);
                    line
                }
                None if self.is_over => return self.broken_off.take().map(Line::BrokenOff),
                None => {
                    self.buffer.drain(..std::mem::take(&mut self.read));
                    self.searched = self.buffer.len();
                    if self.searched > LONGEST {
                        self.is_over = true;
                        self.buffer.clear();
                        self.searched = 0;
                        let text = format!("the line has more than {LONGEST} bytes: it and the rest are not read");
                        return Some(Line::Bad(text));
                    }
                    self.fill().await;
                    continue;
                }
            };
            let text = self.buffer[line].trim_ascii();
            if !text.is_empty() {
                self.count += 1;
                return Some(match unique::value(text) {
                    Ok(json) => Line::Json(json),
                    Err(problem) if problem.is_data() => Line::Bad(format!("the line cannot be taken: {problem}")),
                    Err(problem) => Line::Bad(format!("the line is not JSON: {problem}{}", self.hint)),
                });
            }
        }
    }
}
