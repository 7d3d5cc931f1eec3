//! A source across all processes of its plugin: restarted with each, and read
//! from where the last one ended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{Control, SymbolKind};
use ekuiper_core::transport::{Deadline, TransportError};
use ekuiper_transport_ipc::lock::{DeadlineLock, Held};
use ekuiper_transport_ipc::wait::deadline_after;

use super::connection::{self, Overrun, SourceConnection, Until};
use crate::channel::idle_reader::Watch;
use crate::health::ledger::Counted;
use crate::health::vitals::{Place, Vitals};
use crate::plugin::Plugin;
use crate::plugin::restorable::Restorable;
use crate::plugin::running::{Running, Stopped};
use crate::site::{Claim, Holder};
use crate::status::EventKind;
use crate::sync::{Changed, lock};
use crate::target::Target;
use crate::{Error, Result, Subject};

/// Interval of the check whether the process of a source that runs after its
/// stop has ended.
const END_LOOK: Duration = Duration::from_secs(1);

/// A source with a handle, across all processes of its plugin.
pub(super) struct SourceSession {
    pub(super) plugin: Arc<Plugin>,
    pub(super) target: Target,
    pub(super) control: Control,
    /// Held during a start or a stop, so that they do not overlap.
    starting: DeadlineLock<()>,
    /// Nothing is closed while it is held, since tasks wait for it.
    state: Mutex<SourceState>,
    /// The reader has stopped; set with the state, and read without it.
    ended: AtomicBool,
    changed: Changed,
    holder: Arc<Holder>,
    pub(super) counted: Arc<Counted>,
}

#[derive(Default)]
struct SourceState {
    /// Connections of earlier processes that are not read to their end, and the
    /// current one.
    connections: VecDeque<Arc<SourceConnection>>,
    /// The idle reader reads the current connection while no caller does.
    watch: Option<Watch>,
    claim: Option<Claim>,
    /// Why the source could not be restarted.
    failure: Option<Error>,
    /// The source is not to be restarted.
    closed: bool,
    /// The plugin was stopped, and the source with it.
    ended_with_plugin: bool,
    /// Number of times that waiting threads were woken: a thread that has asked
    /// the plugin without this lock sees whether it missed one.
    wakes: u64,
}

/// What a reader receives from a source.
pub(super) enum Received {
    /// A message in this format.
    Message(Format),
    /// The source has ended, or its reader has stopped.
    End,
    /// Nothing by the deadline.
    Nothing,
}

impl Restorable for SourceSession {
    fn control(&self) -> &Control {
        &self.control
    }

    fn vitals(&self) -> &Vitals {
        &self.counted
    }

    fn restore(&self, running: &Arc<Running>) -> Result<()> {
        let _starting = self.begin(self.plugin.site.options.init_timeout)?;
        let state = lock(&self.state);
        let current = state.connections.back().cloned();
        if state.closed
            || current.as_ref().is_some_and(|connection| connection.running.generation == running.generation)
        {
            return Ok(());
        }
        drop(state);
        self.start(running, current.as_deref())
    }

    fn give_up(&self) {
        if let Err(error) = self.stop() {
            tracing::warn!(error = %Chain(&error), "a source that was not opened was not stopped");
        }
    }

    fn mark_lost(&self, cause: &Error) {
        let mut state = lock(&self.state);
        state.failure = Some(Error::not_restored(self.what(), cause));
        state.wakes += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// What the source has sent is read before the error.
    fn end_with_plugin(&self) {
        let mut state = lock(&self.state);
        (state.closed, state.ended_with_plugin) = (true, true);
        let current = state.connections.back().cloned();
        drop(state);
        if let Some(current) = current {
            current.retire();
        }
        let mut state = lock(&self.state);
        let used = (state.watch.take(), state.claim.take());
        state.wakes += 1;
        drop(state);
        drop(used);
        self.changed.notify_all();
    }

    /// What the source has sent is read after its process's end.
    fn leave(&self, _running: &Running, _deadline: Instant) {}

    fn wake(&self) {
        lock(&self.state).wakes += 1;
        self.changed.notify_all();
    }
}

impl SourceSession {
    /// Creates a session that is not started yet.
    pub(super) fn new(plugin: Arc<Plugin>, target: Target, control: Control) -> Arc<Self> {
        let (starting, state, changed, holder) = Default::default();
        let place = Place { kind: target.kind, name: target.symbol.clone(), meta: target.meta.clone() };
        let counted = plugin.ledger.source(place, plugin.restarts());
        let ended = AtomicBool::new(false);
        Arc::new(Self { plugin, target, control, starting, state, ended, changed, holder, counted })
    }

    pub(super) fn what(&self) -> Subject {
        self.target.subject(self.plugin.name())
    }

    /// Starts the source, once it has its place.
    pub(super) fn open(self: &Arc<Self>) -> Result<()> {
        // Before the source is attached: a restart of the plugin does not wait
        // for the place.
        let deadline = deadline_after(self.plugin.site.options.init_timeout);
        let running = self.plugin.running_for(&self.holder, deadline)?;
        self.claim(&running, self.target.wait_for_place)?;
        self.plugin.attach(self.clone(), &self.holder)
    }

    /// Gives up the open: ends its waits. What it has started, it stops.
    pub(super) fn give_up_open(&self) {
        self.holder.give_up();
        let mut state = lock(&self.state);
        self.end_reader(&mut state);
        state.closed = true;
        drop(state);
        self.changed.notify_all();
        self.plugin.wake_holders();
    }

    /// Claims the address in the socket folder of a process, unless that is
    /// done; returns the address. See
    /// [`Plugin::claim_place`] for `patience`.
    fn claim(&self, running: &Running, patience: Duration) -> Result<Address> {
        let address = running.folder.data(&self.target.meta);
        let address =
            address.map_err(|source| Error::Message { what: self.what().not_sent(), source: source.into() })?;
        let mut state = lock(&self.state);
        if state.claim.as_ref().is_none_or(|claim| claim.address != address) {
            let former = state.claim.take();
            drop(state);
            drop(former);
            let claim = self.plugin.claim_place(address.clone(), self.what(), &self.holder, patience)?;
            lock(&self.state).claim = Some(claim);
        }
        Ok(address)
    }

    /// Waits until no start or stop is in progress.
    fn begin(&self, patience: Duration) -> Result<Held<'_, ()>> {
        self.starting.lock(deadline_after(patience)).ok_or_else(|| {
            let words = format!("{} (it is being started or stopped)", self.target.describe());
            let what = self.what().in_words(words).not_sent();
            Error::Timeout { plugin: self.plugin.name().to_owned(), what, after: patience }
        })
    }

    /// Starts the source in a process. Its messages are read after those of the
    /// former connection.
    fn start(&self, running: &Arc<Running>, former: Option<&SourceConnection>) -> Result<()> {
        let started = self.listen(running, former);
        let mut state = lock(&self.state);
        let (is_ended, is_closed) = (self.has_ended(), state.closed);
        let outcome = started.map(|(connection, watch)| {
            connection.mark_started();
            state.connections.push_back(connection.clone());
            state.wakes += 1;
            state.failure = None;
            let unused = if is_ended { Some(watch) } else { state.watch.replace(watch) };
            (connection, unused)
        });
        drop(state);
        let outcome = outcome.map(|(connection, unused)| {
            drop(unused);
            if is_ended {
                connection.close();
            }
        });
        self.changed.notify_all();
        if is_closed {
            // No caller may have waited to stop this start.
            let stopped = self.stop_current();
            return outcome.and(stopped);
        }
        outcome
    }

    fn listen(
        &self,
        running: &Arc<Running>,
        former: Option<&SourceConnection>,
    ) -> Result<(Arc<SourceConnection>, Watch)> {
        if let Some(former) = former {
            former.retire();
        }
        let address = self.claim(running, Duration::ZERO)?;
        let (plugin, symbol) = (self.plugin.clone(), self.control.symbol_name.clone());
        let (vitals, counters) = (self.counted.vitals(), self.counted.vitals().clone());
        let connection = SourceConnection::listen(running, &address, vitals, move || {
            counters.overruns.add(1);
            plugin.site.events.tell(plugin.name(), EventKind::Overrun { symbol: symbol.clone() });
        });
        let connection = connection.map_err(|source| running.channel_error(self.what().not_sent(), source))?;
        let watch = running.site.idle_reader.watch(&self.what(), connection.clone());
        let watch = watch.inspect_err(|_| connection.close())?;
        connection.enable_tasks(&watch);
        if let Err(error) = running.start_symbol(&self.control) {
            connection.close();
            return Err(error);
        }
        Ok((connection, watch))
    }

    /// Records that the reader has stopped, also for one that is about to wait.
    fn end_reader(&self, state: &mut SourceState) {
        self.ended.store(true, Ordering::SeqCst);
        state.wakes += 1;
    }

    #[inline]
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Receives the next message into `buffer`. `current` is the connection that
    /// the reader reads: the first one, which is nobody else's to remove before
    /// the reader has stopped.
    pub(super) fn receive(
        self: &Arc<Self>,
        current: &mut Option<Arc<SourceConnection>>,
        buffer: &mut Vec<u8>,
        until: Until,
    ) -> Result<Received> {
        let deadline = until.deadline();
        loop {
            if self.has_ended() {
                *current = None;
                return Ok(Received::End);
            }
            if current.is_none() {
                *current = lock(&self.state).connections.front().cloned();
            }
            if let Some(connection) = &*current
                && !connection.is_replaced()
            {
                match connection.receive(buffer, until) {
                    Ok(connection::Received::Message) => {
                        return Ok(Received::Message(connection.running.format(SymbolKind::Source)));
                    }
                    Ok(connection::Received::Overrun(overrun)) => {
                        return Err(self.begin_again(connection, overrun));
                    }
                    Ok(connection::Received::End) => {}
                    Err(TransportError::Timeout) => return Ok(Received::Nothing),
                    Err(source) => return Err(connection.running.channel_error(self.what(), source)),
                }
                // Ended by the handle, by itself, or with its process?
                if self.has_ended() {
                    continue;
                }
                match self.is_process_ending(connection, deadline) {
                    Some(true) => {}
                    Some(false) if self.plugin.is_shut_down() => return Err(Error::Stopped),
                    Some(false) => return Ok(Received::End),
                    None => return Ok(Received::Nothing),
                }
            }
            let mut state = lock(&self.state);
            // Continue with the connection of the next process or start.
            if state.connections.len() > 1 {
                let read = state.connections.pop_front();
                drop(state);
                (*current, _) = (None, read);
                continue;
            }
            if !self.await_restart(state, deadline)? {
                return Ok(Received::Nothing);
            }
        }
    }

    /// Returns whether a source has ended because its process is ending; `None`
    /// if that is not known by the deadline. Who does not wait has a thread find
    /// out, and is told by [`SourceSession::changed`].
    fn is_process_ending(self: &Arc<Self>, connection: &Arc<SourceConnection>, deadline: Deadline) -> Option<bool> {
        let known = connection.ends_with_process();
        if known.is_some() {
            return known;
        }
        if deadline.is_none_or(|deadline| Instant::now() < deadline) {
            return connection.running.is_ending(deadline);
        }
        if connection.begin_end_check() {
            let (session, connection) = (self.clone(), connection.clone());
            self.plugin.site.background.run(move || {
                connection.check_end();
                session.wake();
            });
        }
        None
    }

    /// Receives the next message as [`receive`](Self::receive) does, or wakes
    /// the task when it may be there.
    pub(super) fn poll_receive(
        self: &Arc<Self>,
        current: &mut Option<Arc<SourceConnection>>,
        buffer: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Poll<Result<Received>> {
        let mut is_registered = false;
        loop {
            match self.receive(current, buffer, Until::Task(Instant::now())) {
                Ok(Received::Nothing) if is_registered => return Poll::Pending,
                Ok(Received::Nothing) => {
                    // Before another attempt, so that no change is missed.
                    self.register_task(context.waker());
                    is_registered = true;
                }
                received => return Poll::Ready(received),
            }
        }
    }

    /// Has `waker` woken when there may be a message, or the end.
    fn register_task(&self, waker: &Waker) {
        self.changed.register_task(waker);
        let Some(connection) = lock(&self.state).connections.front().cloned() else { return };
        if !connection.is_over() {
            connection.register_task(waker);
        }
    }

    /// Stops the source without waiting for it: the next source at its address
    /// does.
    pub(super) fn stop_later(self: &Arc<Self>) {
        self.begin_stop();
        let session = self.clone();
        self.plugin.site.background.release_later(move || {
            if let Err(error) = session.stop() {
                tracing::warn!(error = %Chain(&error), "a source was not stopped");
            }
        });
    }

    /// Restarts an overrun source whose reader has emptied the queue, and
    /// returns the error for the reader.
    fn begin_again(self: &Arc<Self>, connection: &Arc<SourceConnection>, overrun: Overrun) -> Error {
        connection.replace();
        let symbol = self.control.symbol_name.clone();
        let (session, former) = (self.clone(), connection.clone());
        let again = move || session.start_again(&former);
        if std::thread::Builder::new().name(format!("{symbol}-again")).spawn(again).is_err() {
            // No other thread would do it.
            self.start_again(connection);
        }
        Error::Overrun {
            plugin: self.plugin.name().to_owned(),
            symbol,
            messages: overrun.messages,
            bytes: overrun.bytes,
        }
    }

    /// Stops the source and starts it in the same process; retries while the
    /// host has a shortage.
    fn start_again(&self, former: &Arc<SourceConnection>) {
        let running = &former.running;
        let mut attempts = 0;
        loop {
            let Ok(starting) = self.begin(self.plugin.site.options.init_timeout) else { return };
            let state = lock(&self.state);
            // The source may have been started in another process meanwhile.
            let is_current = state.connections.back().is_some_and(|connection| Arc::ptr_eq(connection, former));
            if state.closed || self.has_ended() || !is_current {
                return;
            }
            drop(state);
            let stopped = match attempts {
                0 => running
                    .stop_symbol(&self.control, |patience| former.discard_until_end(deadline_after(patience)))
                    .and_then(|stopped| match stopped {
                        Stopped::StillRuns => Err(running.still_runs(&self.control)),
                        Stopped::Answered | Stopped::WithProcess => Ok(()),
                    }),
                _ => Ok(()),
            };
            let started = stopped.and_then(|()| self.start(running, Some(former)));
            drop(starting);
            match started {
                Err(error) if error.is_shortage() => {
                    let pause = self.plugin.report_shortage(&error, attempts);
                    attempts += 1;
                    if running.process.wait(pause).is_some() {
                        return;
                    }
                }
                Err(error) if !running.is_over() => return self.mark_lost(&error),
                // The next process starts the source, too.
                _ => return,
            }
        }
    }

    /// Waits for another connection, after the process has ended, or while the
    /// source is restarted. Returns false when the deadline has passed.
    fn await_restart<'a>(&'a self, mut state: MutexGuard<'a, SourceState>, deadline: Deadline) -> Result<bool> {
        while !self.has_ended() && state.connections.len() < 2 {
            if state.ended_with_plugin {
                return Err(Error::Stopped);
            }
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            let seen = state.wakes;
            drop(state);
            self.plugin.check()?;
            state = lock(&self.state);
            if state.wakes != seen {
                continue;
            }
            state = match deadline {
                None => self.changed.wait(state, None),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    self.changed.wait(state, Some(left))
                }
            };
        }
        Ok(true)
    }

    /// Ends the iteration; the source runs until it is stopped.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        self.end_reader(&mut state);
        let connections = state.connections.clone();
        let watch = state.watch.take();
        drop(state);
        drop(watch);
        self.changed.notify_all();
        connections.iter().for_each(|connection| connection.close());
    }

    /// Ends the iteration, and has later starts at the address wait for the stop
    /// that follows.
    fn begin_stop(&self) {
        self.holder.mark_ending();
        self.plugin.detach(self);
        let mut state = lock(&self.state);
        self.end_reader(&mut state);
        state.closed = true;
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) -> Result<()> {
        self.begin_stop();
        // A start that takes longer stops the source itself.
        let _starting = self.begin(self.plugin.site.options.recv_timeout)?;
        self.stop_current()
    }

    /// Stops the source in its process. The caller excludes other starts and
    /// stops.
    fn stop_current(&self) -> Result<()> {
        let mut state = lock(&self.state);
        let mut connections = std::mem::take(&mut state.connections);
        let watch = state.watch.take();
        drop(state);
        drop(watch);
        let current = connections.pop_back();
        connections.iter().for_each(|connection| connection.close());
        let stopped = current.map_or(Ok(()), |connection| self.stop_in(connection));
        let claim = lock(&self.state).claim.take();
        drop(claim);
        stopped
    }

    /// Stops the source in the process of its last connection.
    fn stop_in(&self, connection: Arc<SourceConnection>) -> Result<()> {
        let running = &connection.running;
        let discard = |patience| connection.discard_until_end(deadline_after(patience));
        let stopped = running.stop_symbol(&self.control, discard);
        if running.runs_after(&stopped) {
            let error = stopped.err().unwrap_or_else(|| running.still_runs(&self.control));
            self.release_at_end(connection);
            return Err(error);
        }
        connection.close();
        // The source ends with its process, which the shutdown of a host ends.
        stopped.map(|_| ()).or_else(|error| {
            if self.plugin.is_shut_down() || running.has_ended_before(&error) { Ok(()) } else { Err(error) }
        })
    }

    /// Has a thread release the address once a source that runs after its stop
    /// has ended: until then, its rows would be those of the next source there.
    fn release_at_end(&self, connection: Arc<SourceConnection>) {
        let claim = lock(&self.state).claim.take();
        self.plugin.site.background.release_later(move || {
            while !connection.discard_until_end(deadline_after(END_LOOK)) && !connection.running.is_over() {}
            connection.close();
            drop(claim);
        });
    }
}
