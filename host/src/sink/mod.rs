//! Writing to a plugin's sink.

mod acks;
mod connection;
mod proof;
mod session;
mod settle;
pub(crate) mod tally;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::message::{Control, Feature, SymbolKind};
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::TransportError;
use ekuiper_transport_ipc::lock::{DeadlineLock, Held};
use serde::Serialize;

use crate::plugin::Plugin;
use crate::target::{Target, target_setters};
use crate::{Error, Result};
use acks::Receipt;
use connection::SinkConnection;
use session::{READING, Sent, SinkSession};
use tally::Delivery;

/// Number of messages between two checks that all were read, for a plugin that
/// does not report what it has collected; `LOOK_PAUSE` is the minimum time
/// between two checks. Messages not read yet are lost when the plugin crashes.
const LOOK_EVERY: u64 = 64;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

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

    /// Starts the sink.
    ///
    /// # Errors
    /// No plugin serves it; the plugin cannot be started, or refuses; another
    /// channel has the same address.
    pub fn open(self) -> Result<Sink> {
        let Self { plugin, target, require_ack } = self;
        let plugin = plugin?;
        let mut config = target.config()?;
        if require_ack {
            config.insert("requireAck".into(), true.into());
        }
        let control = Control::sink(&target.symbol, target.meta.clone(), config);
        let session = SinkSession::new(plugin.clone(), target, control);
        plugin.attach(session.clone())?;
        Ok(Sink { session, sending: DeadlineLock::default(), stray_acks: Throttle::new(), closed: false })
    }
}

/// A running sink. After a crash of its plugin it continues with the next
/// process.
///
/// [`Sink::close`] stops the sink, and returns whether everything sent to it
/// was collected. Dropping it does the same, but can only log what was not.
pub struct Sink {
    session: Arc<SinkSession>,
    /// Held from a message to its acknowledgement, so that acknowledgements
    /// match their messages.
    sending: DeadlineLock<Sending>,
    stray_acks: Throttle,
    closed: bool,
}

#[derive(Default)]
struct Sending {
    /// Connection of the last message.
    current: Option<Arc<SinkConnection>>,
    /// Time of the last check that all messages were read.
    looked: Option<Instant>,
    buffer: Vec<u8>,
}

impl Sink {
    /// Sends a row, or an array of rows. With acknowledgements, returns once
    /// the message is acknowledged.
    ///
    /// # Errors
    /// [`Error::Sink`] with the sink's error text when it rejected the message;
    /// [`Error::Timeout`], [`Error::OutcomeUnknown`] when it did not
    /// acknowledge; [`Error::SinkBroken`] after such a timeout;
    /// [`Error::Away`], [`Error::Broken`], [`Error::NotRestored`] after a crash
    /// of its plugin, when nothing was sent. [`Error::Stopped`] after a
    /// [stop](Sink::stopper): a message being sent at that moment may have been
    /// collected.
    pub fn send(&self, rows: &(impl Serialize + ?Sized)) -> Result<()> {
        let (mut sending, deadline) = self.begin()?;
        self.encode_and_transmit(&mut sending, rows, false, deadline)?.map_or(Ok(()), |sent| sent.wait())
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
        let (mut sending, deadline) = self.begin()?;
        let sent = self.encode_and_transmit(&mut sending, rows, true, deadline)?;
        let Some(sent) = sent else { return Ok(PendingAck(Pending::Done(Ok(())))) };
        if sent.connection.running.has(Feature::AckWindow) {
            return Ok(PendingAck(Pending::Sent(sent)));
        }
        Ok(PendingAck(Pending::Done(sent.wait())))
    }

    /// Sends bytes unchanged; sinks on the official SDKs accept any.
    ///
    /// # Errors
    /// As [`Sink::send`].
    pub fn send_bytes(&self, message: &[u8]) -> Result<()> {
        let (mut sending, deadline) = self.begin()?;
        self.transmit(&mut sending, message, false, deadline)?.map_or(Ok(()), |sent| sent.wait())
    }

    /// Waits for exclusive use of the sink; returns it with the deadline of
    /// this message.
    fn begin(&self) -> Result<(Held<'_, Sending>, Instant)> {
        let patience = self.session.send_timeout();
        let deadline = Instant::now() + patience;
        Ok((self.alone(deadline, patience)?, deadline))
    }

    fn alone(&self, deadline: Instant, patience: Duration) -> Result<Held<'_, Sending>> {
        self.sending.lock(deadline).ok_or_else(|| {
            let what = format!("sink {}: earlier calls have not returned", self.session.control.symbol_name);
            Error::Timeout { plugin: self.session.plugin.name().to_owned(), what, after: patience }
        })
    }

    fn encode_and_transmit(
        &self,
        sending: &mut Sending,
        rows: &(impl Serialize + ?Sized),
        in_company: bool,
        deadline: Instant,
    ) -> Result<Option<Sent>> {
        let mut buffer = std::mem::take(&mut sending.buffer);
        buffer.clear();
        let encoded = ekuiper_core::message::encode_rows(&mut buffer, rows)
            .map_err(|source| Error::Message { what: self.session.what(), source });
        let sent = encoded.and_then(|()| self.transmit(sending, &buffer, in_company, deadline));
        sending.buffer = buffer;
        sent
    }

    /// Sends a message; returns what is needed to wait for its acknowledgement.
    /// With `in_company` the message may be delayed to be sent in a batch.
    fn transmit(
        &self,
        sending: &mut Sending,
        message: &[u8],
        in_company: bool,
        deadline: Instant,
    ) -> Result<Option<Sent>> {
        let session = &*self.session;
        let patience = session.send_timeout();
        loop {
            let current = sending
                .current
                .take()
                .filter(|connection| connection.is_current() && !connection.is_broken() && !session.is_stopped());
            let connection = current.map_or_else(|| session.connection(deadline), Ok)?;
            let Some(_turn) = connection.turn.lock(deadline) else { continue };
            if connection.running.is_left() {
                continue;
            }
            if connection.is_broken() {
                return Err(Error::SinkBroken { symbol: session.control.symbol_name.clone() });
            }
            let mut in_company = in_company;
            if session.require_ack {
                in_company &= connection.running.has(Feature::AckWindow);
                let window = if in_company { session.plugin.site.options.ack_window.max(1) - 1 } else { 0 };
                session.make_room(&connection, window)?;
                if !in_company {
                    self.drop_stray_acks(&connection, deadline, patience)?;
                }
            }
            let waiting = session.enter(READING)?;
            let sent = match session.require_ack {
                true => connection.send(message, in_company, Some(deadline)).map(Some),
                false => connection.send(message, true, Some(deadline)).map(|number| {
                    if connection.receipt == Receipt::Read && number.is_multiple_of(LOOK_EVERY) {
                        self.look(sending, &connection);
                    }
                    None
                }),
            };
            drop(waiting);
            match sent {
                Ok(number) => {
                    session.plugin.counters.messages_out.add(1);
                    sending.current = Some(connection.clone());
                    if let Some(number) = number {
                        return Ok(Some(Sent {
                            session: self.session.clone(),
                            connection: connection.clone(),
                            number,
                        }));
                    }
                    return Ok(None);
                }
                Err(_) if session.is_stopped() => return Err(Error::Stopped),
                // Nothing was sent, or a part that was lost with the process:
                // retry with the next process.
                Err(TransportError::Disconnected | TransportError::Closed) if connection.running.is_over() => {}
                Err(error) => return Err(session.explain(&connection, error, "it takes no message", patience)),
            }
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

    /// Waits until everything that was sent has been collected. A plugin on an
    /// official SDK does not report that without acknowledgements; there, waits
    /// until its process has read everything.
    ///
    /// # Errors
    /// [`Error::Timeout`]; after a crash of its plugin as [`Sink::send`].
    pub fn flush(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let _sending = self.alone(deadline, patience)?;
        let connection = self.session.connection(deadline)?;
        self.session.flush(&connection, deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns the delivery counts so far.
    pub fn delivery(&self) -> Delivery {
        self.session.delivery()
    }

    /// Returns a handle that ends waits on this sink from another thread.
    pub fn stopper(&self) -> SinkStopper {
        SinkStopper(self.session.clone())
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
    /// [`Error::NotCollected`] with the number of messages that are not known
    /// to have been collected, including those that an earlier crash may have
    /// lost. When the wait was given up, the number is of that moment: the host
    /// stops the sink in the background, where it may still collect some, and
    /// opening the same sink again waits for that. [`Error::NotStopped`]:
    /// everything was collected, but the plugin did not carry out the stop.
    pub fn close(mut self) -> Result<()> {
        self.closed = true;
        self.session.stop()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        if let Err(error) = self.session.stop() {
            tracing::warn!(error = %Chain(&error), "a dropped sink was not closed gracefully");
        }
    }
}

/// Handle that ends waits on a [`Sink`] from another thread.
#[derive(Clone)]
pub struct SinkStopper(Arc<SinkSession>);

impl SinkStopper {
    /// Makes every current and later send and flush return [`Error::Stopped`].
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

/// A message in flight, whose acknowledgement can be waited for. Dropping it
/// discards the outcome.
#[must_use = "the message may not have been taken"]
pub struct PendingAck(Pending);

enum Pending {
    Sent(Sent),
    Done(Result<()>),
}

impl PendingAck {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// As [`Sink::send`].
    pub fn wait(mut self) -> Result<()> {
        // What stays behind has nothing to forget.
        match std::mem::replace(&mut self.0, Pending::Done(Ok(()))) {
            Pending::Sent(sent) => sent.wait(),
            Pending::Done(outcome) => outcome,
        }
    }
}

impl Drop for PendingAck {
    fn drop(&mut self) {
        if let Pending::Sent(sent) = &self.0 {
            sent.connection.forget(sent.number);
        }
    }
}
