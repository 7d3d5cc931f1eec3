//! A message with one or more calls, from the first call to their outcomes.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{Arguments, BatchWriter, CallKind, Outcome, decode_reply, split_batch_reply};
use serde::de::DeserializeOwned;

use super::route::{FunctionConnection, FunctionRoute};
use crate::channel::Failure;
use crate::plugin::running::Running;
use crate::sync::lock;
use crate::{Error, Result};

/// Size at which a batch is sent, in bytes: large enough to amortize the cost
/// of a message, small enough for both sides to work in parallel.
pub(super) const FULL: usize = 64 << 10;

/// How calls are encoded for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) format: Format,
    pub(super) is_batch: bool,
}

impl Shape {
    pub(super) fn of(connection: &FunctionConnection) -> Self {
        Self { format: connection.format(), is_batch: connection.takes_batches() }
    }

    pub(super) fn kind(self) -> CallKind {
        if self.is_batch { CallKind::Batch } else { CallKind::Exec }
    }
}

/// A message with calls: a batch, or a single call to a plugin that does not
/// support batches.
pub(super) struct Command {
    pub(super) shape: Shape,
    id: u64,
    /// The process that it was encoded for.
    pub(super) origin: Arc<Running>,
    content: Mutex<Content>,
    outcome: OnceLock<Result<Answer>>,
}

struct Content {
    body: Body,
    /// Length of the batch after each call.
    ends: Vec<usize>,
    calls: Vec<Call>,
    reply: Option<Result<Vec<u8>, Failure>>,
}

enum Body {
    /// A batch to which calls are added.
    Open(BatchWriter),
    /// The encoded message.
    Sealed(Vec<u8>),
    /// The message is being sent, or was.
    Taken,
}

#[derive(Default)]
struct Call {
    waker: Option<Waker>,
    /// Nobody wants its result.
    is_dropped: bool,
    /// It was dropped before the message was sent.
    is_left_out: bool,
}

/// The answer to a command, with the place of each call's result in it.
struct Answer {
    format: Format,
    reply: Vec<u8>,
    outcomes: Vec<Outcome<Range<usize>>>,
}

impl Command {
    pub(super) fn batch(shape: Shape, id: u64, batch: BatchWriter, made_for: FunctionConnection) -> Self {
        Self::new(shape, id, Body::Open(batch), made_for)
    }

    /// Creates the message of a single call.
    pub(super) fn call(shape: Shape, message: Vec<u8>, made_for: FunctionConnection) -> Self {
        let command = Self::new(shape, 0, Body::Sealed(message), made_for);
        lock(&command.content).calls.push(Call::default());
        command
    }

    fn new(shape: Shape, id: u64, body: Body, made_for: FunctionConnection) -> Self {
        let content = Mutex::new(Content { body, ends: Vec::new(), calls: Vec::new(), reply: None });
        Self { shape, id, origin: made_for.running, content, outcome: OnceLock::new() }
    }

    /// Adds a call, unless the batch is full, or being sent. Returns the call's
    /// number.
    pub(super) fn add(&self, args: &impl Arguments) -> Option<ekuiper_core::Result<usize>> {
        let mut content = lock(&self.content);
        let Content { body: Body::Open(batch), ends, calls, .. } = &mut *content else { return None };
        if batch.length() >= FULL {
            return None;
        }
        Some(batch.row(args).map(|()| {
            ends.push(batch.length());
            calls.push(Call::default());
            calls.len() - 1
        }))
    }

    /// Returns the message, without the calls that were dropped; `None` if no
    /// call is left. No call can be added from then on.
    pub(super) fn seal(&self) -> Option<Vec<u8>> {
        let mut content = lock(&self.content);
        let Content { body, ends, calls, .. } = &mut *content;
        if calls.iter().all(|call| call.is_dropped) {
            *body = Body::Taken;
            return None;
        }
        match std::mem::replace(body, Body::Taken) {
            Body::Open(mut batch) => {
                if calls.iter().any(|call| call.is_dropped) {
                    calls.iter_mut().for_each(|call| call.is_left_out = call.is_dropped);
                    batch.retain(ends, |row| !calls[row].is_left_out);
                }
                Some(batch.finish())
            }
            Body::Sealed(message) => Some(message),
            Body::Taken => None,
        }
    }

    /// Takes a message back that could not be sent.
    pub(super) fn put_back(&self, message: Vec<u8>) {
        lock(&self.content).body = Body::Sealed(message);
    }

    /// Returns the number of calls that are sent.
    pub(super) fn rows(&self) -> usize {
        lock(&self.content).calls.iter().filter(|call| !call.is_left_out).count()
    }

    pub(super) fn is_one_call(&self) -> bool {
        lock(&self.content).calls.len() == 1
    }

    pub(super) fn has_waker(&self) -> bool {
        lock(&self.content).calls.iter().any(|call| call.waker.is_some())
    }

    /// Stores the reply, or its failure, for the pipeline.
    pub(super) fn keep_reply(&self, reply: Result<Vec<u8>, Failure>) {
        lock(&self.content).reply = Some(reply);
    }

    pub(super) fn has_reply(&self) -> bool {
        lock(&self.content).reply.is_some()
    }

    pub(super) fn take_reply(&self) -> Option<Result<Vec<u8>, Failure>> {
        lock(&self.content).reply.take()
    }

    /// Reads the reply, and gives each call its outcome.
    pub(super) fn land(&self, route: &FunctionRoute, reply: Vec<u8>) {
        self.settle(self.read(route, reply));
    }

    fn read(&self, route: &FunctionRoute, reply: Vec<u8>) -> Result<Answer> {
        let format = self.shape.format;
        if !self.shape.is_batch {
            return Ok(Answer { format, reply, outcomes: Vec::new() });
        }
        let message = |source: ekuiper_core::Error| Error::Message {
            what: route.what(CallKind::Batch).answered(),
            source: source.into(),
        };
        let split = split_batch_reply(format, &reply, self.id, self.rows() as u32).map_err(message)?;
        let outcomes = split.map_err(|text| route.failed(text))?;
        let start = reply.as_ptr().addr();
        let place = |result: &[u8]| {
            let from = result.as_ptr().addr() - start;
            from..from + result.len()
        };
        let mut places = outcomes.into_iter().map(|outcome| outcome.map(place));
        let content = lock(&self.content);
        // The calls that were left out have no outcome, and nobody asks for it.
        let of = |call: &Call| if call.is_left_out { Some(Ok(0..0)) } else { places.next() };
        let outcomes = content.calls.iter().map_while(of).collect();
        drop(content);
        Ok(Answer { format, reply, outcomes })
    }

    /// Gives each call this error.
    pub(super) fn fail(&self, error: Error) {
        self.settle(Err(error));
    }

    fn settle(&self, outcome: Result<Answer>) {
        // A command is settled once.
        let _ = self.outcome.set(outcome);
        let mut content = lock(&self.content);
        content.body = Body::Taken;
        let wakers: Vec<_> = content.calls.iter_mut().filter_map(|call| call.waker.take()).collect();
        drop(content);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns whether the calls have their outcomes.
    pub(super) fn is_settled(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Returns the outcome of a call, if it is there.
    pub(super) fn outcome<R: DeserializeOwned>(&self, route: &FunctionRoute, row: usize) -> Option<Result<R>> {
        let answer = match self.outcome.get()? {
            Ok(answer) => answer,
            Err(error) => return Some(Err(error.clone())),
        };
        let message = |source: ekuiper_core::Error| Error::Message {
            what: route.what(CallKind::Exec).answered(),
            source: source.into(),
        };
        if !self.shape.is_batch {
            return Some(match decode_reply(answer.format, &answer.reply) {
                Ok(outcome) => outcome.map_err(|text| route.failed(text)),
                Err(source) => Err(message(source)),
            });
        }
        let result = match answer.outcomes.get(row)? {
            Ok(place) => answer.format.decode(&answer.reply[place.clone()]),
            Err(text) => return Some(Err(route.failed(text.clone()))),
        };
        let wrong = |source| message(ekuiper_core::Error::Message { what: "the function's result", source });
        Some(result.map_err(wrong))
    }

    /// Has `waker` woken when the call has its outcome. Returns false if it has
    /// one.
    pub(super) fn wake_when_settled(&self, row: usize, waker: &Waker) -> bool {
        let mut content = lock(&self.content);
        // Checked under the lock, which whoever settles takes afterwards.
        if self.is_settled() {
            return false;
        }
        match &mut content.calls[row].waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }

    /// Drops a call: it is not sent, if it was not yet.
    pub(super) fn drop_call(&self, row: usize) {
        let call = &mut lock(&self.content).calls[row];
        (call.is_dropped, call.waker) = (true, None);
    }
}
