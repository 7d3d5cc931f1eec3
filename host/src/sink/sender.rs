//! The sending side of a sink's handle: one message after the other, to the
//! process that serves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::buffer::trim;
use ekuiper_core::instant::later;
use ekuiper_core::message::Feature;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::TransportError;
use ekuiper_transport_ipc::lock::{DeadlineLock, Held};
use serde::Serialize;

use super::acks::Receipt;
use super::connection::SinkConnection;
use super::message::{Message, Messages};
use super::sent::Sent;
use super::session::{READING, SinkSession};
use crate::{Error, Result};

/// Number of messages between two checks that all were read, for a plugin that
/// does not report what it has collected; `LOOK_PAUSE` is the minimum time
/// between two checks. Messages not read yet are lost when the plugin crashes.
const LOOK_EVERY: u64 = 64;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Size from which on encoded messages are sent, in bytes: a part of what a
/// transport writes at once, that stays in the processor's first cache.
const CHUNK: usize = 16 << 10;

pub(super) struct Sender {
    pub(super) session: Arc<SinkSession>,
    /// Held while a message is sent; by a caller that waits for the
    /// acknowledgement, also until then.
    sending: DeadlineLock<Sending>,
    stray_acks: Throttle,
}

#[derive(Default)]
pub(super) struct Sending {
    /// Connection of the last message.
    current: Option<Arc<SinkConnection>>,
    /// Time of the last check that all messages were read.
    looked: Option<Instant>,
    buffer: Vec<u8>,
    messages: Messages,
}

/// What became of an attempt to send a message without waiting.
pub(super) enum Attempt {
    /// It was sent; with what is needed to wait for its acknowledgement.
    Sent(Option<Sent>),
    /// The connection has no room.
    NoRoom(Arc<SinkConnection>),
    /// The message with this number must be acknowledged first.
    WindowFull(Arc<SinkConnection>, u64),
    /// To send it may block, or fails: for a thread to do.
    MayBlock,
}

impl Sender {
    pub(super) fn new(session: Arc<SinkSession>) -> Self {
        Self { session, sending: DeadlineLock::default(), stray_acks: Throttle::new() }
    }

    /// Tries to send a message without waiting.
    pub(super) fn try_transmit(&self, message: &Message) -> Attempt {
        let session = &*self.session;
        let Some(mut sending) = self.sending.try_lock() else { return Attempt::MayBlock };
        let is_usable = |connection: &Arc<SinkConnection>| {
            connection.is_current() && !connection.is_broken() && !session.is_stopped()
        };
        let current = sending.current.clone().or_else(|| session.live_connection());
        let Some(connection) = current.filter(is_usable) else { return Attempt::MayBlock };
        let Some(_turn) = connection.turn.try_lock() else { return Attempt::MayBlock };
        if connection.running.is_left() {
            return Attempt::MayBlock;
        }
        // What cannot be sent is told by the thread.
        let Ok(bytes) = message.bytes_in(connection.format) else { return Attempt::MayBlock };
        let past = Instant::now();
        let mut in_company = true;
        if session.require_ack {
            in_company = connection.running.has(Feature::AckWindow);
            let window = if in_company { session.plugin.site.options.ack_window.max(1) - 1 } else { 0 };
            let first = connection.sent().saturating_sub(window);
            if !connection.is_acknowledged(first) {
                return Attempt::WindowFull(connection.clone(), first);
            }
            if !in_company && self.drop_stray_acks(&connection, past, Duration::ZERO).is_err() {
                return Attempt::MayBlock;
            }
        }
        match connection.send(&bytes, in_company, past, Some(past)) {
            Ok(number) => {
                if connection.receipt == Receipt::Read && number.is_multiple_of(LOOK_EVERY) {
                    self.look(&mut sending, &connection);
                }
                sending.current = Some(connection.clone());
                let sent = Sent { session: self.session.clone(), connection: connection.clone(), number };
                Attempt::Sent(session.require_ack.then_some(sent))
            }
            Err(TransportError::Timeout) => Attempt::NoRoom(connection.clone()),
            Err(_) => Attempt::MayBlock,
        }
    }

    /// Sends a message of a task, as a thread may: it waits.
    pub(super) fn transmit_alone(&self, message: &Message) -> Result<Option<Sent>> {
        let (mut sending, since) = self.begin()?;
        self.transmit(&mut sending, message, true, since)
    }

    /// Waits for exclusive use of the sink; returns it with the time at which
    /// this message came.
    pub(super) fn begin(&self) -> Result<(Held<'_, Sending>, Instant)> {
        let patience = self.session.send_timeout();
        let now = Instant::now();
        Ok((self.alone(later(now, patience), patience)?, now))
    }

    pub(super) fn alone(&self, deadline: Instant, patience: Duration) -> Result<Held<'_, Sending>> {
        self.sending.lock(deadline).ok_or_else(|| {
            let words = format!("sink {}: earlier calls have not returned", self.session.control.symbol_name);
            let what = self.session.what().in_words(words).not_sent();
            let plugin = self.session.plugin.name().to_owned();
            self.session.counted(Error::Timeout { plugin, what, after: patience })
        })
    }

    pub(super) fn encode_and_transmit(
        &self,
        sending: &mut Sending,
        rows: &(impl Serialize + ?Sized),
        in_company: bool,
        since: Instant,
    ) -> Result<Option<Sent>> {
        let mut message = Message::empty(std::mem::take(&mut sending.buffer));
        let current = sending.current.as_ref().map(|connection| connection.format);
        let encoded = message.encode(rows, current.unwrap_or_else(|| self.session.format()));
        let encoded = encoded.map_err(|source| self.session.unencodable(source));
        let sent = encoded.and_then(|()| self.transmit(sending, &message, in_company, since));
        let mut buffer = message.into_space();
        trim(&mut buffer);
        sending.buffer = buffer;
        sent
    }

    /// Sends a message; returns what is needed to wait for its acknowledgement.
    /// With `in_company` the message may be delayed to be sent in a batch, and
    /// is sent while earlier ones are unacknowledged, if the plugin has a window.
    pub(super) fn transmit<B: AsRef<[u8]>>(
        &self,
        sending: &mut Sending,
        message: &Message<B>,
        in_company: bool,
        since: Instant,
    ) -> Result<Option<Sent>> {
        let session = &*self.session;
        let deadline = later(since, session.send_timeout());
        self.in_turn(sending, deadline, |sending, connection| {
            let mut in_company = in_company;
            if session.require_ack {
                in_company &= connection.running.has(Feature::AckWindow);
                let window = if in_company { session.plugin.site.options.ack_window.max(1) - 1 } else { 0 };
                session.make_room(connection, window)?;
                if !in_company {
                    self.drop_stray_acks(connection, deadline, session.send_timeout())?;
                }
            }
            let bytes = message.bytes_in(connection.format).map_err(|source| session.unencodable(source))?;
            let waiting = session.enter(READING)?;
            let sent = connection.send(&bytes, in_company || !session.require_ack, since, Some(deadline));
            drop(waiting);
            let Some(number) = self.sent(connection, sent)? else { return Ok(None) };
            if connection.receipt == Receipt::Read && number.is_multiple_of(LOOK_EVERY) {
                self.look(sending, connection);
            }
            let sent = || Sent { session: self.session.clone(), connection: connection.clone(), number };
            Ok(Some(session.require_ack.then(sent)))
        })
    }

    /// Sends each of these rows as a message, to a sink without
    /// acknowledgements, in batches. Others may send between two of them.
    pub(super) fn encode_and_transmit_all(&self, rows: &[impl Serialize]) -> Result<()> {
        let mut rows = rows.iter().peekable();
        while rows.peek().is_some() {
            let (mut sending, since) = self.begin()?;
            let mut messages = std::mem::take(&mut sending.messages);
            let format = sending.current.as_ref().map_or_else(|| self.session.format(), |current| current.format);
            let mut encoded = Ok(());
            while messages.size() < CHUNK
                && encoded.is_ok()
                && let Some(row) = rows.next()
            {
                encoded = messages.push(row, format);
            }
            // Those before a row that cannot be encoded are sent.
            let sent = match messages.size() {
                0 => Ok(()),
                _ => self.transmit_all(&mut sending, &messages, since),
            };
            messages.clear();
            sending.messages = messages;
            sent?;
            encoded.map_err(|source| self.session.unencodable(source))?;
        }
        Ok(())
    }

    fn transmit_all(&self, sending: &mut Sending, messages: &Messages, since: Instant) -> Result<()> {
        let session = &*self.session;
        let deadline = later(since, session.send_timeout());
        let mut done = 0;
        self.in_turn(sending, deadline, |sending, connection| {
            let messages = messages.in_format(connection.format).map_err(|source| session.unencodable(source))?;
            let waiting = session.enter(READING)?;
            let (count, sent) = connection.send_all(messages.bytes().skip(done), since, Some(deadline));
            drop(waiting);
            done += count;
            let sent = self.sent(connection, sent)?;
            if connection.receipt == Receipt::Read {
                self.look(sending, connection);
            }
            Ok(sent)
        })
    }

    /// Has the caller send by the connection of the process that serves, in this
    /// sender's turn, until it has done so: `None` means that the process has
    /// ended, and the next one gets what it did not.
    fn in_turn<T>(
        &self,
        sending: &mut Sending,
        deadline: Instant,
        mut send: impl FnMut(&mut Sending, &Arc<SinkConnection>) -> Result<Option<T>>,
    ) -> Result<T> {
        let session = &*self.session;
        loop {
            let current = sending
                .current
                .take()
                .filter(|connection| connection.is_current() && !connection.is_broken() && !session.is_stopped());
            let connection = current.map_or_else(|| session.connection(deadline), Ok);
            let connection = connection.map_err(|error| session.counted(error))?;
            let Some(turn) = connection.turn.lock(deadline) else { continue };
            if connection.running.is_left() {
                continue;
            }
            if connection.is_broken() {
                let (plugin, symbol) = (session.plugin.name().to_owned(), session.control.symbol_name.clone());
                return Err(session.counted(Error::SinkBroken { plugin, symbol }));
            }
            let sent = send(sending, &connection)?;
            drop(turn);
            if let Some(sent) = sent {
                sending.current = Some(connection);
                return Ok(sent);
            }
        }
    }

    /// Returns what came of an attempt to send: `None`, if the process has ended.
    /// Nothing was sent then, or a part that was lost with it.
    fn sent<T>(&self, connection: &SinkConnection, sent: std::result::Result<T, TransportError>) -> Result<Option<T>> {
        let session = &*self.session;
        match sent {
            Ok(sent) => Ok(Some(sent)),
            Err(_) if session.is_stopped() => Err(Error::Stopped),
            Err(TransportError::Disconnected | TransportError::Closed) if connection.running.is_over() => Ok(None),
            Err(error) => Err(session.explain(connection, error, "it takes no message", session.send_timeout())),
        }
    }

    /// Drops the acknowledgements that have arrived without a message, so that
    /// none counts for the next one.
    fn drop_stray_acks(&self, connection: &SinkConnection, deadline: Instant, patience: Duration) -> Result<()> {
        let session = &*self.session;
        let Some(dropped) = connection.acks.drop_stray(deadline) else {
            let problem = "acknowledgements without a message keep coming";
            return Err(session.explain(connection, TransportError::Timeout, problem, patience));
        };
        if dropped > 0
            && let Some(others) = self.stray_acks.pass(Instant::now())
        {
            let sink = &session.control.symbol_name;
            tracing::warn!(sink, dropped, others, "acknowledgements without a message were dropped");
        }
        Ok(())
    }

    /// Checks whether all messages were read, unless the last check is recent.
    fn look(&self, sending: &mut Sending, connection: &SinkConnection) {
        let now = Instant::now();
        if sending.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_PAUSE) {
            sending.looked = Some(now);
            // Messages lost by then are reported at the end.
            let _ = connection.look(now);
        }
    }
}
