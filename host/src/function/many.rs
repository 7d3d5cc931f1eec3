//! Many rows of one caller, sent as batches to a plugin that supports batches.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::codec::{Format, Reader};
use ekuiper_core::message::{Arguments, BatchWriter, CallKind, Outcome, decode_batch_reply, split_batch_reply};
use ekuiper_transport_ipc::wait::deadline_after;
use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed, Deserializer};

use super::Function;
use super::command::FULL;
use super::options::{Due, Terms};
use super::pipeline::Pipeline;
use super::route::{FunctionConnection, FunctionRoute, next_batch};
use crate::channel::{Failure, LOOK_PAUSE, PostNumber};
use crate::health::vitals::Rows;
use crate::sync::lock;
use crate::{Error, Result};

/// Answer to a batch, once it has arrived.
type Answer = Arc<Mutex<Option<Result<Vec<u8>, Failure>>>>;

/// Why not all rows of a [`Function::call_many`] have an outcome, with the
/// outcomes that are there: those of the first rows, in order.
pub struct ManyError<R> {
    /// Outcomes of the first rows.
    pub outcomes: Vec<Result<R, String>>,
    /// Reason why the other rows have none; some of them may have been
    /// computed nevertheless.
    pub error: Box<Error>,
}

impl<R> fmt::Debug for ManyError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcomes = self.outcomes.len();
        f.debug_struct("ManyError").field("error", &self.error).field("outcomes", &outcomes).finish()
    }
}

impl<R> fmt::Display for ManyError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<R> std::error::Error for ManyError<R> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<R> From<ManyError<R>> for Error {
    fn from(error: ManyError<R>) -> Self {
        *error.error
    }
}

/// What all batches of one caller have in common.
struct Caller<'a> {
    route: &'a FunctionRoute,
    pipeline: &'a Pipeline,
    terms: Terms,
    due: Option<Due>,
}

impl Caller<'_> {
    /// Returns why nothing more is sent, if that is so.
    fn ended(&self) -> Result<()> {
        match self.due {
            _ if self.pipeline.is_stopped() => Err(Error::Stopped),
            Some(due) if Instant::now() >= due.at => Err(self.route.expired(due.after, false)),
            _ => Ok(()),
        }
    }

    /// Returns the time, or the deadline if that is earlier.
    fn at_most(&self, time: Instant) -> Instant {
        self.due.map_or(time, |due| due.at.min(time))
    }

    fn send_by(&self) -> Instant {
        self.at_most(deadline_after(self.route.plugin.site.options.send_timeout))
    }
}

/// A batch in flight. Dropping it without its answer cancels its calls.
struct UnderWay {
    id: u64,
    rows: u32,
    symbol: Arc<str>,
    connection: FunctionConnection,
    /// Number of its message on the channel.
    post: PostNumber,
    /// `None` once it was taken.
    answer: Option<Answer>,
    /// Deadline of the answer.
    answer_by: Instant,
    /// The message, if it may be sent again.
    message: Option<Vec<u8>>,
}

impl UnderWay {
    /// Sends a batch. Returns its buffer as well.
    fn send<'c>(
        caller: &Caller<'c>,
        connection: FunctionConnection,
        batch: BatchWriter,
        id: u64,
    ) -> Result<(Self, Rows<'c>, Vec<u8>)> {
        caller.ended()?;
        let rows = batch.rows();
        let message = batch.finish();
        let calls = caller.route.counted.begin(rows.into(), Instant::now());
        let mut sent = match Self::post(caller, connection, &message, id, rows) {
            Ok(sent) => sent,
            Err(error) => return Err(calls.fail(error)),
        };
        if caller.terms.is_idempotent {
            sent.message = Some(message);
            return Ok((sent, calls, Vec::new()));
        }
        Ok((sent, calls, message))
    }

    fn post(
        caller: &Caller<'_>,
        mut connection: FunctionConnection,
        message: &[u8],
        id: u64,
        rows: u32,
    ) -> Result<Self> {
        let (route, until) = (caller.route, caller.send_by());
        let answer = Answer::default();
        let post = loop {
            let (taken, symbol, running) = (answer.clone(), route.symbol.clone(), Arc::downgrade(&connection.running));
            let tell = move |outcome: Result<&mut Vec<u8>, Failure>| {
                let mut answer = lock(&taken);
                if let Err(Failure::Timeout) = outcome
                    && let Some(running) = running.upgrade()
                {
                    running.note_cancel(&symbol, id, None);
                }
                *answer = Some(outcome.map(std::mem::take));
            };
            // The wait may be ended from elsewhere.
            let look = if caller.pipeline.has_stopper() { until.min(deadline_after(LOOK_PAUSE)) } else { until };
            let failure = match connection.channel.post(message, look, tell) {
                Ok(post) => break post,
                Err(failure) => failure,
            };
            caller.ended()?;
            let is_early = Instant::now() < until;
            // Nothing was sent: the next process gets it, if it reads the same.
            if is_early && matches!(failure, Failure::ProcessEnded) && connection.running.is_over() {
                let next = route.connection(until)?;
                if next.takes_batches() && next.format() == connection.format() {
                    connection = next;
                    continue;
                }
            }
            if is_early && matches!(failure, Failure::NotReady(_)) {
                continue;
            }
            let patience = route.plugin.site.options.send_timeout;
            return Err(connection.running.explain(failure, route.what(CallKind::Batch), patience));
        };
        let answer_by = caller.at_most(deadline_after(caller.terms.patience(rows as usize)));
        let (symbol, answer) = (route.symbol.clone(), Some(answer));
        Ok(Self { id, rows, symbol, connection, post, answer, answer_by, message: None })
    }

    /// Waits for the answer.
    fn await_answer(&mut self, caller: &Caller<'_>) -> Result<Vec<u8>, Failure> {
        loop {
            let now = Instant::now();
            if let Some(answer) = self.answer.as_ref().and_then(|answer| lock(answer).take()) {
                self.answer = None;
                if let Err(Failure::Timeout) = answer {
                    self.connection.running.post_cancels();
                }
                return answer;
            }
            if now >= self.answer_by || caller.pipeline.is_stopped() {
                return Err(Failure::Timeout);
            }
            let is_stopped = || caller.pipeline.is_stopped();
            self.connection.channel.settle_unless(self.post, now + LOOK_PAUSE, self.answer_by, is_stopped);
        }
    }

    /// Waits for the answer, and returns it.
    fn receive(mut self, caller: &Caller<'_>, calls: Rows<'_>) -> Result<Received> {
        let route = caller.route;
        let mut answer = self.await_answer(caller);
        if matches!(answer, Err(Failure::OutcomeUnknown))
            && let Some(message) = self.message.take()
            && let Ok(next) = route.connection(caller.send_by())
            && next.takes_batches()
            && next.format() == self.connection.format()
            && let Ok(again) = Self::post(caller, next, &message, self.id, self.rows)
        {
            tracing::debug!(function = &*route.symbol, "an idempotent batch is sent again");
            self = again;
            answer = self.await_answer(caller);
        }
        let reply = answer.map_err(|failure| match failure {
            Failure::Timeout if caller.pipeline.is_stopped() => Error::Stopped,
            failure => {
                let due = caller.due.filter(|due| due.at <= self.answer_by);
                let patience = due.map_or_else(|| caller.terms.patience(self.rows as usize), |due| due.after);
                self.connection.running.explain(failure, route.what(CallKind::Batch), patience)
            }
        });
        calls.end(&reply);
        let reply = reply?;
        Ok(Received { format: self.connection.format(), id: self.id, rows: self.rows, reply })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(answer) = &self.answer else { return };
        let answer = lock(answer);
        if answer.is_none() {
            self.connection.running.note_cancel(&self.symbol, self.id, None);
        }
        drop(answer);
        self.connection.running.post_cancels();
    }
}

/// Outcomes of the next rows.
enum Part {
    Answer(Received),
    /// The error of one row, whose message alone is longer than the limit.
    TooLong(String),
}

/// The answer to a batch.
struct Received {
    format: Format,
    id: u64,
    rows: u32,
    reply: Vec<u8>,
}

impl Received {
    fn decode<R: DeserializeOwned>(&self, route: &FunctionRoute) -> Result<Vec<Outcome<R>>> {
        let decoded = decode_batch_reply(self.format, &self.reply, self.id, self.rows);
        let outcomes = decoded
            .map_err(|source| route.unread(CallKind::Batch, source))
            .and_then(|outcomes| outcomes.map_err(|text| route.failed(text)));
        match &outcomes {
            Ok(outcomes) => count_failures(route, outcomes),
            Err(error) => route.counted.failed(self.rows.into(), error),
        }
        outcomes
    }

    /// Decodes each outcome into `result`, and passes it on with its row, of
    /// which the first is `first`.
    fn decode_into<R: DeserializeOwned>(
        &self,
        route: &FunctionRoute,
        first: usize,
        result: &mut Option<R>,
        each: &mut impl FnMut(usize, Result<&R, &str>),
    ) -> Result<()> {
        let wrong = |source| route.unread(CallKind::Batch, source);
        let split = split_batch_reply(self.format, &self.reply, self.id, self.rows);
        let outcomes = split.map_err(wrong).and_then(|outcomes| outcomes.map_err(|text| route.failed(text)));
        let outcomes = outcomes.inspect_err(|error| route.counted.failed(self.rows.into(), error))?;
        count_failures(route, &outcomes);
        for (row, outcome) in (first..).zip(outcomes) {
            match outcome {
                Ok(bytes) => {
                    let read = Reader::new(self.format, bytes).seed(InPlace(result));
                    let what = "the function's result";
                    read.map_err(|source| wrong(ekuiper_core::Error::Message { what, source }))?;
                    result.iter().for_each(|result| each(row, Ok(result)));
                }
                Err(text) => each(row, Err(&text)),
            }
        }
        Ok(())
    }
}

/// Counts the rows of a batch for which the function has failed.
fn count_failures<R>(route: &FunctionRoute, outcomes: &[Outcome<R>]) {
    let failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    if let Some((others, text)) = failures.enumerate().last() {
        route.counted.failed(others as u64 + 1, &route.failed(text.clone()));
    }
}

/// Decodes a value into the memory of the former one.
struct InPlace<'v, R>(&'v mut Option<R>);

impl<'de, R: Deserialize<'de>> DeserializeSeed<'de> for InPlace<'_, R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            Some(former) => R::deserialize_in_place(deserializer, former),
            None => {
                *self.0 = Some(R::deserialize(deserializer)?);
                Ok(())
            }
        }
    }
}

/// See [`Function::call_many`].
pub(super) fn call_many<R, A>(
    function: &Function,
    rows: impl Iterator<Item = A>,
) -> Result<Vec<Outcome<R>>, ManyError<R>>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let mut outcomes = Vec::with_capacity(rows.size_hint().0);
    let called = match connect(function) {
        Ok((caller, Some(connection))) => in_batches(&caller, connection, rows, |part| {
            match part {
                Part::Answer(received) => outcomes.append(&mut received.decode(caller.route)?),
                Part::TooLong(text) => outcomes.push(Err(text)),
            }
            Ok(())
        }),
        Ok((caller, None)) => one_by_one(function, &caller, rows, |_, outcome| outcomes.push(outcome)),
        Err(error) => Err(error),
    };
    match called {
        Ok(()) => Ok(outcomes),
        Err(error) => Err(ManyError { outcomes, error: Box::new(error) }),
    }
}

/// See [`Function::call_many_into`].
pub(super) fn call_many_into<R, A>(
    function: &Function,
    rows: impl Iterator<Item = A>,
    mut each: impl FnMut(usize, Result<&R, &str>),
) -> Result<()>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let (caller, connection) = connect(function)?;
    let Some(connection) = connection else {
        return one_by_one(function, &caller, rows, |row, outcome: Outcome<R>| {
            each(row, outcome.as_ref().map_err(|text| &**text))
        });
    };
    let (mut first, mut result) = (0, None);
    in_batches(&caller, connection, rows, |part| {
        match part {
            Part::Answer(received) => {
                received.decode_into(caller.route, first, &mut result, &mut each)?;
                first += received.rows as usize;
            }
            Part::TooLong(text) => {
                each(first, Err(&text));
                first += 1;
            }
        }
        Ok(())
    })
}

/// Connects the function; returns no connection if it takes no batches.
fn connect(function: &Function) -> Result<(Caller<'_>, Option<FunctionConnection>)> {
    let (route, options) = (&*function.route, &function.options);
    let terms = Terms::of(options, &route.plugin.site.options);
    let caller = Caller { route, pipeline: &function.pipeline, terms, due: options.due() };
    caller.ended()?;
    let connection = route.connection(caller.send_by())?;
    Ok((caller, Some(connection).filter(FunctionConnection::takes_batches)))
}

/// Sends the rows in batches, and passes each answer to `read`, in order. If a
/// batch cannot be sent, the one in flight is read all the same.
fn in_batches<A: Arguments>(
    caller: &Caller<'_>,
    mut connection: FunctionConnection,
    mut rows: impl Iterator<Item = A>,
    mut read: impl FnMut(Part) -> Result<()>,
) -> Result<()> {
    let route = caller.route;
    let format = connection.format();
    let mut under_way: Option<(UnderWay, Rows<'_>)> = None;
    let mut buffer = Vec::new();
    let mut row = rows.next();
    while row.is_some() || under_way.is_some() {
        let id = next_batch();
        let mut batch = BatchWriter::new(format, buffer, id, &route.encoded_meta);
        let mut encoded = Ok(());
        let mut too_long = None;
        while let Some(args) = row.take_if(|_| batch.length() < FULL && batch.rows() < caller.terms.max_rows) {
            match batch.row_within(&args, route.plugin.site.options.max_message) {
                Ok(Ok(())) => row = rows.next(),
                Ok(Err(length)) if batch.rows() == 0 => {
                    too_long = Some(length);
                    row = rows.next();
                    break;
                }
                Ok(Err(_)) => {
                    row = Some(args);
                    break;
                }
                Err(source) => {
                    encoded = Err(route.unsent(CallKind::Batch, source));
                    break;
                }
            }
        }
        // The next batch is sent before the answer to this one is decoded.
        let received = under_way.take().map(|(sent, calls)| sent.receive(caller, calls)).transpose()?;
        let sent = match encoded {
            Ok(()) if batch.rows() > 0 => UnderWay::send(caller, connection.clone(), batch, id).map(Some),
            Ok(()) => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(received) = received {
            read(Part::Answer(received))?;
        }
        if let Some(length) = too_long {
            let error = route.counted.begin(1, Instant::now()).fail(route.too_long(length));
            read(Part::TooLong(error.into_row_error()?))?;
            buffer = Vec::new();
            continue;
        }
        let Some((sent, calls, free)) = sent? else { break };
        connection = sent.connection.clone();
        under_way = Some((sent, calls));
        buffer = free;
    }
    Ok(())
}

fn one_by_one<R, A>(
    function: &Function,
    caller: &Caller<'_>,
    rows: impl Iterator<Item = A>,
    mut each: impl FnMut(usize, Outcome<R>),
) -> Result<()>
where
    R: DeserializeOwned,
    A: Arguments,
{
    for (row, args) in rows.enumerate() {
        caller.ended()?;
        let called = match caller.due {
            None => function.call(&args),
            Some(due) => {
                let left = due.at.saturating_duration_since(Instant::now());
                function.clone().with_options(function.options.deadline(left)).call(&args)
            }
        };
        match called {
            Ok(result) => each(row, Ok(result)),
            Err(error) => each(row, Err(error.into_row_error()?)),
        }
    }
    Ok(())
}
