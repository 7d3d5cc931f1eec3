//! A sink across all processes of its plugin: restarted with each, waited for
//! while there is none, and stopped with its handle.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::Control;
use ekuiper_core::transport::TransportError;
use ekuiper_transport_ipc::lock::{DeadlineLock, Held};
use ekuiper_transport_ipc::wait::deadline_after;

use super::connection::SinkConnection;
use super::settle::{Patience, Unsettled};
use super::tally::{Delivery, Tally};
use crate::background::Task;
use crate::health::vitals::Vitals;
use crate::plugin::Plugin;
use crate::plugin::restorable::Restorable;
use crate::plugin::running::Running;
use crate::site::{Claim, Holder};
use crate::sync::{Changed, lock};
use crate::target::Target;
use crate::{Error, Result, Subject};

/// A sink with a handle, across all processes of its plugin.
pub(crate) struct SinkSession {
    pub(crate) plugin: Arc<Plugin>,
    target: Target,
    pub(crate) control: Control,
    pub(crate) require_ack: bool,
    pub(crate) tally: Arc<Tally>,
    /// Held during a start or a stop, so that they do not overlap.
    starting: DeadlineLock<()>,
    /// Nothing is closed while it is held, since tasks wait for it.
    pub(crate) state: Mutex<SinkState>,
    changed: Changed,
    holder: Arc<Holder>,
    /// Nothing more is to be sent.
    stopped: AtomicBool,
    /// The wait for collection is given up.
    abandoned: AtomicBool,
    /// The handle was dropped: nothing returns an error of the close, which is
    /// logged instead.
    is_dropped: AtomicBool,
    /// Weak reference to this, for the thread that stops the sink in the
    /// background.
    own: Weak<Self>,
    /// What the sender waits for: set before `stopped` is checked, and checked
    /// after `stopped` is set.
    stage: AtomicU8,
}

#[derive(Default)]
pub(crate) struct SinkState {
    connection: Option<Arc<SinkConnection>>,
    claims: Option<[Claim; 2]>,
    /// Why the sink could not be restarted.
    failure: Option<Error>,
    closed: bool,
    /// Number of times that waiting threads were woken.
    wakes: u64,
}

/// No sender waits.
const NOTHING: u8 = 0;
/// A sender waits for the plugin to read a message.
pub(crate) const READING: u8 = 1;
/// A sender waits for an acknowledgement.
pub(super) const ACK: u8 = 2;

impl Restorable for SinkSession {
    fn control(&self) -> &Control {
        &self.control
    }

    fn vitals(&self) -> &Vitals {
        &self.tally.counted
    }

    fn restore(&self, running: &Arc<Running>) -> Result<()> {
        let _starting = self.begin(self.plugin.site.options.init_timeout)?;
        let mut state = lock(&self.state);
        let former = state.connection.clone();
        if state.closed || former.as_ref().is_some_and(|connection| connection.running.generation == running.generation)
        {
            return Ok(());
        }
        drop(state);
        let started = self.start(running, former.as_deref());
        state = lock(&self.state);
        state.wakes += 1;
        let is_closed = state.closed;
        let outcome = match started {
            Ok(connection) if is_closed => Ok(Some(connection)),
            Ok(connection) => {
                (state.connection, state.failure) = (Some(connection), None);
                Ok(None)
            }
            Err(error) => Err(error),
        };
        drop(state);
        self.changed.notify_all();
        if !is_closed {
            return outcome.map(|_| ());
        }
        // No caller may have waited to stop this start.
        let connection = outcome.inspect_err(|_| self.release(None))?;
        let stopped = connection.as_ref().map_or(Ok(()), |connection| connection.stop(&self.control));
        self.release(connection);
        stopped
    }

    fn give_up(&self) {
        if let Err(error) = self.stop() {
            tracing::warn!(error = %Chain(&error), "a sink that was not opened was not stopped");
        }
    }

    fn mark_lost(&self, cause: &Error) {
        let mut state = lock(&self.state);
        state.failure = Some(Error::not_restored(self.what(), cause));
        state.wakes += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn leave(&self, running: &Running, deadline: Instant) {
        let patience = Patience::of(&self.plugin.site.options);
        // A close in progress ends first.
        drop(self.starting.lock(patience.until()));
        let connection = lock(&self.state).connection.clone();
        let Some(connection) = connection.filter(|connection| connection.running.generation == running.generation)
        else {
            return;
        };
        // A message that is being sent is sent first.
        drop(connection.turn.lock(deadline));
        let is_over = || self.is_abandoned() || self.plugin.is_shut_down();
        let settled = connection.settle_to_stop(patience, is_over);
        if let Err(error) = connection.stop_to_end(&self.control) {
            tracing::warn!(sink = self.control.symbol_name, error = %Chain(&error), "a sink was not stopped before the update");
        }
        if let Err(reason) = settled {
            tracing::warn!(
                sink = self.control.symbol_name,
                ?reason,
                "not all messages were collected before the update"
            );
        }
    }

    fn end_with_plugin(&self) {
        self.end();
        let connection = lock(&self.state).connection.clone();
        if let Some(connection) = connection {
            connection.read_reports();
            connection.close();
        }
        let claims = lock(&self.state).claims.take();
        drop(claims);
    }

    fn wake(&self) {
        lock(&self.state).wakes += 1;
        self.changed.notify_all();
    }
}

impl SinkSession {
    /// Creates a session that is not started yet.
    pub(crate) fn new(plugin: Arc<Plugin>, target: Target, control: Control) -> Arc<Self> {
        let tally = Arc::new(Tally::new(plugin.clone(), &control));
        Arc::new_cyclic(|own| Self {
            own: own.clone(),
            plugin,
            tally,
            require_ack: control.requires_ack(),
            target,
            control,
            starting: DeadlineLock::default(),
            state: Mutex::default(),
            changed: Changed::default(),
            holder: Arc::default(),
            stopped: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            is_dropped: AtomicBool::new(false),
            stage: AtomicU8::new(NOTHING),
        })
    }

    /// Waits until no start or stop is in progress.
    fn begin(&self, patience: Duration) -> Result<Held<'_, ()>> {
        self.starting.lock(deadline_after(patience)).ok_or_else(|| {
            let words = format!("{} (it is being started or stopped)", self.target.describe());
            let what = self.what().in_words(words).not_sent();
            Error::Timeout { plugin: self.plugin.name().to_owned(), what, after: patience }
        })
    }

    pub(crate) fn what(&self) -> Subject {
        self.target.subject(self.plugin.name())
    }

    fn start(&self, running: &Arc<Running>, former: Option<&SinkConnection>) -> Result<Arc<SinkConnection>> {
        if let Some(former) = former {
            former.read_reports();
            former.close();
            self.give_up_messages(Some(former));
        }
        let [data, ack] = self.claim(running, Duration::ZERO)?;
        SinkConnection::start(running, &self.control, &data, &ack, &self.what(), &self.tally)
    }

    /// Starts the sink, once it has its place.
    pub(crate) fn open(self: &Arc<Self>) -> Result<()> {
        // Before the sink is attached: a restart of the plugin does not wait for
        // the place.
        let deadline = deadline_after(self.plugin.site.options.init_timeout);
        let running = self.plugin.running_for(&self.holder, deadline)?;
        self.claim(&running, self.target.wait_for_place)?;
        self.plugin.attach(self.clone(), &self.holder)
    }

    /// Gives up the open: ends its waits. What it has started, it stops.
    pub(crate) fn give_up_open(&self) {
        self.holder.give_up();
        lock(&self.state).closed = true;
        self.changed.notify_all();
        self.plugin.wake_holders();
    }

    /// Claims the addresses in the socket folder of a process, unless that is
    /// done; returns those of data and acknowledgements. See
    /// [`Plugin::claim_place`] for `patience`.
    fn claim(&self, running: &Running, patience: Duration) -> Result<[Address; 2]> {
        let message =
            |source: ekuiper_core::Error| Error::Message { what: self.what().not_sent(), source: source.into() };
        let data = running.folder.data(&self.target.meta).map_err(message)?;
        let ack = running.folder.ack(&self.target.meta).map_err(message)?;
        let mut state = lock(&self.state);
        if state.claims.as_ref().is_none_or(|[claim, _]| claim.address != data) {
            let former = state.claims.take();
            drop(state);
            drop(former);
            let since = Instant::now();
            let claim = |address: &Address| {
                let left = patience.saturating_sub(since.elapsed());
                self.plugin.claim_place(address.clone(), self.what(), &self.holder, left)
            };
            let claims = [claim(&data)?, claim(&ack)?];
            lock(&self.state).claims = Some(claims);
        }
        Ok([data, ack])
    }

    /// Records what the sender waits for from now on.
    pub(crate) fn enter(&self, stage: u8) -> Result<Waiting<'_>> {
        self.stage.store(stage, Ordering::SeqCst);
        let waiting = Waiting(self);
        if self.is_stopped() { Err(Error::Stopped) } else { Ok(waiting) }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Has `waker` woken when the sink is stopped, or its connection changes.
    pub(crate) fn register_task(&self, waker: &Waker) {
        self.changed.register_task(waker);
    }

    /// Ends the wait of the sender, and refuses later messages. What was sent
    /// before is still read.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        self.stopped.store(true, Ordering::SeqCst);
        let connection = state.connection.clone();
        state.wakes += 1;
        drop(state);
        if let Some(connection) = connection {
            if self.stage.load(Ordering::SeqCst) == READING {
                connection.cut_off();
            }
            if self.require_ack && connection.owed() > 0 {
                connection.expect_no_acks();
            }
        }
        self.changed.notify_all();
    }

    /// Returns the sink in a live process; after a crash, waits for the next
    /// one.
    pub(crate) fn connection(&self, deadline: Instant) -> Result<Arc<SinkConnection>> {
        let mut state = lock(&self.state);
        loop {
            if state.closed || self.is_stopped() {
                return Err(Error::Stopped);
            }
            if let Some(connection) =
                state.connection.clone().filter(|connection| connection.is_alive() && !connection.running.is_left())
            {
                return Ok(connection);
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
                state = self.changed.wait(state, Some(left));
            }
        }
    }

    /// Returns the sink in the serving process, if there is one now.
    pub(crate) fn live_connection(&self) -> Option<Arc<SinkConnection>> {
        let state = lock(&self.state);
        let connection = state.connection.clone().filter(|_| !state.closed && !self.is_stopped());
        connection.filter(|connection| connection.is_alive() && !connection.running.is_left())
    }

    /// Returns the codec of rows for the process that probably serves when they
    /// are sent; without one, what every sink reads.
    pub(super) fn format(&self) -> Format {
        self.live_connection().map_or(Format::Json, |connection| connection.format)
    }

    /// Has a thread close the sink, which the next sink at its addresses waits
    /// for, and the shutdown of the host.
    pub(crate) fn close_later(&self, close: impl FnOnce() -> Result<()> + Send + 'static) -> Task<Result<()>> {
        self.holder.mark_ending();
        let own = self.own.clone();
        self.plugin.site.background.close_later(move || {
            let closed = close();
            let dropped = own.upgrade().filter(|session| session.is_dropped.load(Ordering::SeqCst));
            if let (Err(error), Some(session)) = (&closed, dropped) {
                let sink = &session.control.symbol_name;
                tracing::warn!(sink, error = %Chain(error), "a dropped sink was not closed gracefully");
            }
            closed
        })
    }

    /// Records that the handle was dropped.
    pub(crate) fn mark_dropped(&self) {
        self.is_dropped.store(true, Ordering::SeqCst);
    }

    /// Ends the wait for collection.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Returns the delivery counts.
    pub(crate) fn delivery(&self) -> Delivery {
        self.tally.delivery()
    }

    /// Waits until everything sent was collected, then stops the sink.
    pub(crate) fn stop(&self) -> Result<()> {
        lock(&self.state).closed = true;
        self.changed.notify_all();
        let starting = match self.begin(self.plugin.site.options.recv_timeout) {
            Ok(starting) => starting,
            // A start that takes longer stops the sink itself.
            Err(error) => {
                self.plugin.detach(self);
                let connection = lock(&self.state).connection.clone();
                return match self.give_up_messages(connection.as_deref()) {
                    0 => Err(self.not_stopped(error)),
                    missing => Err(self.not_collected(missing, self.reason(None, None, Err(error)))),
                };
            }
        };
        let mut state = lock(&self.state);
        let connection = state.connection.take();
        drop(state);
        self.changed.notify_all();
        let mut settled = Ok(());
        let mut stopped = Ok(());
        if let Some(connection) = &connection {
            // If the host is shut down, the process ends, and reports until
            // then what was collected.
            settled = connection.settle_to_stop(Patience::of(&self.plugin.site.options), || self.is_abandoned());
            let is_given_up = matches!(settled, Err(Unsettled::Stalled | Unsettled::Late | Unsettled::Over));
            if is_given_up || self.is_abandoned() {
                self.plugin.detach(self);
                connection.report_after(|| self.stop_in_background(connection.clone()));
                // Counted now: the stop takes time, and may change the number.
                let missing = self.give_up_messages(Some(connection));
                let why = settled.err().unwrap_or(Unsettled::Over);
                return match missing {
                    0 => Ok(()),
                    missing => Err(self.not_collected(missing, self.reason(Some(why), None, Ok(())))),
                };
            }
            stopped = self.stop_in(connection);
        }
        self.release(connection.clone());
        drop(starting);
        // Not before: while messages are collected, an update must restore the
        // sink.
        self.plugin.detach(self);
        match self.give_up_messages(connection.as_deref()) {
            0 => stopped.map_err(|error| self.not_stopped(error)),
            missing => Err(self.not_collected(missing, self.reason(settled.err(), connection.as_deref(), stopped))),
        }
    }

    /// Writes off the messages without a known outcome. Returns how many
    /// messages are not known to be collected.
    fn give_up_messages(&self, connection: Option<&SinkConnection>) -> u64 {
        connection.iter().for_each(|connection| connection.write_off());
        self.tally.give_up()
    }

    /// Stops the sink in a process that is not about to end anyway.
    fn stop_in(&self, connection: &SinkConnection) -> Result<()> {
        let stopped = connection.stop(&self.control);
        stopped.or_else(|error| {
            let ends = self.plugin.is_shut_down() || connection.running.has_ended_before(&error);
            if ends { Ok(()) } else { Err(error) }
        })
    }

    /// Stops the sink in the background. Its addresses are released then; a
    /// shutdown of the host ends the stop.
    fn stop_in_background(&self, connection: Arc<SinkConnection>) {
        self.holder.mark_ending();
        let own = self.own.upgrade();
        let same = connection.clone();
        let stop = move || own.iter().for_each(|session| session.stop_and_log(&connection));
        let name = format!("{}-stop", self.control.symbol_name);
        if let Err(error) = std::thread::Builder::new().name(name).spawn(stop) {
            tracing::warn!(sink = self.control.symbol_name, error = %Chain(&error), "cannot start a thread, so this one waits for the stop");
            self.stop_and_log(&same);
        }
    }

    fn stop_and_log(&self, connection: &Arc<SinkConnection>) {
        match self.stop_in(connection) {
            Err(_) if connection.still_runs() => tracing::debug!(
                sink = self.control.symbol_name,
                "an abandoned sink still collects: its place is free when it has ended"
            ),
            Err(error) => {
                tracing::warn!(sink = self.control.symbol_name, error = %Chain(&error), "an abandoned sink was not stopped");
            }
            Ok(()) => {}
        }
        self.release(Some(connection.clone()));
    }

    /// Releases the addresses, once a sink that still runs has ended: until
    /// then, its acknowledgements and reports would be those of the next sink
    /// there.
    fn release(&self, connection: Option<Arc<SinkConnection>>) {
        let claims = lock(&self.state).claims.take();
        if let Some(connection) = connection.filter(|connection| connection.still_runs()) {
            self.holder.mark_ending();
            self.plugin.site.background.run(move || {
                connection.await_end();
                drop(claims);
            });
        }
    }

    /// Waits until everything sent was collected.
    pub(crate) fn flush(&self, connection: &SinkConnection, patience: Duration) -> Result<()> {
        let settled = connection.settle(Patience::only(patience), || {
            self.is_stopped() || self.is_abandoned() || self.plugin.is_shut_down()
        });
        let plugin = || self.plugin.name().to_owned();
        settled.map_err(|reason| match reason {
            Unsettled::Stalled | Unsettled::Late => {
                let words = format!("sink {}: it has not collected all that was sent", self.control.symbol_name);
                let what = self.what().in_words(words);
                Error::Timeout { plugin: plugin(), what, after: patience }
            }
            Unsettled::Exited(exit) => Error::Exited { plugin: plugin(), exit },
            Unsettled::Over => Error::Stopped,
            Unsettled::Disconnected => connection.running.channel_error(self.what(), TransportError::Disconnected),
            Unsettled::Failed(error) => connection.running.channel_error(self.what(), error),
        })
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.plugin.site.options.send_timeout
    }
}

/// Guard of a waiting sender.
pub(crate) struct Waiting<'a>(&'a SinkSession);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.stage.store(NOTHING, Ordering::SeqCst);
    }
}
