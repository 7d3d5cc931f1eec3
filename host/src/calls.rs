//! Many calls at a time: rows of one caller, and calls that nobody waits for
//! yet. Both become batches for a plugin that takes them.
//!
//! No thread drives them: whoever waits for a result receives what is there,
//! for all.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{Arguments, BatchWriter, CallKind, Outcome, decode_batch_reply, split_batch_reply};
use serde::de::DeserializeOwned;

use crate::channel::Failure;
use crate::function::{Function, Peer};
use crate::site::lock;
use crate::{Error, Result};

/// A batch is sent when it is this long, in bytes: enough for its cost to be
/// its rows', little enough for both sides to work at the same time.
const FULL: usize = 64 << 10;

/// The answer to a batch, once it is there.
type Answer = Arc<Mutex<Option<Result<Vec<u8>, Failure>>>>;

/// A batch that is under way.
struct UnderWay {
    id: u64,
    rows: u32,
    peer: Peer,
    answer: Answer,
}

impl UnderWay {
    /// Sends a batch.
    fn send(function: &Function, peer: Peer, batch: BatchWriter, id: u64, until: Instant) -> Result<(Self, Vec<u8>)> {
        let rows = batch.rows();
        let message = batch.finish();
        let answer = Answer::default();
        let taken = answer.clone();
        let tell = move |outcome: Result<&mut Vec<u8>, Failure>| *lock(&taken) = Some(outcome.map(std::mem::take));
        let plugin = function.plugin();
        plugin.counters.calls.add(rows.into());
        if let Err(failure) = peer.channel.post(&message, until, tell) {
            let patience = plugin.site.options.send_timeout;
            return Err(peer.running.explain(failure, function.what(CallKind::Batch), patience));
        }
        Ok((Self { id, rows, peer, answer }, message))
    }

    /// Waits for its answer.
    fn receive(self, function: &Function) -> Result<Received> {
        let patience = function.plugin().site.options.recv_timeout;
        let mut answer = lock(&self.answer).take();
        if answer.is_none() {
            self.peer.channel.settle(Instant::now() + patience);
            answer = lock(&self.answer).take();
        }
        let answer = answer.unwrap_or(Err(Failure::Timeout));
        let reply =
            answer.map_err(|failure| self.peer.running.explain(failure, function.what(CallKind::Batch), patience))?;
        function.plugin().counters.answers.add(self.rows.into());
        Ok(Received { format: self.peer.format(), id: self.id, rows: self.rows, reply })
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
    fn decode<R: DeserializeOwned>(&self, function: &Function) -> Result<Vec<Outcome<R>>> {
        let decoded = decode_batch_reply(self.format, &self.reply, self.id, self.rows);
        let message = |source| Error::Message { what: function.what(CallKind::Batch), source };
        decoded.map_err(message)?.map_err(|text| function.failed(text))
    }
}

/// See [`Function::call_many`].
pub(crate) fn call_many<R, A>(function: &Function, mut rows: impl Iterator<Item = A>) -> Result<Vec<Outcome<R>>>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let send_timeout = function.plugin().site.options.send_timeout;
    let peer = function.peer(Instant::now() + send_timeout)?;
    if !peer.takes_batches() {
        return one_by_one(function, rows);
    }
    let format = peer.format();
    let mut outcomes = Vec::with_capacity(rows.size_hint().0);
    let mut under_way: Option<UnderWay> = None;
    let mut buffer = Vec::new();
    let mut row = rows.next();
    while row.is_some() || under_way.is_some() {
        let id = function.pipeline().next_id();
        let mut batch = BatchWriter::new(format, buffer, id, function.encoded_meta());
        while let Some(args) = row.take_if(|_| batch.length() < FULL) {
            if let Err(source) = batch.row(&args) {
                return Err(Error::Message { what: function.what(CallKind::Batch), source });
            }
            row = rows.next();
        }
        // The next batch is on its way before the answer to this one is read.
        let received = under_way.take().map(|sent| sent.receive(function)).transpose()?;
        buffer = if batch.rows() > 0 {
            let (sent, buffer) = UnderWay::send(function, peer.clone(), batch, id, Instant::now() + send_timeout)?;
            under_way = Some(sent);
            buffer
        } else {
            batch.finish()
        };
        if let Some(received) = received {
            outcomes.append(&mut received.decode(function)?);
        }
    }
    Ok(outcomes)
}

fn one_by_one<R, A>(function: &Function, rows: impl Iterator<Item = A>) -> Result<Vec<Outcome<R>>>
where
    R: DeserializeOwned,
    A: Arguments,
{
    rows.map(|args| match function.call(args) {
        Ok(result) => Ok(Ok(result)),
        Err(Error::Function { text, .. }) => Ok(Err(text)),
        Err(error) => Err(error),
    })
    .collect()
}

/// See [`Function::call_async`].
pub(crate) fn call_async<R: DeserializeOwned>(function: &Function, args: &impl Arguments) -> Result<PendingCall<R>> {
    let until = Instant::now() + function.plugin().site.options.send_timeout;
    let peer = function.peer(until)?;
    let call = if peer.takes_batches() {
        Call::Sent { function: function.clone(), number: function.pipeline().add(function, peer, args, until)? }
    } else {
        Call::Done(function.call(args))
    };
    Ok(PendingCall { call, result: PhantomData })
}

/// A call that was made, and its result, once it is there. Dropping it drops
/// the result.
#[must_use = "its result may be an error"]
pub struct PendingCall<R> {
    call: Call<R>,
    result: PhantomData<fn() -> R>,
}

enum Call<R> {
    Done(Result<R>),
    Sent {
        function: Function,
        number: u64,
    },
    /// It was waited for.
    Over,
}

impl<R: DeserializeOwned> PendingCall<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// As [`Function::call`]. A call that had not been sent when its process
    /// ended is not carried out, and fails with [`Error::Exited`].
    pub fn wait(mut self) -> Result<R> {
        match std::mem::replace(&mut self.call, Call::Over) {
            Call::Done(result) => result,
            Call::Sent { function, number } => {
                let Landed { format, result } = function.pipeline().wait(&function, number)?;
                let message = |source| Error::Message {
                    what: function.what(CallKind::Exec),
                    source: ekuiper_core::Error::Message { what: "the function's result", source },
                };
                format.decode(&result.map_err(|text| function.failed(text))?).map_err(message)
            }
            Call::Over => Err(Error::Stopped),
        }
    }
}

impl<R> Drop for PendingCall<R> {
    fn drop(&mut self) {
        if let Call::Sent { function, number } = &self.call {
            function.pipeline().forget(*number);
        }
    }
}

/// The calls of one function that nobody waits for yet.
#[derive(Default)]
pub(crate) struct Pipeline(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of the last batch.
    batches: u64,
    /// The number of the last call.
    calls: u64,
    /// Those that are to go out together.
    gathering: Option<Gathering>,
    /// Those that have gone, and the number of the first of them.
    under_way: Option<(UnderWay, u64)>,
    landed: HashMap<u64, Result<Landed>>,
    /// Those whose results nobody wants.
    unwanted: HashSet<u64>,
    /// The last batch's, for the next.
    buffer: Vec<u8>,
}

struct Gathering {
    peer: Peer,
    batch: BatchWriter,
    id: u64,
    first: u64,
}

/// What a call has come to, as it is written.
struct Landed {
    format: Format,
    result: Outcome<Vec<u8>>,
}

impl Pipeline {
    fn next_id(&self) -> u64 {
        lock(&self.0).next_id()
    }

    /// Takes in a call; its number.
    fn add(&self, function: &Function, peer: Peer, args: &impl Arguments, until: Instant) -> Result<u64> {
        let mut state = lock(&self.0);
        // Nothing keeps it from going out at once if the last has come back.
        if let Some((sent, _)) = &state.under_way {
            sent.peer.channel.look();
        }
        if state.under_way.as_ref().is_some_and(|(sent, _)| lock(&sent.answer).is_some()) {
            state.receive(function, until);
        }
        if state.gathering.as_ref().is_some_and(|rows| !Arc::ptr_eq(&rows.peer.channel, &peer.channel)) {
            // Gathered for a former process.
            state.go_on(function, until);
        }
        if state.gathering.is_none() {
            let (id, first, buffer) = (state.next_id(), state.calls + 1, std::mem::take(&mut state.buffer));
            let batch = BatchWriter::new(peer.format(), buffer, id, function.encoded_meta());
            state.gathering = Some(Gathering { peer, batch, id, first });
        }
        let Some(rows) = &mut state.gathering else { return Err(Error::Stopped) };
        let added = rows.batch.row(args);
        let is_full = rows.batch.length() >= FULL;
        if rows.batch.rows() == 0 {
            state.gathering = None;
        }
        added.map_err(|source| Error::Message { what: function.what(CallKind::Exec), source })?;
        state.calls += 1;
        let number = state.calls;
        if is_full || state.under_way.is_none() {
            state.go_on(function, until);
        }
        match state.landed.remove(&number) {
            // It could not be sent.
            Some(Err(error)) => Err(error),
            Some(landed) => {
                state.landed.insert(number, landed);
                Ok(number)
            }
            None => Ok(number),
        }
    }

    fn wait(&self, function: &Function, number: u64) -> Result<Landed> {
        let mut state = lock(&self.0);
        loop {
            if let Some(landed) = state.landed.remove(&number) {
                return landed;
            }
            let until = Instant::now() + function.plugin().site.options.send_timeout;
            if state.under_way.is_none() && state.gathering.is_none() {
                return Err(Error::Stopped);
            }
            state.go_on(function, until);
        }
    }

    fn forget(&self, number: u64) {
        let mut state = lock(&self.0);
        if state.landed.remove(&number).is_none() {
            state.unwanted.insert(number);
        }
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }

    /// Sends what has gathered, after what is under way has come back.
    fn go_on(&mut self, function: &Function, until: Instant) {
        if self.under_way.is_some() { self.receive(function, until) } else { self.send(function, until) }
    }

    /// Sends those that have gathered.
    fn send(&mut self, function: &Function, until: Instant) {
        let Some(Gathering { peer, batch, id, first }) = self.gathering.take() else { return };
        let rows = batch.rows();
        match UnderWay::send(function, peer, batch, id, until) {
            Ok((sent, buffer)) => {
                self.under_way = Some((sent, first));
                self.buffer = buffer;
            }
            Err(error) => self.fail(first, rows, error),
        }
    }

    /// Receives what is under way, and sends what has gathered meanwhile.
    fn receive(&mut self, function: &Function, until: Instant) {
        let Some((sent, first)) = self.under_way.take() else { return };
        let rows = sent.rows;
        let received = sent.receive(function);
        self.send(function, until);
        match received {
            Ok(received) => self.land(function, first, &received),
            Err(error) => self.fail(first, rows, error),
        }
    }

    fn land(&mut self, function: &Function, first: u64, received: &Received) {
        let Received { format, id, rows, reply } = received;
        match split_batch_reply(*format, reply, *id, *rows) {
            Ok(Ok(outcomes)) => {
                for (number, outcome) in (first..).zip(outcomes) {
                    let landed = Landed { format: *format, result: outcome.map(<[u8]>::to_vec) };
                    self.keep(number, Ok(landed));
                }
            }
            Ok(Err(text)) => self.fail(first, *rows, function.failed(text)),
            Err(source) => self.fail(first, *rows, Error::Message { what: function.what(CallKind::Batch), source }),
        }
    }

    fn fail(&mut self, first: u64, rows: u32, error: Error) {
        for number in (first + 1)..(first + u64::from(rows)) {
            self.keep(number, Err(error.for_another_call()));
        }
        self.keep(first, Err(error));
    }

    fn keep(&mut self, number: u64, landed: Result<Landed>) {
        if !self.unwanted.remove(&number) {
            self.landed.insert(number, landed);
        }
    }
}
