//! A sink through all processes of its plugin: started again with each, waited
//! for while there is none, stopped with its handle.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::message::Control;
use ekuiper_core::transport::TransportError;

use crate::error::transport_error;
use crate::live::Live;
use crate::outlet::{Acknowledged, Outlet};
use crate::plugin::Plugin;
use crate::running::Running;
use crate::site::{Claim, lock};
use crate::target::Target;
use crate::{Error, Result};

/// A sink with a handle, through all processes of its plugin.
pub(crate) struct Drain {
    pub(crate) plugin: Arc<Plugin>,
    target: Target,
    pub(crate) control: Control,
    pub(crate) require_ack: bool,
    /// Held while it is started or stopped: the one follows the other.
    starting: Mutex<()>,
    pub(crate) state: Mutex<DrainState>,
    changed: Condvar,
    /// Nothing is to be sent any more.
    stopped: AtomicBool,
    /// What whoever sends waits for: set before `stopped` is looked at, and
    /// looked at after that is set.
    stage: AtomicU8,
}

#[derive(Default)]
pub(crate) struct DrainState {
    outlet: Option<Arc<Outlet>>,
    claims: Option<[Claim; 2]>,
    /// It could not be started again.
    failure: Option<Error>,
    closed: bool,
    /// Its data channel was closed in the middle of a message.
    cut_off: bool,
    /// The latest process that was left after it had read all.
    pub(crate) emptied: u64,
    /// How often whoever waits was told to look again.
    wakes: u64,
}

/// Nobody waits.
const NOTHING: u8 = 0;
/// That the plugin takes a message, or has read all.
pub(crate) const READING: u8 = 1;
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
        outlet.await_room(0, deadline);
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
    /// One that is not started yet.
    pub(crate) fn new(plugin: Arc<Plugin>, target: Target, control: Control) -> Arc<Self> {
        Arc::new(Self {
            plugin,
            require_ack: control.requires_ack(),
            target,
            control,
            starting: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            stage: AtomicU8::new(NOTHING),
        })
    }

    pub(crate) fn what(&self) -> String {
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
    pub(crate) fn enter(&self, stage: u8) -> Result<Waiting<'_>> {
        self.stage.store(stage, Ordering::SeqCst);
        let waiting = Waiting(self);
        if self.is_stopped() { Err(Error::Stopped) } else { Ok(waiting) }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Ends the wait of whoever sends; nobody sends any more. What was sent
    /// before is still read.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(outlet) = state.outlet.clone() {
            if self.stage.load(Ordering::SeqCst) == READING {
                outlet.cut_off();
                state.cut_off = true;
            }
            if !outlet.owes_nothing() {
                outlet.expect_no_acks();
            }
        }
        state.wakes += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// The sink in a process that lives; waits for one after a crash.
    pub(crate) fn outlet(&self, deadline: Instant) -> Result<Arc<Outlet>> {
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
    pub(crate) fn stop(&self) -> Result<()> {
        self.plugin.detach(self);
        let _starting = lock(&self.starting);
        let mut state = lock(&self.state);
        state.closed = true;
        let (outlet, cut_off) = (state.outlet.take(), state.cut_off);
        drop(state);
        self.changed.notify_all();
        let Some(outlet) = outlet else { return Ok(()) };
        let flushed = if outlet.is_alive() && !cut_off { self.flush(&outlet, self.send_timeout()) } else { Ok(()) };
        if flushed.is_ok() && !self.is_stopped() && !outlet.is_broken() {
            // Whoever waits for them still finds them.
            outlet.await_room(0, Instant::now() + self.plugin.site.options.recv_timeout);
        }
        let stopped = outlet.stop(&self.control);
        lock(&self.state).claims = None;
        flushed.and(stopped)
    }

    pub(crate) fn flush(&self, outlet: &Outlet, patience: Duration) -> Result<()> {
        outlet
            .flush(Some(Instant::now() + patience))
            .map_err(|error| self.explain(outlet, error, "it has not read all that was sent", patience))
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.plugin.site.options.send_timeout
    }

    pub(crate) fn explain(&self, outlet: &Outlet, error: TransportError, problem: &str, after: Duration) -> Error {
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

impl Drain {
    /// What became of a message that is to be acknowledged.
    fn outcome(&self, outlet: &Outlet, acknowledged: Acknowledged, patience: Duration) -> Result<()> {
        let symbol = || self.control.symbol_name.clone();
        match acknowledged {
            Acknowledged::Answer(outcome) => {
                self.plugin.counters.acks.add(1);
                outcome.map_err(|text| Error::Sink { symbol: symbol(), text })
            }
            Acknowledged::Garbage(source) => Err(Error::Message { what: self.what(), source }),
            _ if self.is_stopped() => Err(Error::Stopped),
            Acknowledged::Lost => {
                outlet.breaks();
                Err(Error::OutcomeUnknown {
                    plugin: self.plugin.name().to_owned(),
                    what: format!("a message to sink {}", symbol()),
                    exit: outlet.running.process.exit_soon(),
                })
            }
            Acknowledged::Timeout(error) => {
                outlet.breaks();
                Err(self.explain(outlet, error, "it does not acknowledge", patience))
            }
        }
    }

    /// Waits until at most so many messages have no acknowledgement.
    pub(crate) fn make_room(&self, outlet: &Outlet, unacknowledged: u64) -> Result<()> {
        let patience = self.plugin.site.options.recv_timeout;
        let waiting = self.enter(ACK)?;
        let missing = outlet.await_room(unacknowledged, Instant::now() + patience);
        drop(waiting);
        missing.map_or(Ok(()), |missing| self.outcome(outlet, missing, patience))
    }
}

/// A message that was sent and is to be acknowledged.
pub(crate) struct Sent {
    pub(crate) drain: Arc<Drain>,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) number: u64,
}

impl Sent {
    pub(crate) fn wait(&self) -> Result<()> {
        let drain = &*self.drain;
        let patience = drain.plugin.site.options.recv_timeout;
        let waiting = drain.enter(ACK)?;
        let acknowledged = self.outlet.await_ack(self.number, Instant::now() + patience);
        drop(waiting);
        drain.outcome(&self.outlet, acknowledged, patience)
    }
}

/// Somebody waits; dropped when it is over.
pub(crate) struct Waiting<'a>(&'a Drain);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.stage.store(NOTHING, Ordering::SeqCst);
    }
}
