//! Many calls at a time: rows of one caller, and pending calls. Both are sent
//! as batches to a plugin that supports batches.
//!
//! No thread drives them: the caller that waits for a result receives for all.

use std::collections::{HashMap, HashSet, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{Arguments, BatchWriter, CallKind, Outcome, decode_batch_reply, split_batch_reply};
use ekuiper_transport_ipc::lock::{DeadlineLock, Waited};
use serde::de::DeserializeOwned;

use super::route::{FunctionConnection, FunctionRoute};
use crate::channel::Failure;
use crate::sync::lock;
use crate::{Error, Result};

/// Size at which a batch is sent, in bytes: large enough to amortize the cost
/// of a message, small enough for both sides to work in parallel.
const FULL: usize = 64 << 10;

/// Answer to a batch, once it has arrived.
type Answer = Arc<Mutex<Option<Result<Vec<u8>, Failure>>>>;

/// A batch in flight.
struct UnderWay {
    id: u64,
    rows: u32,
    connection: FunctionConnection,
    answer: Answer,
    /// Deadline of the answer.
    answer_by: Instant,
}

impl UnderWay {
    /// Sends a batch.
    fn send(
        route: &FunctionRoute,
        mut connection: FunctionConnection,
        batch: BatchWriter,
        id: u64,
        until: Instant,
    ) -> Result<(Self, Vec<u8>)> {
        let rows = batch.rows();
        let message = batch.finish();
        let answer = Answer::default();
        let plugin = &route.plugin;
        plugin.counters.calls.add(rows.into());
        loop {
            let taken = answer.clone();
            let tell = move |outcome: Result<&mut Vec<u8>, Failure>| *lock(&taken) = Some(outcome.map(std::mem::take));
            let failure = match connection.channel.post(&message, until, tell) {
                Ok(()) => break,
                Err(failure) => failure,
            };
            // Nothing was sent: the next process gets it, if it reads the same.
            let is_over = matches!(failure, Failure::ProcessEnded) && connection.running.is_over();
            if is_over && Instant::now() < until {
                let next = route.connection(until)?;
                if next.takes_batches() && next.format() == connection.format() {
                    connection = next;
                    continue;
                }
            }
            let patience = plugin.site.options.send_timeout;
            return Err(connection.running.explain(failure, route.what(CallKind::Batch), patience));
        }
        let answer_by = Instant::now() + plugin.site.options.recv_timeout;
        Ok((Self { id, rows, connection, answer, answer_by }, message))
    }

    /// Waits for the answer, at most until `deadline`; returns whether it has
    /// arrived, or its deadline has passed.
    fn await_answer(&self, deadline: Instant) -> bool {
        let is_there = || lock(&self.answer).is_some() || Instant::now() >= self.answer_by;
        if !is_there() {
            self.connection.channel.settle(deadline, self.answer_by);
        }
        is_there()
    }

    /// Waits for the answer, and returns it.
    fn receive(self, route: &FunctionRoute) -> Result<Received> {
        let patience = route.plugin.site.options.recv_timeout;
        self.await_answer(self.answer_by);
        let answer = lock(&self.answer).take().unwrap_or(Err(Failure::Timeout));
        let reply = answer
            .map_err(|failure| self.connection.running.explain(failure, route.what(CallKind::Batch), patience))?;
        route.plugin.counters.answers.add(self.rows.into());
        Ok(Received { format: self.connection.format(), id: self.id, rows: self.rows, reply })
    }
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
        let message = |source| Error::Message { what: route.what(CallKind::Batch), source };
        decoded.map_err(message)?.map_err(|text| route.failed(text))
    }
}

/// See [`Function::call_many`](super::Function::call_many).
pub(super) fn call_many<R, A>(
    route: &FunctionRoute,
    pipeline: &Pipeline,
    mut rows: impl Iterator<Item = A>,
) -> Result<Vec<Outcome<R>>>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let send_timeout = route.plugin.site.options.send_timeout;
    let mut connection = route.connection(Instant::now() + send_timeout)?;
    if !connection.takes_batches() {
        return one_by_one(route, rows);
    }
    let format = connection.format();
    let mut outcomes = Vec::with_capacity(rows.size_hint().0);
    let mut under_way: Option<UnderWay> = None;
    let mut buffer = Vec::new();
    let mut row = rows.next();
    while row.is_some() || under_way.is_some() {
        let id = pipeline.next_id();
        let mut batch = BatchWriter::new(format, buffer, id, &route.encoded_meta);
        while let Some(args) = row.take_if(|_| batch.length() < FULL) {
            if let Err(source) = batch.row(&args) {
                return Err(Error::Message { what: route.what(CallKind::Batch), source });
            }
            row = rows.next();
        }
        // The next batch is sent before the answer to this one is decoded.
        let received = under_way.take().map(|sent| sent.receive(route)).transpose()?;
        buffer = if batch.rows() > 0 {
            let until = Instant::now() + send_timeout;
            let (sent, buffer) = UnderWay::send(route, connection, batch, id, until)?;
            connection = sent.connection.clone();
            under_way = Some(sent);
            buffer
        } else {
            batch.finish()
        };
        if let Some(received) = received {
            outcomes.append(&mut received.decode(route)?);
        }
    }
    Ok(outcomes)
}

fn one_by_one<R, A>(route: &FunctionRoute, rows: impl Iterator<Item = A>) -> Result<Vec<Outcome<R>>>
where
    R: DeserializeOwned,
    A: Arguments,
{
    rows.map(|args| match route.call(&args) {
        Ok(result) => Ok(Ok(result)),
        Err(Error::Function { text, .. }) => Ok(Err(text)),
        Err(error) => Err(error),
    })
    .collect()
}

/// See [`Function::call_async`](super::Function::call_async).
pub(super) fn call_async<R: DeserializeOwned>(
    route: &Arc<FunctionRoute>,
    pipeline: &Arc<Pipeline>,
    args: &impl Arguments,
) -> Result<PendingCall<R>> {
    let until = Instant::now() + route.plugin.site.options.send_timeout;
    let connection = route.connection(until)?;
    let call = if connection.takes_batches() {
        let number = pipeline.add(route, connection, args, until)?;
        Call::Sent { route: route.clone(), pipeline: pipeline.clone(), number }
    } else {
        Call::Done(route.call(args))
    };
    Ok(PendingCall { call, result: PhantomData })
}

/// A call in flight. Dropping it discards the result.
#[must_use = "its result may be an error"]
pub struct PendingCall<R> {
    call: Call<R>,
    result: PhantomData<fn() -> R>,
}

enum Call<R> {
    Done(Result<R>),
    Sent {
        route: Arc<FunctionRoute>,
        pipeline: Arc<Pipeline>,
        number: u64,
    },
    /// `wait` has taken the result.
    Over,
}

impl<R: DeserializeOwned> PendingCall<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// As [`Function::call`](super::Function::call). A call that was not sent
    /// before its process ended is not executed, and fails with
    /// [`Error::Exited`].
    pub fn wait(mut self) -> Result<R> {
        match std::mem::replace(&mut self.call, Call::Over) {
            Call::Done(result) => result,
            Call::Sent { route, pipeline, number } => {
                let Landed { format, result } = pipeline.wait(&route, number)?;
                let message = |source| Error::Message {
                    what: route.what(CallKind::Exec),
                    source: ekuiper_core::Error::Message { what: "the function's result", source },
                };
                format.decode(&result.map_err(|text| route.failed(text))?).map_err(message)
            }
            Call::Over => Err(Error::Stopped),
        }
    }
}

impl<R> Drop for PendingCall<R> {
    fn drop(&mut self) {
        if let Call::Sent { pipeline, number, .. } = &self.call {
            pipeline.forget(*number);
        }
    }
}

/// The pending calls of one function.
///
/// The holder of `driver` sends and receives for all callers; its waits are
/// under no other lock.
#[derive(Default)]
pub(crate) struct Pipeline {
    /// The batch in flight, and the number of its first call.
    driver: DeadlineLock<Option<(UnderWay, u64)>>,
    gathered: Mutex<Gathered>,
    landed: Mutex<Results>,
}

/// Calls that have not been sent.
#[derive(Default)]
struct Gathered {
    /// Number of the last batch.
    batches: u64,
    /// Number of the last call.
    calls: u64,
    /// Batches not sent yet; calls are added to the last one.
    waiting: VecDeque<Gathering>,
    /// Buffer of the last batch, reused by the next.
    buffer: Vec<u8>,
}

struct Gathering {
    connection: FunctionConnection,
    batch: BatchWriter,
    id: u64,
    first: u64,
}

/// Calls that have been answered.
#[derive(Default)]
struct Results {
    landed: HashMap<u64, Result<Landed>>,
    /// Calls whose results were dropped before they arrived.
    unwanted: HashSet<u64>,
}

/// An encoded result, and its format.
struct Landed {
    format: Format,
    result: Outcome<Vec<u8>>,
}

impl Gathered {
    fn next_id(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }

    /// Adds a call; returns its number, and whether its batch is full.
    fn add(
        &mut self,
        route: &FunctionRoute,
        connection: &FunctionConnection,
        args: &impl Arguments,
    ) -> Result<(u64, bool)> {
        let is_open =
            |rows: &Gathering| Arc::ptr_eq(&rows.connection.channel, &connection.channel) && rows.batch.length() < FULL;
        if !self.waiting.back().is_some_and(is_open) {
            let (id, first, buffer) = (self.next_id(), self.calls + 1, std::mem::take(&mut self.buffer));
            let batch = BatchWriter::new(connection.format(), buffer, id, &route.encoded_meta);
            self.waiting.push_back(Gathering { connection: connection.clone(), batch, id, first });
        }
        let rows = self.waiting.back_mut().expect("one was just added, if there was none");
        let added = rows.batch.row(args);
        let is_full = rows.batch.length() >= FULL;
        if rows.batch.rows() == 0 {
            self.waiting.pop_back();
        }
        added.map_err(|source| Error::Message { what: route.what(CallKind::Exec), source })?;
        self.calls += 1;
        Ok((self.calls, is_full))
    }
}

impl Pipeline {
    fn next_id(&self) -> u64 {
        lock(&self.gathered).next_id()
    }

    /// Adds a call; returns its number.
    fn add(
        &self,
        route: &FunctionRoute,
        connection: FunctionConnection,
        args: &impl Arguments,
        until: Instant,
    ) -> Result<u64> {
        let mut driver = self.driver.try_lock();
        // Once the batch in flight is answered, the next one may be sent.
        if let Some(driver) = &mut driver {
            if let Some((sent, _)) = &**driver {
                sent.connection.channel.look();
            }
            if driver.as_ref().is_some_and(|(sent, _)| lock(&sent.answer).is_some()) {
                self.go_on(driver, route, until);
            }
        }
        let (number, is_full) = lock(&self.gathered).add(route, &connection, args)?;
        if is_full {
            // A full batch is sent even if that blocks, so that the memory
            // stays bounded.
            driver = driver.or_else(|| self.driver.lock(until));
            if let Some(driver) = &mut driver {
                self.go_on(driver, route, until);
            }
        }
        let has_sent = match &mut driver {
            Some(driver) if driver.is_some() => return Ok(number),
            Some(driver) => {
                self.send(driver, route, until);
                true
            }
            None => false,
        };
        drop(driver);
        // The driver may have checked for calls before this one was added.
        while !has_sent
            && self.has_gathered()
            && let Some(mut driver) = self.driver.try_lock()
            && driver.is_none()
        {
            self.send(&mut driver, route, until);
        }
        let mut results = lock(&self.landed);
        match results.landed.remove(&number) {
            // The call could not be sent.
            Some(Err(error)) => Err(error),
            Some(landed) => {
                results.landed.insert(number, landed);
                Ok(number)
            }
            None => Ok(number),
        }
    }

    fn has_gathered(&self) -> bool {
        !lock(&self.gathered).waiting.is_empty()
    }

    fn wait(&self, route: &FunctionRoute, number: u64) -> Result<Landed> {
        let options = &route.plugin.site.options;
        let patience = options.send_timeout + options.recv_timeout;
        let deadline = Instant::now() + patience;
        loop {
            let has_landed = || lock(&self.landed).landed.contains_key(&number);
            match self.driver.lock_unless(deadline, has_landed) {
                Waited::Held(mut driver) if Instant::now() < deadline => {
                    if driver.is_none() && !self.has_gathered() && !has_landed() {
                        return Err(Error::Stopped);
                    }
                    if !has_landed() {
                        self.go_on(&mut driver, route, deadline);
                    }
                }
                Waited::Done | Waited::Held(_) | Waited::Late => {}
            }
            let mut results = lock(&self.landed);
            if let Some(landed) = results.landed.remove(&number) {
                return landed;
            }
            if Instant::now() >= deadline {
                results.unwanted.insert(number);
                let (plugin, what) = (route.plugin.name().to_owned(), route.what(CallKind::Exec));
                return Err(Error::Timeout { plugin, what, after: patience });
            }
        }
    }

    fn forget(&self, number: u64) {
        let mut results = lock(&self.landed);
        if results.landed.remove(&number).is_none() {
            results.unwanted.insert(number);
        }
    }

    /// Sends the next batch after the one in flight is answered, if that
    /// happens by the deadline.
    fn go_on(&self, driver: &mut Option<(UnderWay, u64)>, route: &FunctionRoute, deadline: Instant) {
        if driver.as_ref().is_some_and(|(sent, _)| !sent.await_answer(deadline)) {
            return;
        }
        let back = driver.take();
        // The next batch is in flight while this one's results are decoded.
        self.send(driver, route, deadline);
        let Some((sent, first)) = back else { return };
        let rows = sent.rows;
        match sent.receive(route) {
            Ok(received) => self.land(route, first, &received),
            Err(error) => self.fail(first, rows, error),
        }
    }

    /// Sends the next batch.
    fn send(&self, driver: &mut Option<(UnderWay, u64)>, route: &FunctionRoute, deadline: Instant) {
        let Some(Gathering { connection, batch, id, first }) = lock(&self.gathered).waiting.pop_front() else { return };
        let rows = batch.rows();
        let until = deadline.min(Instant::now() + route.plugin.site.options.send_timeout);
        match UnderWay::send(route, connection, batch, id, until) {
            Ok((sent, buffer)) => {
                *driver = Some((sent, first));
                lock(&self.gathered).buffer = buffer;
            }
            Err(error) => self.fail(first, rows, error),
        }
    }

    fn land(&self, route: &FunctionRoute, first: u64, received: &Received) {
        let Received { format, id, rows, reply } = received;
        match split_batch_reply(*format, reply, *id, *rows) {
            Ok(Ok(outcomes)) => {
                let landed = outcomes.into_iter().map(|outcome| outcome.map(<[u8]>::to_vec));
                self.keep(first, landed.map(|result| Ok(Landed { format: *format, result })));
            }
            Ok(Err(text)) => self.fail(first, *rows, route.failed(text)),
            Err(source) => self.fail(first, *rows, Error::Message { what: route.what(CallKind::Batch), source }),
        }
    }

    fn fail(&self, first: u64, rows: u32, error: Error) {
        let others: Vec<_> = (1..rows).map(|_| Err(error.for_another_caller())).collect();
        self.keep(first, std::iter::once(Err(error)).chain(others));
    }

    /// Stores the results of the calls from `first` on.
    fn keep(&self, first: u64, outcomes: impl Iterator<Item = Result<Landed>>) {
        let mut results = lock(&self.landed);
        for (number, landed) in (first..).zip(outcomes) {
            if !results.unwanted.remove(&number) {
                results.landed.insert(number, landed);
            }
        }
        drop(results);
        self.driver.look_again();
    }
}
