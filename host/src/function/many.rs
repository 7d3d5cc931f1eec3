//! Many rows of one caller, sent as batches to a plugin that supports batches.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{Arguments, BatchWriter, CallKind, Outcome, decode_batch_reply};
use serde::de::DeserializeOwned;

use super::command::FULL;
use super::route::{FunctionConnection, FunctionRoute};
use crate::channel::Failure;
use crate::health::vitals::Rows;
use crate::sync::lock;
use crate::{Error, Result};

/// Answer to a batch, once it has arrived.
type Answer = Arc<Mutex<Option<Result<Vec<u8>, Failure>>>>;

/// A batch in flight.
struct UnderWay<'a> {
    calls: Rows<'a>,
    id: u64,
    rows: u32,
    connection: FunctionConnection,
    answer: Answer,
    /// Deadline of the answer.
    answer_by: Instant,
}

impl<'a> UnderWay<'a> {
    /// Sends a batch.
    fn send(
        route: &'a FunctionRoute,
        mut connection: FunctionConnection,
        batch: BatchWriter,
        id: u64,
    ) -> Result<(Self, Vec<u8>)> {
        let rows = batch.rows();
        let message = batch.finish();
        let answer = Answer::default();
        let plugin = &route.plugin;
        let now = Instant::now();
        let calls = route.counted.begin(rows.into(), now);
        let until = now + plugin.site.options.send_timeout;
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
                let next = match route.connection(until) {
                    Ok(next) => next,
                    Err(error) => return Err(calls.fail(error)),
                };
                if next.takes_batches() && next.format() == connection.format() {
                    connection = next;
                    continue;
                }
            }
            let patience = plugin.site.options.send_timeout;
            return Err(calls.fail(connection.running.explain(failure, route.what(CallKind::Batch), patience)));
        }
        let answer_by = Instant::now() + plugin.site.options.recv_timeout;
        Ok((Self { calls, id, rows, connection, answer, answer_by }, message))
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
        let reply =
            answer.map_err(|failure| self.connection.running.explain(failure, route.what(CallKind::Batch), patience));
        self.calls.end(&reply);
        let reply = reply?;
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
        let message = |source: ekuiper_core::Error| Error::Message {
            what: route.what(CallKind::Batch).answered(),
            source: source.into(),
        };
        let outcomes = decoded.map_err(message).and_then(|outcomes| outcomes.map_err(|text| route.failed(text)));
        match &outcomes {
            Ok(outcomes) => {
                let failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
                if let Some((others, text)) = failures.enumerate().last() {
                    route.counted.failed(others as u64 + 1, &route.failed(text.clone()));
                }
            }
            Err(error) => route.counted.failed(self.rows.into(), error),
        }
        outcomes
    }
}

/// See [`Function::call_many`](super::Function::call_many).
pub(super) fn call_many<R, A>(route: &FunctionRoute, mut rows: impl Iterator<Item = A>) -> Result<Vec<Outcome<R>>>
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
    let mut under_way: Option<UnderWay<'_>> = None;
    let mut buffer = Vec::new();
    let mut row = rows.next();
    while row.is_some() || under_way.is_some() {
        let id = route.next_batch();
        let mut batch = BatchWriter::new(format, buffer, id, &route.encoded_meta);
        while let Some(args) = row.take_if(|_| batch.length() < FULL) {
            if let Err(source) = batch.row(&args) {
                return Err(Error::Message { what: route.what(CallKind::Batch).not_sent(), source: source.into() });
            }
            row = rows.next();
        }
        // The next batch is sent before the answer to this one is decoded.
        let received = under_way.take().map(|sent| sent.receive(route)).transpose()?;
        buffer = if batch.rows() > 0 {
            let (sent, buffer) = UnderWay::send(route, connection, batch, id)?;
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
