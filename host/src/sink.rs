//! Writing to a plugin's sink.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::message::{Control, SymbolKind};
use ekuiper_core::transport::TransportError;
use serde::Serialize;

use crate::error::transport_error;
use crate::live::Live;
use crate::outlet::{Acknowledged, Outlet};
use crate::plugin::Plugin;
use crate::running::Running;
use crate::site::{Claim, lock};
use crate::status::EventKind;
use crate::target::{Target, target_setters};
use crate::{Error, Result};

/// After how many messages it is looked whether all were read: those that were
/// not are lost when the plugin crashes.
const LOOK_EVERY: u64 = 64;

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
        let drain = Arc::new(Drain {
            plugin: plugin.clone(),
            require_ack: control.requires_ack(),
            target,
            control,
            starting: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            stage: AtomicU8::new(NOTHING),
        });
        plugin.attach(drain.clone())?;
        Ok(Sink { drain, sending: Mutex::default() })
    }
}

/// A sink with a handle, through all processes of its plugin.
struct Drain {
    plugin: Arc<Plugin>,
    target: Target,
    control: Control,
    require_ack: bool,
    /// Held while it is started or stopped: the one follows the other.
    starting: Mutex<()>,
    state: Mutex<DrainState>,
    changed: Condvar,
    /// Nothing is to be sent any more.
    stopped: AtomicBool,
    /// What whoever sends waits for: set before `stopped` is looked at, and
    /// looked at after that is set.
    stage: AtomicU8,
}

#[derive(Default)]
struct DrainState {
    outlet: Option<Arc<Outlet>>,
    claims: Option<[Claim; 2]>,
    /// It could not be started again.
    failure: Option<Error>,
    closed: bool,
    /// Its data channel was closed in the middle of a message.
    cut_off: bool,
    /// The latest process that was left after it had read all.
    emptied: u64,
    /// How often whoever waits was told to look again.
    wakes: u64,
}

/// Nobody waits.
const NOTHING: u8 = 0;
/// That the plugin takes a message, or has read all.
const READING: u8 = 1;
/// That it acknowledges.
const ACK: u8 = 2;

impl Live for Drain {
    fn control(&self) -> &Control {
        &self.control
    }

    fn restore(&self, running: &Arc<Running>) -> Result<()> {
        let _starting = lock(&self.starting);
        let mut state = lock(&self.state);
        let former = state.outlet.clone();
        if state.closed || former.as_ref().is_some_and(|outlet| outlet.running.generation == running.generation) {
            return Ok(());
        }
        drop(state);
        let started = self.start(running, former.as_deref());
        state = lock(&self.state);
        let outcome = match started {
            Ok(outlet) => {
                state.outlet = Some(outlet);
                Ok(())
            }
            Err(error) => Err(error),
        };
        state.wakes += 1;
        self.changed.notify_all();
        outcome
    }

    fn is_lost(&self, cause: &Error) {
        let mut state = lock(&self.state);
        state.failure = Some(Error::NotRestored { what: self.what(), cause: cause.to_string() });
        state.wakes += 1;
        self.changed.notify_all();
    }

    fn leave(&self, running: &Running, deadline: Instant) {
        let outlet = lock(&self.state).outlet.clone();
        let Some(outlet) = outlet.filter(|outlet| outlet.running.generation == running.generation) else { return };
        // From a message to its ack.
        drop(outlet.turn.take(deadline));
        if outlet.is_alive() && outlet.flush(Some(deadline)).is_ok() {
            lock(&self.state).emptied = running.generation;
        }
    }

    fn wake(&self) {
        lock(&self.state).wakes += 1;
        self.changed.notify_all();
    }
}

impl Drain {
    fn what(&self) -> String {
        format!("{} (plugin {})", self.target.describe(), self.plugin.name())
    }

    fn start(&self, running: &Arc<Running>, former: Option<&Outlet>) -> Result<Arc<Outlet>> {
        if let Some(former) = former {
            former.close();
        }
        let message = |source| Error::Message { what: self.what(), source };
        let data = running.folder.data(&self.target.meta).map_err(message)?;
        let ack = running.folder.ack(&self.target.meta).map_err(message)?;
        let mut state = lock(&self.state);
        if state.claims.as_ref().is_none_or(|[claim, _]| claim.address != data) {
            state.claims = None;
            let claim = |address: &_| running.site.claim(Clone::clone(address), self.what());
            state.claims = Some([claim(&data)?, claim(&ack)?]);
        }
        drop(state);
        Outlet::start(running, &self.control, &data, &ack, &self.what())
    }

    /// Notes what whoever sends waits for from now on.
    fn enter(&self, stage: u8) -> Result<Waiting<'_>> {
        self.stage.store(stage, Ordering::SeqCst);
        let waiting = Waiting(self);
        if self.is_stopped() { Err(Error::Stopped) } else { Ok(waiting) }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Ends the wait of whoever sends; nobody sends any more. What was sent
    /// before is still read.
    fn end(&self) {
        let mut state = lock(&self.state);
        self.stopped.store(true, Ordering::SeqCst);
        match (self.stage.load(Ordering::SeqCst), &state.outlet) {
            (READING, Some(outlet)) => {
                outlet.cut_off();
                state.cut_off = true;
            }
            (ACK, Some(outlet)) => outlet.expect_no_acks(),
            _ => {}
        }
        state.wakes += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// The sink in a process that lives; waits for one after a crash.
    fn outlet(&self, deadline: Instant) -> Result<Arc<Outlet>> {
        let mut state = lock(&self.state);
        loop {
            if state.closed || self.is_stopped() {
                return Err(Error::Stopped);
            }
            if let Some(outlet) = state.outlet.clone().filter(|outlet| outlet.is_alive() && !outlet.running.is_left()) {
                return Ok(outlet);
            }
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            let seen = state.wakes;
            drop(state);
            self.plugin.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.plugin.away_error());
            }
            state = lock(&self.state);
            if state.wakes == seen {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Waits until the plugin has read all that was sent, then stops the sink.
    fn stop(&self) -> Result<()> {
        self.plugin.detach(self);
        let _starting = lock(&self.starting);
        let mut state = lock(&self.state);
        state.closed = true;
        let (outlet, cut_off) = (state.outlet.take(), state.cut_off);
        drop(state);
        self.changed.notify_all();
        let Some(outlet) = outlet else { return Ok(()) };
        let flushed = if outlet.is_alive() && !cut_off { self.flush(&outlet, self.send_timeout()) } else { Ok(()) };
        let stopped = outlet.stop(&self.control);
        lock(&self.state).claims = None;
        flushed.and(stopped)
    }

    fn flush(&self, outlet: &Outlet, patience: Duration) -> Result<()> {
        outlet
            .flush(Some(Instant::now() + patience))
            .map_err(|error| self.explain(outlet, error, "it has not read all that was sent", patience))
    }

    fn send_timeout(&self) -> Duration {
        self.plugin.site.options.send_timeout
    }

    fn explain(&self, outlet: &Outlet, error: TransportError, problem: &str, after: Duration) -> Error {
        let plugin = self.plugin.name().to_owned();
        match (error, outlet.running.process.exit()) {
            (TransportError::Disconnected | TransportError::Timeout | TransportError::Closed, Some(exit)) => {
                Error::Exited { plugin, exit }
            }
            (TransportError::Timeout, None) => {
                Error::Timeout { plugin, what: format!("sink {}: {problem}", self.control.symbol_name), after }
            }
            (error, _) => transport_error(self.what())(error),
        }
    }
}

/// Somebody waits; dropped when it is over.
struct Waiting<'a>(&'a Drain);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.stage.store(NOTHING, Ordering::SeqCst);
    }
}

/// A sink that runs. After a crash of its plugin it goes on with the next
/// process. Dropping it stops the sink, after it has read what was sent.
pub struct Sink {
    drain: Arc<Drain>,
    /// Held from a message to its ack, so that acks are not confused.
    sending: Mutex<Sending>,
}

#[derive(Default)]
struct Sending {
    /// The process that the last message went to.
    generation: u64,
    /// An ack did not come from it: later ones could be taken for that.
    broken: bool,
    /// Messages without acks that it may not have read.
    unread: u64,
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
        let mut sending = lock(&self.sending);
        let mut buffer = std::mem::take(&mut sending.buffer);
        buffer.clear();
        let encoded = ekuiper_core::message::encode_rows(&mut buffer, rows)
            .map_err(|source| Error::Message { what: self.drain.what(), source });
        let sent = encoded.and_then(|()| self.transmit(&mut sending, &buffer));
        sending.buffer = buffer;
        sent
    }

    /// Sends bytes as they are; the sinks of the official SDKs take any.
    ///
    /// # Errors
    /// As [`Sink::send`].
    pub fn send_bytes(&self, message: &[u8]) -> Result<()> {
        self.transmit(&mut lock(&self.sending), message)
    }

    fn transmit(&self, sending: &mut Sending, message: &[u8]) -> Result<()> {
        let drain = &*self.drain;
        let patience = drain.send_timeout();
        let deadline = Instant::now() + patience;
        loop {
            let outlet = drain.outlet(deadline)?;
            let Some(_turn) = outlet.turn.take(deadline) else { continue };
            if outlet.running.is_left() {
                continue;
            }
            self.meet(sending, &outlet);
            if sending.broken {
                return Err(Error::SinkBroken { symbol: drain.control.symbol_name.clone() });
            }
            if drain.require_ack && outlet.drop_stray_acks() > 0 {
                tracing::warn!(sink = drain.control.symbol_name, "an acknowledgement of nothing was dropped");
            }
            let waiting = drain.enter(READING)?;
            let sent = outlet.send(message, Some(deadline));
            drop(waiting);
            match sent {
                Ok(()) => {
                    drain.plugin.counters.messages_out.add(1);
                    if drain.require_ack {
                        return self.await_ack(sending, &outlet);
                    }
                    sending.unread += 1;
                    if sending.unread.is_multiple_of(LOOK_EVERY) && outlet.flush(Some(Instant::now())).is_ok() {
                        sending.unread = 0;
                    }
                    return Ok(());
                }
                Err(_) if drain.is_stopped() => return Err(Error::Stopped),
                // Nothing was sent, or only a piece that the plugin's end has
                // swallowed: the next process gets it.
                Err(TransportError::Disconnected | TransportError::Closed) if outlet.running.is_over() => {}
                Err(error) => return Err(drain.explain(&outlet, error, "it takes no message", patience)),
            }
        }
    }

    /// Takes note of the process that messages go to from now on.
    fn meet(&self, sending: &mut Sending, outlet: &Outlet) {
        let generation = outlet.running.generation;
        if sending.generation == generation {
            return;
        }
        let mut lost = std::mem::take(&mut sending.unread);
        if lock(&self.drain.state).emptied == sending.generation {
            lost = 0;
        }
        (sending.generation, sending.broken) = (generation, false);
        if lost > 0 {
            let plugin = &self.drain.plugin;
            plugin.counters.lost.add(lost);
            let symbol = self.drain.control.symbol_name.clone();
            plugin.site.events.tell(plugin.name(), EventKind::Lost { symbol, messages: lost });
        }
    }

    fn await_ack(&self, sending: &mut Sending, outlet: &Outlet) -> Result<()> {
        let drain = &*self.drain;
        let symbol = || drain.control.symbol_name.clone();
        let patience = drain.plugin.site.options.recv_timeout;
        let waiting = drain.enter(ACK)?;
        let acknowledged = outlet.await_ack(Instant::now() + patience);
        drop(waiting);
        match acknowledged {
            Acknowledged::Answer(outcome) => {
                drain.plugin.counters.acks.add(1);
                outcome.map_err(|text| Error::Sink { symbol: symbol(), text })
            }
            Acknowledged::Garbage(source) => Err(Error::Message { what: drain.what(), source }),
            _ if drain.is_stopped() => Err(Error::Stopped),
            Acknowledged::Lost => {
                sending.broken = true;
                Err(Error::OutcomeUnknown {
                    plugin: drain.plugin.name().to_owned(),
                    what: format!("a message to sink {}", symbol()),
                    exit: outlet.running.process.exit_soon(),
                })
            }
            Acknowledged::Timeout(error) => {
                sending.broken = true;
                Err(drain.explain(outlet, error, "it does not acknowledge", patience))
            }
        }
    }

    /// Waits until the plugin has read all that was sent.
    ///
    /// # Errors
    /// [`Error::Timeout`]; while its plugin has crashed as [`Sink::send`].
    pub fn flush(&self, patience: Duration) -> Result<()> {
        let mut sending = lock(&self.sending);
        let outlet = self.drain.outlet(Instant::now() + patience)?;
        self.meet(&mut sending, &outlet);
        let waiting = self.drain.enter(READING)?;
        let flushed = self.drain.flush(&outlet, patience);
        drop(waiting);
        if flushed.is_err() && self.drain.is_stopped() {
            return Err(Error::Stopped);
        }
        if flushed.is_ok() {
            sending.unread = 0;
        }
        flushed
    }

    /// A handle that ends a wait on this sink from another thread.
    pub fn stopper(&self) -> SinkStopper {
        SinkStopper(self.drain.clone())
    }

    /// Stops the sink, after it has read what was sent.
    ///
    /// # Errors
    /// The plugin did not read all in time, or did not carry out the stop.
    pub fn close(self) -> Result<()> {
        self.drain.stop()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Err(error) = self.drain.stop() {
            tracing::warn!(%error, "a sink was not stopped");
        }
    }
}

/// Ends what somebody waits for on a [`Sink`], from another thread.
#[derive(Clone)]
pub struct SinkStopper(Arc<Drain>);

impl SinkStopper {
    /// Whoever sends or flushes gets [`Error::Stopped`], now and from now on.
    /// The sink itself runs until its handle is closed or dropped, and still
    /// reads what was sent before. A message in the middle of which it was
    /// stopped does not arrive; one that waited for its acknowledgement does.
    pub fn stop(&self) {
        self.0.end();
    }
}
