//! Writing to a plugin's sink.

pub(crate) mod async_sink;
pub(crate) mod pending;
pub(crate) mod tally;

mod acks;
#[cfg(any(feature = "arrow59", feature = "c-data"))]
#[cfg_attr(not(feature = "arrow59"), allow(unreachable_pub, reason = "arrow59 exports it"))]
pub(crate) mod columns;
mod connection;
mod errors;
mod message;
mod proof;
mod sender;
mod sent;
mod session;
mod settle;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::message::{Control, Feature, RawTuple, SymbolKind};
use ekuiper_transport_ipc::wait::deadline_after;
use serde::Serialize;

use crate::background::Task;
use crate::plugin::Plugin;
use crate::target::{Target, target_setters};
use crate::{Error, Result, blocking};
use async_sink::AsyncSink;
use message::Message;
use pending::PendingAck;
use sender::Sender;
use session::SinkSession;
use tally::Delivery;

/// Builder of a [`Sink`].
#[must_use = "it does nothing until it is opened"]
pub struct SinkBuilder {
    plugin: Result<Arc<Plugin>>,
    target: Target,
    require_ack: bool,
}

impl SinkBuilder {
    pub(crate) fn new(plugin: Result<Arc<Plugin>>, symbol: &str) -> Self {
        Self { plugin, target: Target::new(SymbolKind::Sink, symbol), require_ack: false }
    }

    target_setters!();

    /// Sets whether each message must be acknowledged before the next is sent.
    /// Default: no.
    pub fn require_ack(mut self, require_ack: bool) -> Self {
        self.require_ack = require_ack;
        self
    }

    /// Starts the sink in a thread of the host, for a caller that must not
    /// block. Dropping the future stops the sink, and ends every wait of the
    /// open: the next open at its [place](Self::wait_for_place) waits until it
    /// is stopped.
    ///
    /// # Errors
    /// As [`SinkBuilder::open`].
    pub fn open_async(self) -> Task<Result<AsyncSink>> {
        match self.session() {
            Ok(session) => {
                let opened = session.clone();
                let opening = session.plugin.site.openings.start(move || Sink::open(opened).map(Sink::into_async));
                opening.or_when_dropped(move || session.give_up_open())
            }
            Err(error) => Task::done(Err(error)),
        }
    }

    /// Starts the sink.
    ///
    /// # Errors
    /// No plugin serves it; the plugin cannot be started, or refuses; another
    /// channel has the same address, or another handle has the
    /// [place](Self::wait_for_place).
    pub fn open(self) -> Result<Sink> {
        Sink::open(self.session()?)
    }

    fn session(self) -> Result<Arc<SinkSession>> {
        let Self { plugin, target, require_ack } = self;
        let plugin = plugin?;
        let mut config = target.config(plugin.name())?;
        if require_ack {
            config.insert("requireAck".into(), true.into());
        }
        let control = Control::sink(&target.symbol, target.meta.clone(), config);
        Ok(SinkSession::new(plugin, target, control))
    }
}

/// A running sink. After a crash of its plugin it continues with the next
/// process.
///
/// [`Sink::close`] stops the sink, and returns whether everything sent to it
/// was collected. Dropping it does the same without waiting, but can only log
/// what was not; the shutdown of the host waits for it.
pub struct Sink {
    sender: Arc<Sender>,
    closed: bool,
}

impl Sink {
    fn open(session: Arc<SinkSession>) -> Result<Self> {
        session.open()?;
        Ok(Self { sender: Arc::new(Sender::new(session)), closed: false })
    }

    /// Sends a row, or an array of rows. With acknowledgements, returns once
    /// the message is acknowledged.
    ///
    /// # Errors
    /// [`Error::Sink`](crate::Error::Sink) with the sink's error text when it rejected the message;
    /// [`Error::Timeout`](crate::Error::Timeout), [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown)
    /// when it did not
    /// acknowledge; [`Error::SinkBroken`](crate::Error::SinkBroken) after such a timeout;
    /// [`Error::Away`](crate::Error::Away), [`Error::Broken`](crate::Error::Broken),
    /// [`Error::NotRestored`](crate::Error::NotRestored) after a crash
    /// of its plugin, when nothing was sent. [`Error::Stopped`](crate::Error::Stopped) after a
    /// [stop](Sink::stopper): a message being sent at that moment may have been
    /// collected.
    pub fn send(&self, rows: &(impl Serialize + ?Sized)) -> Result<()> {
        let (mut sending, since) = self.sender.begin()?;
        self.sender.encode_and_transmit(&mut sending, rows, false, since)?.map_or(Ok(()), |sent| sent.wait())
    }

    /// Sends a row, or an array of rows, without waiting for the
    /// acknowledgement, which [`PendingAck::wait`] does.
    ///
    /// To a plugin on our SDK, up to
    /// [`ack_window`](crate::HostBuilder::ack_window) messages may be in
    /// flight; any other plugin gets one message at a time, and so does a sink
    /// without acknowledgements.
    ///
    /// # Errors
    /// As [`Sink::send`], when the message was not sent. With any other plugin,
    /// [`PendingAck::wait`] returns the outcome.
    pub fn send_async(&self, rows: &(impl Serialize + ?Sized)) -> Result<PendingAck> {
        let (mut sending, since) = self.sender.begin()?;
        let sent = self.sender.encode_and_transmit(&mut sending, rows, true, since)?;
        let Some(sent) = sent else { return Ok(PendingAck::known(Ok(()))) };
        if sent.connection.running.has(Feature::AckWindow) {
            return Ok(PendingAck::of(sent));
        }
        Ok(PendingAck::known(sent.wait()))
    }

    /// Sends bytes unchanged; sinks on the official SDKs accept any.
    ///
    /// # Errors
    /// As [`Sink::send`].
    pub fn send_bytes(&self, message: &[u8]) -> Result<()> {
        let (mut sending, since) = self.sender.begin()?;
        self.sender
            .transmit(&mut sending, &Message::of_bytes(message), false, since)?
            .map_or(Ok(()), |sent| sent.wait())
    }

    /// Sends each of these rows as a message of its own, as [`Sink::send`] does
    /// one after the other, and faster: they are encoded and sent some at a time.
    /// With acknowledgements, up to
    /// [`ack_window`](crate::HostBuilder::ack_window) of them are in flight to a
    /// plugin on our SDK; returns once all are acknowledged.
    ///
    /// # Errors
    /// As [`Sink::send`], of the first row that was not sent, or was rejected.
    /// The rows before it were sent; their number is what [`Sink::delivery`] has
    /// more than before, if nobody else sends. Those after it were not, but for
    /// the ones in flight to a sink that acknowledges, whose outcomes that tells
    /// as well.
    pub fn send_all<T: Serialize>(&self, rows: &[T]) -> Result<()> {
        if !self.session().require_ack {
            return self.sender.encode_and_transmit_all(rows);
        }
        let mut pending = VecDeque::new();
        for row in rows {
            pending.push_back(self.send_async(row)?);
            while pending.front().is_some_and(PendingAck::is_known) {
                pending.pop_front().map_or(Ok(()), PendingAck::wait)?;
            }
        }
        pending.into_iter().try_for_each(PendingAck::wait)
    }

    /// Sends a record, or columns, of a source as it [came](crate::Source::next_raw):
    /// nothing is decoded, unless the record came in MessagePack and the sink
    /// reads JSON alone.
    ///
    /// # Errors
    /// As [`Sink::send`]; for columns as [`Sink::send_columns`].
    pub fn send_raw(&self, tuple: &RawTuple) -> Result<()> {
        if tuple.columns().is_some() {
            return self.send_columns(tuple.message());
        }
        let (mut sending, since) = self.sender.begin()?;
        let message = Message::of_record(tuple.message(), tuple.format());
        let message = message.map_err(|source| self.session().unencodable(source))?;
        self.sender.transmit(&mut sending, &message, false, since)?.map_or(Ok(()), |sent| sent.wait())
    }

    /// Sends columns, an Arrow IPC stream of one record batch, unchanged.
    /// `arrow59::send_batch` sends record batches, and rows to a sink that takes
    /// no columns.
    ///
    /// # Errors
    /// [`Error::NoColumns`](crate::Error::NoColumns), when the sink does not
    /// [take them](crate::description::SinkDescription::columnar); otherwise as
    /// [`Sink::send`].
    pub fn send_columns(&self, stream: &[u8]) -> Result<()> {
        if self.takes_columns()? {
            return self.send_bytes(stream);
        }
        let plugin = self.session().plugin.name().to_owned();
        let symbol = self.session().control.symbol_name.clone();
        Err(self.session().counted(Error::NoColumns { plugin, symbol }))
    }

    fn takes_columns(&self) -> Result<bool> {
        let session = self.session();
        let connection = session.connection(deadline_after(session.send_timeout()));
        let connection = connection.map_err(|error| session.counted(error))?;
        Ok(connection.running.is_columnar(&session.control.symbol_name))
    }

    /// Waits until everything that was sent has been collected. A plugin on an
    /// official SDK does not report that without acknowledgements; there, waits
    /// until its process has read everything.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout); after a crash of its plugin as [`Sink::send`].
    pub fn flush(&self, patience: Duration) -> Result<()> {
        let deadline = deadline_after(patience);
        let _sending = self.sender.alone(deadline, patience)?;
        let connection = self.session().connection(deadline)?;
        self.session().flush(&connection, deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns the delivery counts so far.
    pub fn delivery(&self) -> Delivery {
        self.session().delivery()
    }

    /// Returns a handle that ends waits on this sink from another thread.
    pub fn stopper(&self) -> SinkStopper {
        SinkStopper(self.session().clone())
    }

    /// Drains the sink, waiting until everything that was sent has been
    /// collected (the sink's `collect` has returned for it, or it was
    /// acknowledged), then stops it. Draining takes at most
    /// [`drain_timeout`](crate::HostBuilder::drain_timeout), and at most
    /// [`drain_stall`](crate::HostBuilder::drain_stall) without progress, which
    /// includes work of the plugin's process; other symbols of the plugin start
    /// and stop meanwhile.
    /// [`SinkStopper::delivery`] shows the progress, and
    /// [`SinkStopper::abandon`] ends the wait.
    ///
    /// A plugin on an official SDK does not report without acknowledgements
    /// what it has collected; there, draining waits until its process has read
    /// everything, and then until the process is idle: for a few seconds at
    /// most if the process only wakes up now and then, or has other sources or
    /// sinks. Messages that were read but not processed by then are lost.
    ///
    /// # Errors
    /// [`Error::NotCollected`](crate::Error::NotCollected) with the number of messages that are not known
    /// to have been collected, including those that an earlier crash may have
    /// lost. When the wait was given up, the number is of that moment: the host
    /// stops the sink in the background, where it may still collect some, and
    /// opening the same sink again waits for that. [`Error::NotStopped`](crate::Error::NotStopped):
    /// everything was collected, but the plugin did not carry out the stop.
    pub fn close(mut self) -> Result<()> {
        self.closed = true;
        self.session().stop()
    }

    /// Returns the sink for tasks.
    pub fn into_async(self) -> AsyncSink {
        AsyncSink::new(self)
    }

    fn session(&self) -> &Arc<SinkSession> {
        &self.sender.session
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.closed {
            let session = self.session().clone();
            blocking::forbidden(|| {
                session.mark_dropped();
                drop(self.session().close_later(move || session.stop()));
            });
        }
    }
}

/// Handle that ends waits on a [`Sink`] from another thread.
#[derive(Clone)]
pub struct SinkStopper(Arc<SinkSession>);

impl SinkStopper {
    /// Makes every current and later send and flush return [`Error::Stopped`](crate::Error::Stopped).
    /// The sink itself runs until its handle is closed or dropped, and still
    /// collects what was sent before. A message that was being sent at this
    /// moment does not arrive; one that was waiting for its acknowledgement
    /// does.
    pub fn stop(&self) {
        self.0.end();
    }

    /// Ends the wait for the sink to collect what was sent, now and from now
    /// on: [`Sink::close`] returns at once with what is not known to be
    /// collected.
    pub fn abandon(&self) {
        self.0.abandon();
    }

    /// Returns the delivery counts so far.
    pub fn delivery(&self) -> Delivery {
        self.0.delivery()
    }
}
