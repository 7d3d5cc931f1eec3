//! A plugin of a host: started when first needed, restarted after a crash,
//! updated, and ended with the host.
//!
//! [`lifecycle`] decides, [`worker`] carries out; this module is the interface
//! for the handles of functions, sources and sinks.

pub(crate) mod members;
pub(crate) mod restorable;
pub(crate) mod running;
mod startup;

mod attaching;
mod lifecycle;
#[cfg(test)]
mod lifecycle_tests;
mod restore;
mod trial;
mod update;
pub(crate) mod uses;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use ekuiper_core::address::Address;
use ekuiper_transport_ipc::wait::deadline_after;

use crate::catalog::Package;
use crate::channel::Channel;
use crate::health::LastError;
use crate::health::ledger::Ledger;
use crate::plugin_options::FunctionOptions;
use crate::process::group;
use crate::site::{Claim, Holder, Site};
use crate::status::{EventKind, MemberTotals, PluginState, Status, Traffic};
use crate::sync::{lock, wait};
use crate::{Error, Result, Subject};
use lifecycle::{Caller, Input, Lifecycle, Work};
use members::Members;
use restorable::Restorable;
use restore::Symbol;
use running::Running;
use startup::Canceller;
use trial::Trial;

/// Maximum time of a shutdown, which aborts a start and ends everything else
/// with the process.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Restart pauses of an attached plugin: it is back when a person starts it, and
/// meanwhile the host only waits.
const ATTACHED_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// Who starts the processes of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The host starts and ends them.
    Started,
    /// Somebody else does; the host waits for them.
    Attached,
}

/// A plugin of a host, running or not.
pub(crate) struct Plugin {
    name: String,
    origin: Origin,
    pub(crate) site: Arc<Site>,
    /// What is counted of its symbols.
    pub(crate) ledger: Arc<Ledger>,
    /// Further processes, for function pools.
    members: Members,
    /// One lock, so that the lifecycle always decides on its whole state. While
    /// it is held, nothing is waited for, started or ended, and no handle's
    /// lock is taken.
    inner: Mutex<Inner>,
    /// Notified when `inner` changes.
    changed: Condvar,
    /// Aborts the start in progress, and every later one.
    canceller: Canceller,
}

struct Inner {
    lifecycle: Lifecycle<Symbol>,
    /// Package of the next process.
    package: Arc<Package>,
    /// Package of the update that has its turn.
    candidate: Option<(Caller, Arc<Package>)>,
    /// Latest process that completed its handshake.
    running: Option<Arc<Running>>,
    trial: Option<Arc<Trial>>,
    callers: Caller,
    /// Answers that their callers have not taken yet.
    answers: HashMap<Caller, Result<Arc<Running>>>,
    updates: HashMap<Caller, Result<()>>,
    stops: HashMap<Caller, Result<()>>,
    /// Work that has not begun.
    work: VecDeque<Work<Symbol>>,
    has_worker: bool,
    /// Events not sent to subscribers yet.
    events: VecDeque<EventKind>,
    is_telling: bool,
    /// Number of threads that are ending the process.
    kills: usize,
    /// Number of the uses of each function that has any.
    uses: HashMap<Arc<str>, usize>,
}

impl Inner {
    /// Returns the package of the update that has its turn, if it is this one.
    fn package_of(&self, update: Caller) -> Option<Arc<Package>> {
        self.candidate.as_ref().filter(|(number, _)| *number == update).map(|(_, package)| package.clone())
    }

    fn next_caller(&mut self) -> Caller {
        self.callers += 1;
        self.callers
    }

    /// Returns the process id of the latest process, while it is alive.
    fn pid(&self) -> Option<u32> {
        let running = self.running.as_ref().filter(|running| running.generation == self.lifecycle.generation());
        self.lifecycle.pid().filter(|_| running.is_some_and(|running| !running.process.has_ended()))
    }
}

impl Plugin {
    pub(crate) fn new(package: Package, origin: Origin, site: Arc<Site>) -> Arc<Self> {
        let options = &site.options;
        let mut restart = options.restart.clone();
        if origin == Origin::Attached {
            [restart.first_pause, restart.max_pause] = ATTACHED_PAUSES;
            restart.break_after = 0;
        }
        let lifecycle = Lifecycle::new(&package.name, restart, options.init_timeout, Instant::now());
        let inner = Inner {
            lifecycle,
            package: Arc::new(package.clone()),
            candidate: None,
            running: None,
            trial: None,
            callers: 0,
            answers: HashMap::new(),
            updates: HashMap::new(),
            stops: HashMap::new(),
            work: VecDeque::new(),
            has_worker: false,
            events: VecDeque::new(),
            is_telling: false,
            kills: 0,
            uses: HashMap::new(),
        };
        Arc::new(Self {
            name: package.name,
            origin,
            site,
            ledger: Arc::default(),
            members: Members::default(),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            canceller: Canceller::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the serving process, starting the plugin if necessary. Callers
    /// that come during a start share its outcome. A restart is waited for
    /// until `deadline`.
    pub(crate) fn running(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Running>> {
        self.running_for(&Holder::default(), deadline)
    }

    /// Returns the serving process as [`running`](Self::running) does, unless
    /// the holder gives up.
    pub(crate) fn running_for(self: &Arc<Self>, holder: &Holder, deadline: Instant) -> Result<Arc<Running>> {
        let mut inner = lock(&self.inner);
        if let Some(generation) = inner.lifecycle.serving()
            && let Some(running) = inner.running.clone()
        {
            debug_assert_eq!(running.generation, generation);
            match running.process.exit() {
                None => return Ok(running),
                Some(exit) => {
                    self.handle_locked(inner, Input::Exited { generation, exit });
                    inner = lock(&self.inner);
                }
            }
        }
        let caller = inner.next_caller();
        self.handle_locked(inner, Input::Wanted { caller, deadline });
        self.await_answer(deadline, |inner| {
            let answer = inner.answers.remove(&caller);
            answer.or_else(|| {
                let given_up = holder.check().err()?;
                inner.lifecycle.forget_caller(caller);
                Some(Err(given_up))
            })
        })
    }

    /// Has every wait for the plugin check whether its holder gives up.
    pub(crate) fn wake_holders(&self) {
        self.site.wake_claims();
        // Under the lock, so that no thread misses it that has just checked.
        let _inner = lock(&self.inner);
        self.changed.notify_all();
    }

    /// Waits for an answer of the lifecycle, which comes by the deadline, or
    /// with the end of the first start.
    fn await_answer<T>(self: &Arc<Self>, deadline: Instant, take: impl Fn(&mut Inner) -> Option<T>) -> T {
        let mut inner = lock(&self.inner);
        let mut is_told = false;
        loop {
            if let Some(answer) = take(&mut inner) {
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !is_told {
                is_told = true;
                self.handle_locked(inner, Input::TimePassed);
                inner = lock(&self.inner);
            } else {
                inner = self.wait(inner, if is_told { None } else { Some(left) });
            }
        }
    }

    /// Waits for a change, or until the time is over.
    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>, patience: Option<Duration>) -> MutexGuard<'a, Inner> {
        match patience {
            Some(patience) => wait(&self.changed, inner, Some(patience)),
            None => wait(&self.changed, inner, None),
        }
    }

    /// Claims an address for a source or a sink; waits at most `patience` while
    /// another handle has it, and at most `init_timeout` while that is being
    /// stopped.
    pub(crate) fn claim_place(
        &self,
        address: Address,
        owner: Subject,
        holder: &Arc<Holder>,
        patience: Duration,
    ) -> Result<Claim> {
        let while_ending = self.site.options.init_timeout;
        self.site.claim_place(address, owner, holder, [while_ending, patience], &|| self.is_shut_down())
    }

    /// Returns an error if waiting for the plugin is pointless.
    pub(crate) fn check(&self) -> Result<()> {
        lock(&self.inner).lifecycle.check()
    }

    /// Returns whether the host is shut down, or shutting down.
    pub(crate) fn is_shut_down(&self) -> bool {
        lock(&self.inner).lifecycle.state() == PluginState::Stopped
    }

    /// Returns whether the plugin is started only when it is needed.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.inner).lifecycle.state() == PluginState::Idle
    }

    /// Returns whether the plugin has been started again, reset or updated since
    /// this instant, and is not given up again. One that was reset while what is
    /// left of its last process is put away backs off until that is done.
    pub(crate) fn has_recovered_since(&self, instant: Instant) -> bool {
        let inner = lock(&self.inner);
        let state = inner.lifecycle.state();
        let is_given_up = matches!(state, PluginState::Broken | PluginState::Stopped);
        !is_given_up && inner.lifecycle.since() > instant
    }

    /// Returns the error of a caller whose wait for the plugin timed out.
    pub(crate) fn away_error(&self) -> Error {
        lock(&self.inner).lifecycle.away()
    }

    /// Starts a source or a sink now, and after every crash, until it is
    /// [detached](Self::detach).
    pub(crate) fn attach(self: &Arc<Self>, handle: Arc<dyn Restorable>, holder: &Holder) -> Result<()> {
        // Attached first, so that a crash between the start and the attachment
        // cannot leave the handle out.
        self.handle(Input::Attached(Symbol::Handle(handle.clone())));
        let opened = self.open(&*handle, holder).and_then(|()| holder.check());
        if opened.is_err() {
            // A restart may have the handle in its list, or have started it.
            handle.give_up();
        }
        opened
    }

    fn open(self: &Arc<Self>, handle: &dyn Restorable, holder: &Holder) -> Result<()> {
        let give_up = deadline_after(self.site.options.init_timeout);
        loop {
            let running = self.running_for(holder, give_up)?;
            match handle.restore(&running) {
                // Its process was replaced, or crashed: not the symbol's fault.
                Err(Error::Replaced { .. } | Error::Exited { .. }) if Instant::now() < give_up => {
                    running.process.wait(self.site.options.grace);
                }
                Err(_) if running.is_left() && Instant::now() < give_up => {}
                opened => return opened,
            }
        }
    }

    /// Detaches a closed handle, whose source or sink is no longer restarted.
    pub(crate) fn detach(self: &Arc<Self>, handle: &dyn Restorable) {
        handle.vitals().close();
        let gone: *const () = std::ptr::from_ref(handle).cast();
        let is_gone = |symbol: &&Symbol| matches!(symbol, Symbol::Handle(other) if Arc::as_ptr(other).cast() == gone);
        let inner = lock(&self.inner);
        if let Some(symbol) = inner.lifecycle.symbols().iter().find(is_gone).cloned() {
            self.handle_locked(inner, Input::Detached(symbol));
        }
    }

    /// Returns a function's channel, and the process it belongs to.
    pub(crate) fn function(
        self: &Arc<Self>,
        name: &str,
        holder: &Holder,
        deadline: Instant,
    ) -> Result<(Arc<Running>, Arc<Channel>)> {
        let (running, channel) = loop {
            let running = self.running_for(holder, deadline)?;
            match running.function(name) {
                Ok(channel) => break (running, channel),
                // The next process serves the function.
                Err(_) if running.is_left() => {}
                // Retried as in `open`.
                Err(Error::Replaced { .. } | Error::Exited { .. }) if Instant::now() < deadline => {
                    running.process.wait(self.site.options.grace);
                }
                Err(error) => return Err(error),
            }
        };
        let inner = lock(&self.inner);
        let symbol = Symbol::Function(name.to_owned());
        if !inner.lifecycle.symbols().contains(&symbol) {
            self.handle_locked(inner, Input::Attached(symbol));
        }
        Ok((running, channel))
    }

    /// Aborts what is being started of a version that has not served yet.
    pub(crate) fn give_up_start(self: &Arc<Self>) {
        self.handle(Input::GivenUp);
    }

    /// Forgets all crashes, and ends a pause.
    pub(crate) fn reset(self: &Arc<Self>) {
        self.handle(Input::Reset);
        self.reset_members();
    }

    /// Returns the process id, while the process is alive.
    pub(crate) fn pid(&self) -> Option<u32> {
        lock(&self.inner).pid()
    }

    /// Returns how a function is called, where its caller says nothing else.
    pub(crate) fn function_options(&self, function: &str) -> FunctionOptions {
        self.site.options.plugin_options.get(&self.name).map(|own| own.function(function)).unwrap_or_default()
    }

    /// Returns whether the latest process says that calls of a function may be
    /// executed at the same time.
    pub(crate) fn declares_parallel(&self, function: &str) -> bool {
        let inner = lock(&self.inner);
        let description = inner.running.as_ref().and_then(|running| running.description());
        description.is_some_and(|description| {
            description.functions.iter().any(|described| described.name == function && described.parallel)
        })
    }

    /// Returns the number of restarts after a crash.
    pub(crate) fn restarts(&self) -> u64 {
        lock(&self.inner).lifecycle.restarts()
    }

    /// Returns what its own processes have done.
    fn own_totals(&self) -> MemberTotals {
        let inner = lock(&self.inner);
        let lifecycle = &inner.lifecycle;
        let (restarts, crashes) = (lifecycle.restarts(), lifecycle.crash_count());
        MemberTotals { processes: lifecycle.generation(), restarts, crashes }
    }

    /// Returns the status.
    pub(crate) fn status(&self) -> Status {
        let inner = lock(&self.inner);
        let lifecycle = &inner.lifecycle;
        let pid = inner.pid();
        let (state, since) = match lifecycle.state() {
            // How it ended is not known yet: its last output may be on its way.
            PluginState::Running if pid.is_none() => (PluginState::BackingOff, Duration::ZERO),
            state => (state, lifecycle.since().elapsed()),
        };
        let uptime = inner.running.as_ref().filter(|_| pid.is_some()).map(|running| running.ready.elapsed());
        let at = |instant: Instant| SystemTime::now().checked_sub(instant.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let last_error = lifecycle.last_error().map(|(error, instant)| LastError::of(error, at(*instant)));
        let mut status = Status {
            plugin: self.name.clone(),
            version: inner.package.manifest.version.clone(),
            state,
            since,
            pid,
            generation: lifecycle.generation(),
            restarts: lifecycle.restarts(),
            crashes: lifecycle.crash_count(),
            uptime,
            resident: None,
            last_exit: lifecycle.last_exit().cloned(),
            last_error,
            symbols: Vec::new(),
            totals: Vec::new(),
            traffic: Traffic::default(),
            members: Vec::new(),
            member_totals: MemberTotals::default(),
        };
        drop(inner);
        status.resident = pid.and_then(group::resident);
        status.symbols = self.ledger.symbols(status.restarts, self.all_restarts());
        status.totals = self.ledger.totals();
        status.traffic = self.ledger.traffic();
        status.members = self.member_statuses();
        status.member_totals = self.member_totals();
        status
    }

    /// Ends the process, or its start, for good. A concurrent second call waits
    /// for the first.
    pub(crate) fn shutdown(self: &Arc<Self>) {
        self.handle(Input::Shutdown);
        self.end_members(Self::shutdown);
        self.await_end(deadline_after(END_TIMEOUT));
    }

    /// Ends the process, until the plugin is needed again, after its sinks have
    /// collected everything sent to them. Its sources and sinks end with it.
    pub(crate) fn stop(self: &Arc<Self>) -> Result<()> {
        let mut inner = lock(&self.inner);
        let stop = inner.next_caller();
        self.handle_locked(inner, Input::StopWanted { stop });
        self.stop_members();
        inner = lock(&self.inner);
        loop {
            // What precedes a stop, a start or a drain, has a deadline.
            match inner.stops.remove(&stop) {
                Some(outcome) => return outcome,
                None => inner = self.wait(inner, None),
            }
        }
    }

    /// Ends the process after its sinks have collected everything sent to them.
    pub(crate) fn remove(self: &Arc<Self>) {
        self.handle(Input::Removed);
        self.end_members(Self::remove);
        let options = &self.site.options;
        let patience = options.drain_timeout.saturating_add(options.recv_timeout).saturating_add(END_TIMEOUT);
        self.await_end(deadline_after(patience));
    }

    /// Waits until nothing of the plugin is left.
    fn await_end(&self, give_up: Instant) {
        let mut inner = lock(&self.inner);
        while !(inner.lifecycle.is_over() && inner.kills == 0) {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(plugin = self.name, "the plugin's process has not ended in time");
                return;
            }
            inner = self.wait(inner, Some(left));
        }
        let running = inner.running.take();
        drop(inner);
        drop(running);
    }
}
