//! Writing to a plugin's sink.

mod acks;
mod connection;
mod session;
mod settle;
pub(crate) mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// After how many messages it is looked whether all were read, where the plugin
/// does not tell what it has collected, and not more often than after this
/// time: those that were not are lost when the plugin crashes.
const LOOK_EVERY: u64 = 64;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A sink that is about to be opened.
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

    /// Whether each message must be acknowledged before the next is sent.
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

/// A sink that runs. After a crash of its plugin it goes on with the next
/// process.
///
/// [`Sink::close`] ends it, and says whether everything that was sent was
/// collected. Dropping it does the same, and can only log what was not.
pub struct Sink {
    session: Arc<SinkSession>,
    /// Held from a message to its ack, so that acks are not confused.
    sending: DeadlineLock<Sending>,
    stray_acks: Throttle,
    closed: bool,
}

#[derive(Default)]
struct Sending {
    /// The sink in the process that the last message went to.
    current: Option<Arc<SinkConnection>>,
    /// When it was last looked whether all were read.
    looked: Option<Instant>,
    buffer: Vec<u8>,
}

impl Sink {
    /// Sends a row, or an array of rows. With acks: returns when it was
    /// acknowledged.
    ///
    /// # Errors
    /// [`Error::Sink`] with the sink's own words when it did not take the
    /// message; [`Error::Timeout`], [`Error::OutcomeUnknown`] when it did not
    /// acknowledge; [`Error::SinkBroken`] after such a timeout;
    /// [`Error::Away`], [`Error::Broken`], [`Error::NotRestored`] while its
    /// plugin has crashed: nothing was sent then. [`Error::Stopped`] once it
    /// was [stopped](Sink::stopper): a message that was being sent then may
    /// have been taken.
    pub fn send(&self, rows: &(impl Serialize + ?Sized)) -> Result<()> {
        let (mut sending, deadline) = self.begin()?;
        self.encode_and_transmit(&mut sending, rows, false, deadline)?.map_or(Ok(()), |sent| sent.wait())
    }

    /// Sends a row, or an array of rows, and does not wait for the
    /// acknowledgement: [`PendingAck::wait`] does.
    ///
    /// Up to [`ack_window`](crate::HostBuilder::ack_window) messages may be
    /// under way to a plugin of ours; another plugin gets one message after the
    /// other, and so does a sink without acknowledgements.
    ///
    /// # Errors
    /// As [`Sink::send`], when it was not sent. With another plugin, what
    /// became of it is told by [`PendingAck::wait`].
    pub fn send_async(&self, rows: &(impl Serialize + ?Sized)) -> Result<PendingAck> {
        let (mut sending, deadline) = self.begin()?;
        let sent = self.encode_and_transmit(&mut sending, rows, true, deadline)?;
        let Some(sent) = sent else { return Ok(PendingAck(Pending::Done(Ok(())))) };
        if sent.connection.running.has(Feature::AckWindow) {
            return Ok(PendingAck(Pending::Sent(sent)));
        }
        Ok(PendingAck(Pending::Done(sent.wait())))
    }

    /// Sends bytes as they are; the sinks of the official SDKs take any.
    ///
    /// # Errors
    /// As [`Sink::send`].
    pub fn send_bytes(&self, message: &[u8]) -> Result<()> {
        let (mut sending, deadline) = self.begin()?;
        self.transmit(&mut sending, message, false, deadline)?.map_or(Ok(()), |sent| sent.wait())
    }

    /// Waits until nobody else sends; until when this message is to be sent.
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

    /// Sends a message; what its acknowledgement is waited for with. With
    /// `in_company` it may wait for others.
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
                if !in_company
                    && connection.drop_stray_acks() > 0
                    && let Some(others) = self.stray_acks.pass(Instant::now())
                {
                    let sink = &session.control.symbol_name;
                    tracing::warn!(sink, others, "an acknowledgement without a message was dropped");
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
                // Nothing was sent, or only a piece that the plugin's end has
                // swallowed: the next process gets it.
                Err(TransportError::Disconnected | TransportError::Closed) if connection.running.is_over() => {}
                Err(error) => return Err(session.explain(&connection, error, "it takes no message", patience)),
            }
        }
    }

    /// Looks whether all was read, unless that was done a moment ago.
    fn look(&self, sending: &mut Sending, connection: &SinkConnection) {
        let now = Instant::now();
        if sending.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_PAUSE) {
            sending.looked = Some(now);
            // What it has lost is told at the end.
            let _ = connection.look(now);
        }
    }

    /// Waits until everything that was sent has been collected. A plugin on an
    /// official SDK does not tell that without acknowledgements: there it is
    /// waited until its process has read everything.
    ///
    /// # Errors
    /// [`Error::Timeout`]; while its plugin has crashed as [`Sink::send`].
    pub fn flush(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let _sending = self.alone(deadline, patience)?;
        let connection = self.session.connection(deadline)?;
        self.session.flush(&connection, deadline.saturating_duration_since(Instant::now()))
    }

    /// What is known of what was sent so far.
    pub fn delivery(&self) -> Delivery {
        self.session.delivery()
    }

    /// A handle that ends a wait on this sink from another thread.
    pub fn stopper(&self) -> SinkStopper {
        SinkStopper(self.session.clone())
    }

    /// Waits until everything that was sent was collected (the sink's `collect`
    /// has returned for it, or it was acknowledged), then stops the sink. The
    /// wait goes on as long as there is progress, at most for
    /// [`drain_timeout`](crate::HostBuilder::drain_timeout), without progress
    /// for [`drain_stall`](crate::HostBuilder::drain_stall); meanwhile other
    /// symbols of the plugin start and stop. [`SinkStopper::delivery`] shows the
    /// progress, and [`SinkStopper::abandon`] ends the wait.
    ///
    /// A plugin on an official SDK does not tell what it has collected without
    /// acknowledgements: there it is waited until its process has read
    /// everything, and for a few seconds at most until it has come to rest.
    /// What it has read and still not dealt with by then is lost.
    ///
    /// # Errors
    /// [`Error::NotCollected`] with the number of messages that are not known
    /// to have been collected, those that an earlier crash may have cost
    /// included. Where the wait was given up, the number is that moment's: the
    /// host stops the sink in the background, which may still collect some, and
    /// opening the same sink again waits for that. [`Error::NotStopped`]:
    /// everything was collected, and the plugin did not carry out the stop.
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
            tracing::warn!(%error, "a dropped sink was not closed gracefully");
        }
    }
}

/// Ends what somebody waits for on a [`Sink`], from another thread.
#[derive(Clone)]
pub struct SinkStopper(Arc<SinkSession>);

impl SinkStopper {
    /// Whoever sends or flushes gets [`Error::Stopped`], now and from now on.
    /// The sink itself runs until its handle is closed or dropped, and still
    /// collects what was sent before. A message in the middle of which it was
    /// stopped does not arrive; one that waited for its acknowledgement does.
    pub fn stop(&self) {
        self.0.end();
    }

    /// Ends the wait for what was sent to be collected, now and from now on:
    /// [`Sink::close`] returns at once with what is not known to be.
    pub fn abandon(&self) {
        self.0.abandon();
    }

    /// What is known of what was sent so far.
    pub fn delivery(&self) -> Delivery {
        self.0.delivery()
    }
}

/// A message that was sent, and its acknowledgement, once it is there.
/// Dropping it drops what became of the message.
#[must_use = "the message may not have been taken"]
pub struct PendingAck(Pending);

enum Pending {
    Sent(Sent),
    Done(Result<()>),
    /// It was waited for.
    Over,
}

impl PendingAck {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// As [`Sink::send`].
    pub fn wait(mut self) -> Result<()> {
        match std::mem::replace(&mut self.0, Pending::Over) {
            Pending::Sent(sent) => sent.wait(),
            Pending::Done(outcome) => outcome,
            Pending::Over => Err(Error::Stopped),
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
