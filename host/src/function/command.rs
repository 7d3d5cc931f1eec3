//! A message with one or more calls, from the first call to their outcomes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Instant;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{
    Arguments, BatchWriter, CallKind, Outcome, decode_reply, renumber_columns_call, split_batch_reply,
};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::options::{Due, Terms};
use super::route::{FunctionConnection, FunctionRoute, columns_of, next_batch};
use crate::channel::Failure;
use crate::health::vitals::Vitals;
use crate::plugin::running::Running;
use crate::sync::{lock, wake_tasks};
use crate::{Error, ErrorDelivery, Result};

/// Size at which a batch is sent, in bytes: large enough to amortize the cost
/// of a message, small enough for both sides to work in parallel.
pub(super) const FULL: usize = 64 << 10;

/// How calls are encoded for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) format: Format,
    pub(super) kind: CallKind,
}

impl Shape {
    /// Of calls with rows.
    pub(super) fn of(connection: &FunctionConnection) -> Self {
        let kind = if connection.takes_batches() { CallKind::Batch } else { CallKind::Exec };
        Self { format: connection.format(), kind }
    }

    /// Of calls with columns; `None` if the process takes none.
    pub(super) fn of_columns(connection: &FunctionConnection) -> Option<Self> {
        connection.takes_columns().then(|| Self { format: connection.format(), kind: CallKind::Columns })
    }

    /// Returns whether a process reads it.
    pub(super) fn fits(self, connection: &FunctionConnection) -> bool {
        match self.kind {
            CallKind::Columns => Self::of_columns(connection) == Some(self),
            _ => Self::of(connection) == self,
        }
    }

    pub(super) fn is_batch(self) -> bool {
        self.kind == CallKind::Batch
    }

    /// Returns whether the message has a number, by which it is cancelled.
    fn has_number(self) -> bool {
        self.kind != CallKind::Exec
    }
}

/// A message with calls: a batch, a single call to a plugin that does not
/// support batches, or a single call with columns.
pub(super) struct Command {
    pub(super) shape: Shape,
    pub(super) terms: Terms,
    symbol: Arc<str>,
    /// The process that it was encoded for.
    pub(super) origin: Arc<Running>,
    content: Mutex<Content>,
    outcome: OnceLock<Result<Answer>>,
    /// Calls have errors of their own.
    has_errors: AtomicBool,
    /// Why it is sent a second time.
    first_failure: OnceLock<Error>,
    /// When its first call was made.
    pub(super) since: Instant,
    vitals: Arc<Vitals>,
}

struct Content {
    body: Body,
    /// Number of the batch. It is sent once: a second sending has another.
    id: u64,
    /// The process that may be executing the calls.
    executor: Option<Arc<Running>>,
    /// Length of the batch after each call.
    ends: Vec<usize>,
    calls: Vec<Call>,
    reply: Option<Result<Vec<u8>, Failure>>,
    /// Bytes counted as [waiting](crate::site::Site::waiting_calls).
    waiting: usize,
    /// The first deadline of its calls.
    first_due: Option<Instant>,
    /// The message, once it was sent, if it may be sent again.
    sent: Option<Vec<u8>>,
    was_sent: bool,
    /// The outcomes of its calls are counted.
    is_counted: bool,
}

enum Body {
    /// A batch to which calls are added.
    Open(BatchWriter),
    /// The encoded message of a single call.
    Sealed(Vec<u8>),
    /// The message is being sent, or was; with the writer of a batch.
    Taken(Option<BatchWriter>),
}

#[derive(Default)]
struct Call {
    waker: Option<Waker>,
    due: Option<Due>,
    /// Outcome of this call alone.
    error: Option<Box<Error>>,
    /// Its result is not wanted: its future was dropped, or its deadline has
    /// passed.
    is_dropped: bool,
    /// It was dropped before the message was sent.
    is_left_out: bool,
    /// Its row in the message.
    place: u32,
}

/// The answer to a command, with the place of each call's result in it.
struct Answer {
    format: Format,
    reply: Vec<u8>,
    outcomes: Vec<Outcome<Range<usize>>>,
}

impl Command {
    pub(super) fn batch(
        shape: Shape,
        terms: Terms,
        id: u64,
        batch: BatchWriter,
        made_for: FunctionConnection,
        due: Option<Due>,
        route: &FunctionRoute,
    ) -> Self {
        let length = batch.length();
        let command = Self::new(shape, terms, id, Body::Open(batch), made_for, route);
        let mut content = lock(&command.content);
        content.ends.push(length);
        command.push_call(&mut content, due, length);
        drop(content);
        command
    }

    /// Creates the message of a single call; `id` is 0 if it has no number.
    pub(super) fn call(
        shape: Shape,
        terms: Terms,
        id: u64,
        message: Vec<u8>,
        due: Option<Due>,
        made_for: FunctionConnection,
        route: &FunctionRoute,
    ) -> Self {
        let length = message.len();
        let command = Self::new(shape, terms, id, Body::Sealed(message), made_for, route);
        command.push_call(&mut lock(&command.content), due, length);
        command
    }

    fn new(
        shape: Shape,
        terms: Terms,
        id: u64,
        body: Body,
        made_for: FunctionConnection,
        route: &FunctionRoute,
    ) -> Self {
        let content = Mutex::new(Content {
            body,
            id,
            executor: None,
            ends: Vec::new(),
            calls: Vec::new(),
            reply: None,
            waiting: 0,
            first_due: None,
            sent: None,
            was_sent: false,
            is_counted: false,
        });
        let (outcome, has_errors, first_failure) = Default::default();
        let (since, vitals) = (Instant::now(), route.counted.vitals().clone());
        let symbol = route.symbol.clone();
        Self {
            shape,
            terms,
            symbol,
            origin: made_for.running,
            content,
            outcome,
            has_errors,
            first_failure,
            since,
            vitals,
        }
    }

    /// Adds a call, unless the batch is full, would be longer than a message may
    /// be, or is being sent. Returns the call's number.
    pub(super) fn add(&self, args: &impl Arguments, due: Option<Due>) -> Option<ekuiper_core::Result<usize>> {
        let mut content = lock(&self.content);
        let Content { body: Body::Open(batch), ends, calls, .. } = &mut *content else { return None };
        let before = batch.length();
        if before >= FULL || batch.rows() >= self.terms.max_rows || self.first_failure.get().is_some() {
            return None;
        }
        match batch.row_within(args, self.origin.site.options.max_message) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return None,
            Err(error) => return Some(Err(error)),
        }
        let (row, length) = (calls.len(), batch.length());
        ends.push(length);
        self.push_call(&mut content, due, length - before);
        Some(Ok(row))
    }

    /// Adds a call of this length, and counts its bytes as waiting.
    fn push_call(&self, content: &mut Content, due: Option<Due>, length: usize) {
        let place = content.calls.len() as u32;
        content.calls.push(Call { due, place, ..Call::default() });
        if let Some(due) = due {
            content.first_due = Some(content.first_due.map_or(due.at, |first| first.min(due.at)));
        }
        let waiting = length + size_of::<Call>();
        content.waiting += waiting;
        self.origin.site.waiting_calls.fetch_add(waiting, Ordering::Relaxed);
    }

    /// Counts the bytes of the calls as waiting no more.
    fn end_waiting(&self, content: &mut Content) {
        self.origin.site.waiting_calls.fetch_sub(std::mem::take(&mut content.waiting), Ordering::Relaxed);
    }

    /// Returns the message, without the calls that were dropped; `None` if no
    /// call is left. No call can be added from then on, unless the message is
    /// [put back](Command::put_back).
    pub(super) fn seal(&self) -> Option<Vec<u8>> {
        let mut content = lock(&self.content);
        let Content { body, ends, calls, .. } = &mut *content;
        if calls.iter().all(|call| call.is_dropped) {
            *body = Body::Taken(None);
            self.end_waiting(&mut content);
            content.is_counted = true;
            self.vitals.given_up(content.calls.len() as u64);
            // No caller is left, but a pool may count the command.
            let _ = self.outcome.set(Err(Error::Stopped));
            return None;
        }
        let (taken, message) = match std::mem::replace(body, Body::Taken(None)) {
            Body::Open(mut batch) => {
                if calls.iter().any(|call| call.is_dropped && !call.is_left_out) {
                    let mut places = 0..;
                    for call in calls.iter_mut() {
                        call.is_left_out = call.is_dropped;
                        call.place = if call.is_left_out { 0 } else { places.next().unwrap_or_default() };
                    }
                    batch.retain(ends, |row| !calls[row].is_left_out);
                }
                let message = batch.lend();
                (Some(batch), Some(message))
            }
            Body::Sealed(message) => (None, Some(message)),
            Body::Taken(batch) => (batch, None),
        };
        *body = Body::Taken(taken);
        message
    }

    /// Takes a message back that could not be sent.
    pub(super) fn put_back(&self, message: Vec<u8>) {
        let body = &mut lock(&self.content).body;
        *body = match std::mem::replace(body, Body::Taken(None)) {
            Body::Taken(Some(mut batch)) => {
                batch.take_back(message);
                Body::Open(batch)
            }
            _ => Body::Sealed(message),
        };
    }

    /// Records that the message was sent to a process. Returns its buffer, unless
    /// it may have to be sent again.
    pub(super) fn mark_sent(&self, message: Vec<u8>, executor: &Arc<Running>) -> Option<Vec<u8>> {
        let mut content = lock(&self.content);
        self.end_waiting(&mut content);
        content.was_sent = true;
        content.executor = Some(executor.clone());
        // What happened while it was being sent.
        if self.is_settled() {
            self.note_cancel(&content, None);
        }
        for call in content.calls.iter().filter(|call| call.is_dropped && !call.is_left_out) {
            self.note_cancel(&content, Some(call.place));
        }
        if self.terms.is_idempotent && !self.is_settled() {
            content.sent = Some(message);
            return None;
        }
        Some(message)
    }

    /// Records that a call in this row, or all calls, are not wanted any more, if
    /// they may be being executed. The process is to be
    /// [told](Running::post_cancels).
    fn note_cancel(&self, content: &Content, row: Option<u32>) {
        // Noted under the lock that the answer takes: once that is there, the
        // next batch may be sent, and its cancels are not to be replaced.
        if let Some(executor) = content.executor.as_ref().filter(|_| self.shape.has_number() && content.reply.is_none())
        {
            executor.note_cancel(&self.symbol, content.id, row);
        }
    }

    /// Cancels all calls that may be being executed.
    pub(super) fn cancel(&self) {
        self.note_cancel(&lock(&self.content), None);
    }

    /// Makes the command one to be sent again after this failure, if it may be
    /// executed twice, and was not sent twice before.
    ///
    /// # Errors
    /// The failure.
    pub(super) fn repeat(&self, failure: Error, route: &FunctionRoute) -> Result<()> {
        let mut content = lock(&self.content);
        let message = content.sent.take();
        drop(content);
        match message.filter(|_| !self.is_settled() && self.first_failure.get().is_none()) {
            Some(message) => {
                tracing::debug!(error = %failure, "an idempotent call is made again");
                let _ = self.first_failure.set(failure);
                self.put_back(message);
                let mut content = lock(&self.content);
                let Content { body, id, ends, .. } = &mut *content;
                match body {
                    Body::Open(batch) => {
                        *id = next_batch();
                        batch.renumber(*id, &route.encoded_meta, ends);
                    }
                    Body::Sealed(message) if self.shape.kind == CallKind::Columns => {
                        *id = next_batch();
                        renumber_columns_call(message, *id);
                    }
                    _ => {}
                }
                Ok(())
            }
            None => Err(failure),
        }
    }

    /// Fails the calls whose deadline has passed. Returns the wakers of those
    /// that wait, and the next deadline.
    pub(super) fn expire(&self, now: Instant, route: &FunctionRoute, is_sent: bool) -> (Vec<Waker>, Option<Instant>) {
        let mut content = lock(&self.content);
        if self.is_settled() || content.first_due.is_none_or(|first| now < first) {
            let next = content.first_due.filter(|_| !self.is_settled());
            return (Vec::new(), next);
        }
        let is_sent = is_sent || matches!(content.body, Body::Taken(_)) || self.first_failure.get().is_some();
        let (mut wakers, mut next) = (Vec::new(), None);
        for row in 0..content.calls.len() {
            let call = &mut content.calls[row];
            let Some(due) = call.due.filter(|_| !call.is_dropped) else { continue };
            if now < due.at {
                next = Some(next.map_or(due.at, |next: Instant| next.min(due.at)));
                continue;
            }
            let error = route.expired(due.after, is_sent);
            self.vitals.failed(1, &error);
            call.error = Some(Box::new(error));
            call.is_dropped = true;
            wakers.extend(call.waker.take());
            self.has_errors.store(true, Ordering::SeqCst);
            let place = call.place;
            self.note_cancel(&content, Some(place));
        }
        content.first_due = next;
        (wakers, next)
    }

    /// Returns the deadline of a call.
    pub(super) fn due(&self, row: usize) -> Option<Instant> {
        lock(&self.content).calls[row].due.map(|due| due.at)
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
        let mut content = lock(&self.content);
        if let Err(Failure::Timeout) = reply {
            self.note_cancel(&content, None);
        }
        content.reply = Some(reply);
    }

    pub(super) fn has_reply(&self) -> bool {
        lock(&self.content).reply.is_some()
    }

    /// Takes the reply: no call is executed any more.
    pub(super) fn take_reply(&self) -> Option<Result<Vec<u8>, Failure>> {
        let mut content = lock(&self.content);
        let reply = content.reply.take()?;
        let executor = content.executor.take();
        drop(content);
        drop(executor);
        Some(reply)
    }

    /// Reads the reply, and gives each call its outcome.
    pub(super) fn land(&self, route: &FunctionRoute, reply: Vec<u8>) {
        self.settle(self.read(route, reply), Some(route));
    }

    fn read(&self, route: &FunctionRoute, reply: Vec<u8>) -> Result<Answer> {
        let format = self.shape.format;
        if !self.shape.is_batch() {
            return Ok(Answer { format, reply, outcomes: Vec::new() });
        }
        let unread = |source| route.unread(CallKind::Batch, source);
        let id = lock(&self.content).id;
        let split = split_batch_reply(format, &reply, id, self.rows() as u32).map_err(unread)?;
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

    /// Gives each call this error; if the command was sent once before, the
    /// error of that.
    pub(super) fn fail(&self, error: Error) {
        let first = self.first_failure.get().cloned();
        self.settle(Err(first.unwrap_or(error)), None);
    }

    fn settle(&self, outcome: Result<Answer>, route: Option<&FunctionRoute>) {
        self.count(&outcome, route);
        // A command is settled once.
        let _ = self.outcome.set(outcome);
        let mut content = lock(&self.content);
        content.body = Body::Taken(None);
        content.sent = None;
        self.end_waiting(&mut content);
        let wakers: Vec<_> = content.calls.iter_mut().filter_map(|call| call.waker.take()).collect();
        drop(content);
        wake_tasks(wakers);
    }

    /// Counts the outcomes of its calls.
    fn count(&self, outcome: &Result<Answer>, route: Option<&FunctionRoute>) {
        let vitals = &self.vitals;
        let mut content = lock(&self.content);
        // A command that was stopped may still be answered.
        if std::mem::replace(&mut content.is_counted, true) {
            return;
        }
        let left_out = content.calls.iter().filter(|call| call.is_left_out).count() as u64;
        let rows = content.calls.len() as u64 - left_out;
        // Those that have expired have failed already, and those that were
        // cancelled fail nobody.
        let is_over = |call: &Call| call.is_dropped && (self.shape.has_number() || call.error.is_some());
        let over = content.calls.iter().filter(|call| !call.is_left_out && is_over(call)).count() as u64;
        drop(content);
        vitals.given_up(left_out);
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) if error.delivery() == ErrorDelivery::Answered => {
                vitals.answered(rows, self.since);
                return vitals.failed(rows - over, error);
            }
            Err(error) => {
                vitals.failed(rows - over, error);
                return vitals.given_up(rows);
            }
        };
        vitals.answered(rows, self.since);
        let (mut failed, mut last) = (0, None);
        let content = lock(&self.content);
        for (call, outcome) in content.calls.iter().zip(&answer.outcomes) {
            if let Err(text) = outcome
                && !is_over(call)
            {
                (failed, last) = (failed + 1, Some(text.clone()));
            }
        }
        drop(content);
        let text = match self.shape.kind {
            _ if over > 0 => None,
            CallKind::Batch => None,
            CallKind::Columns => columns_of(answer.format, &answer.reply).ok().and_then(Outcome::err),
            _ => decode_reply::<IgnoredAny>(answer.format, &answer.reply).ok().and_then(Outcome::err),
        };
        if let Some(text) = text {
            (failed, last) = (1, Some(text));
        }
        if let (Some(route), Some(text)) = (route, last) {
            vitals.failed(failed, &route.failed(text));
        }
    }

    /// Returns whether all calls have their outcomes.
    pub(super) fn is_settled(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Returns whether a call has its outcome.
    pub(super) fn is_over(&self, row: usize) -> bool {
        self.is_settled() || self.own_error(row).is_some()
    }

    /// Returns whether the message is being sent, or was.
    pub(super) fn is_being_sent(&self) -> bool {
        matches!(lock(&self.content).body, Body::Taken(_))
    }

    /// Returns whether the message was sent.
    pub(super) fn was_sent(&self) -> bool {
        lock(&self.content).was_sent
    }

    /// Returns the outcome of a call alone.
    fn own_error(&self, row: usize) -> Option<Error> {
        let has_errors = self.has_errors.load(Ordering::SeqCst);
        has_errors.then(|| lock(&self.content).calls[row].error.as_deref().cloned())?
    }

    /// Returns the outcome of a call, if it is there.
    pub(super) fn outcome<R: DeserializeOwned>(&self, route: &FunctionRoute, row: usize) -> Option<Result<R>> {
        if let Some(error) = self.own_error(row) {
            return Some(Err(error));
        }
        let answer = match self.outcome.get()? {
            Ok(answer) => answer,
            Err(error) => return Some(Err(error.clone())),
        };
        let unread = |source| route.unread(CallKind::Exec, source);
        if !self.shape.is_batch() {
            return Some(match decode_reply(answer.format, &answer.reply) {
                Ok(outcome) => outcome.map_err(|text| route.failed(text)),
                Err(source) => Err(self.noted(unread(source))),
            });
        }
        let result = match answer.outcomes.get(row)? {
            Ok(place) => answer.format.decode(&answer.reply[place.clone()]),
            Err(text) => return Some(Err(route.failed(text.clone()))),
        };
        let wrong = |source| unread(ekuiper_core::Error::Message { what: "the function's result", source });
        Some(result.map_err(|source| self.noted(wrong(source))))
    }

    /// Returns the columns that are the outcome of the call, if it is there.
    pub(super) fn columns(&self, route: &FunctionRoute) -> Option<Result<&[u8]>> {
        if let Some(error) = self.own_error(0) {
            return Some(Err(error));
        }
        let answer = match self.outcome.get()? {
            Ok(answer) => answer,
            Err(error) => return Some(Err(error.clone())),
        };
        Some(match columns_of(answer.format, &answer.reply) {
            Ok(columns) => columns.map_err(|text| route.failed(text)),
            Err(source) => Err(self.noted(route.unread(CallKind::Columns, source))),
        })
    }

    /// Returns the error that is the outcome of a call; `None` if it has a
    /// result, or no outcome yet.
    pub(super) fn error(&self, route: &FunctionRoute, row: usize) -> Option<Error> {
        match self.shape.kind {
            CallKind::Columns => self.columns(route)?.err(),
            _ => self.outcome::<IgnoredAny>(route, row)?.err(),
        }
    }

    /// Counts the error of a result that its caller cannot decode.
    fn noted(&self, error: Error) -> Error {
        self.vitals.failed(1, &error);
        error
    }

    /// Has `waker` woken when the call has its outcome. Returns false if it has
    /// one.
    pub(super) fn wake_when_settled(&self, row: usize, waker: &Waker) -> bool {
        let mut content = lock(&self.content);
        // Checked under the lock, which `settle` takes after the outcome is set:
        // either it is seen here, or the waker there.
        if self.is_settled() || content.calls[row].error.is_some() {
            return false;
        }
        let known = &mut content.calls[row].waker;
        if known.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            let former = known.replace(waker.clone());
            drop(content);
            // Its drop may run anything, also drop another call.
            drop(former);
        }
        true
    }

    /// Drops a call: it is not sent, if it was not yet, and else cancelled.
    pub(super) fn drop_call(&self, row: usize) {
        if self.is_settled() {
            return;
        }
        let mut content = lock(&self.content);
        let call = &mut content.calls[row];
        let was_dropped = std::mem::replace(&mut call.is_dropped, true);
        let (waker, place) = (call.waker.take(), call.place);
        if !was_dropped {
            self.note_cancel(&content, Some(place));
        }
        let executor = content.executor.clone();
        drop(content);
        // Its drop may run anything, also drop another call.
        drop(waker);
        if let Some(executor) = executor {
            executor.post_cancels();
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let waiting = self.content.get_mut().unwrap_or_else(PoisonError::into_inner).waiting;
        self.origin.site.waiting_calls.fetch_sub(waiting, Ordering::Relaxed);
    }
}
