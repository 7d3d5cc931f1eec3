//! The life of one plugin as a pure state machine: which process is to run,
//! which symbols are restored in it, which callers wait for it, and when it is
//! restarted. Processes, threads, locks and clocks are elsewhere.

mod handlers;
mod transitions;
mod vocabulary;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ekuiper_core::restart::{Crashes, RestartPolicy};

pub(crate) use transitions::shortage_pause;
pub(crate) use vocabulary::{Action, Caller, Input, Version, Work};

use crate::error::Reason;
use crate::process::Exit;
use crate::status::PluginState;
use crate::{Error, Result};

/// The life of one plugin, from its host's start to its end.
///
/// Order of calls: [`handle`](Self::handle) with an input, then
/// [`poll_action`](Self::poll_action) until it returns `None`, then
/// [`poll_timeout`](Self::poll_timeout), at which `handle` is called with
/// [`Input::TimePassed`]. Every work is answered by exactly one input. `S` is a
/// symbol in use.
///
/// Invariants:
/// - At most one process of the plugin is alive, except for a trial's, and at
///   most one work is unanswered. Hence no two processes connect to the same
///   address.
/// - A caller is answered once: by its deadline, or by the end of the first
///   start, which has a deadline of its own.
/// - A process serves once all symbols in use have been restored in it, or were
///   reported as lost or postponed.
/// - After `Shutdown` nothing is started, and [`is_over`](Self::is_over) holds
///   once the outstanding work is answered and the process has ended.
#[derive(Debug)]
pub(crate) struct Lifecycle<S> {
    plugin: String,
    policy: RestartPolicy,
    /// Maximum wait of an update for a start or a restart.
    patience: Duration,
    phase: Phase,
    since: Instant,
    /// The number of the latest process.
    generation: u64,
    /// The latest process may be alive.
    is_alive: bool,
    pid: Option<u32>,
    /// How the latest process ended, until the lifecycle has handled it.
    exit: Option<Exit>,
    /// The latest process has crashed, and still holds addresses that the next
    /// one needs.
    must_retire: bool,
    last_exit: Option<Exit>,
    restarts: u64,
    crashes: Crashes,
    /// Number of crashes since the plugin was added, whatever `crashes` forgets.
    crash_count: u64,
    /// The latest crash or failed start, and when it was.
    last_error: Option<(Error, Instant)>,
    /// Why the latest restart failed; `shortages` counts consecutive shortages.
    failure: Option<Error>,
    shortages: u32,
    symbols: Vec<S>,
    postponed: Option<Postponed<S>>,
    callers: Vec<(Caller, Instant)>,
    /// Stops that have not been carried out.
    stops: Vec<Caller>,
    /// Symbols that end with the stop in progress.
    ending: Vec<S>,
    /// The first update has its turn, or gets it next.
    updates: VecDeque<Update>,
    is_working: bool,
    actions: VecDeque<Action<S>>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// A process is being started.
    Starting(Why),
    /// Symbols are being restored in the process.
    Restoring(Why),
    Running,
    /// A process is being ended gracefully.
    Draining(Next),
    /// The plugin has crashed, and is restarted after a pause.
    Pausing {
        until: Instant,
        is_broken: bool,
        crashed: Instant,
    },
    Stopped,
}

/// Why a process is started.
#[derive(Debug)]
enum Why {
    First,
    /// The plugin crashed at this time.
    Crash(Instant),
    /// The new version takes over.
    TakeOver,
    /// The new version has failed, and the old one is started again.
    GoBack(Error),
}

/// What follows the end of a process.
#[derive(Debug)]
enum Next {
    TakeOver,
    GoBack(Error),
    /// The plugin waits until it is needed again.
    Idle,
    Nothing,
}

/// Symbols not restored because of a shortage of the host.
#[derive(Debug)]
struct Postponed<S> {
    symbols: Vec<S>,
    retry_at: Instant,
    retries: u32,
}

#[derive(Debug)]
struct Update {
    number: Caller,
    stage: Stage,
    /// Deadline in the stages `Queued` and `Tried`.
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Earlier updates are in progress.
    Queued,
    /// The update has its turn.
    Called,
    /// The trial is requested.
    Begun,
    /// The trial is in progress.
    Trying,
    /// The trial was aborted.
    BrokenOff,
    /// The trial has succeeded.
    Tried,
    /// The process of the new version takes over.
    TakingOver,
    /// The update has been answered.
    Done,
}

impl<S: Clone + PartialEq> Lifecycle<S> {
    /// Creates the lifecycle of a plugin that has not been needed yet.
    /// `patience` is the maximum wait of an update for a start or a restart.
    pub(crate) fn new(plugin: &str, policy: RestartPolicy, patience: Duration, now: Instant) -> Self {
        Self {
            plugin: plugin.to_owned(),
            crashes: Crashes::new(policy.clone()),
            policy,
            patience,
            phase: Phase::Idle,
            since: now,
            generation: 0,
            is_alive: false,
            pid: None,
            exit: None,
            must_retire: false,
            last_exit: None,
            restarts: 0,
            crash_count: 0,
            last_error: None,
            failure: None,
            shortages: 0,
            symbols: Vec::new(),
            postponed: None,
            callers: Vec::new(),
            stops: Vec::new(),
            ending: Vec::new(),
            updates: VecDeque::new(),
            is_working: false,
            actions: VecDeque::new(),
        }
    }

    /// Handles an input. `chance`, from 0 to 1, is the jitter of a pause that
    /// may follow.
    pub(crate) fn handle(&mut self, input: Input<S>, now: Instant, chance: f64) {
        match input {
            Input::Wanted { caller, deadline } => self.wanted(caller, deadline),
            Input::Attached(symbol) => self.symbols.push(symbol),
            Input::Detached(symbol) => self.symbols.retain(|other| *other != symbol),
            Input::Started { generation, pid } => self.started(generation, pid, now, chance),
            Input::StartFailed { generation, error } => self.start_failed(generation, error, now, chance),
            Input::Exited { generation, exit } => self.exited(generation, exit, now, chance),
            Input::Restored { generation, symbols, postponed } => {
                self.restored(generation, symbols, postponed, now, chance);
            }
            Input::RestoreFailed { generation, error } => self.restore_failed(generation, error, now),
            Input::Drained { generation } => self.drained(generation, now),
            Input::Retired { generation } => self.work_is_answered(generation),
            Input::UpdateWanted { update, deadline } => self.update_wanted(update, deadline),
            Input::UpdateBegun { update } => self.update_begun(update),
            Input::Tried { update, outcome } => self.tried(update, outcome, now),
            Input::UpdateDone { update } => self.updates.retain(|other| other.number != update),
            Input::GivenUp => self.given_up(),
            Input::StopWanted { stop } => self.stop_wanted(stop),
            Input::Reset => self.reset(now),
            Input::Removed => self.removed(now),
            Input::Shutdown => self.shut_down(now),
            Input::TimePassed => {}
        }
        while self.proceed(now) {}
        self.expire(now);
    }

    /// Returns the next action.
    pub(crate) fn poll_action(&mut self) -> Option<Action<S>> {
        self.actions.pop_front()
    }

    /// Returns when to call `handle` with [`Input::TimePassed`], if no other
    /// input comes before.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let callers = self.callers.iter().map(|(_, deadline)| *deadline).filter(|_| !self.is_first_start());
        let updates = self.updates.iter().filter(|update| update.can_expire()).map(|update| update.deadline);
        let own = match (&self.phase, &self.postponed) {
            _ if self.is_working => None,
            (Phase::Pausing { until, .. }, _) => Some(*until),
            (Phase::Running, Some(postponed)) => Some(postponed.retry_at),
            _ => None,
        };
        callers.chain(updates).chain(own).min()
    }

    /// Returns the generation that serves, as far as is known.
    pub(crate) fn serving(&self) -> Option<u64> {
        matches!(self.phase, Phase::Running).then_some(self.generation)
    }

    /// Forgets a caller that waits no more: it is not answered.
    pub(crate) fn forget_caller(&mut self, caller: Caller) {
        self.callers.retain(|(other, _)| *other != caller);
    }

    /// Returns the symbols in use.
    pub(crate) fn symbols(&self) -> &[S] {
        &self.symbols
    }

    /// Returns an error if waiting for the plugin is pointless.
    pub(crate) fn check(&self) -> Result<()> {
        match self.phase {
            Phase::Stopped => Err(Error::Stopped),
            Phase::Pausing { is_broken: true, .. } => Err(self.broken()),
            _ => Ok(()),
        }
    }

    /// Returns the error of a caller that has waited until its deadline.
    pub(crate) fn away(&self) -> Error {
        let plugin = self.plugin.clone();
        match (self.state(), &self.failure) {
            (PluginState::Updating, _) => Error::Updating { plugin },
            (PluginState::Stopping, _) => Error::Stopping { plugin },
            (_, Some(shortage)) if shortage.is_shortage() => shortage.clone(),
            _ => Error::Away { plugin, exit: self.last_exit.clone(), source: self.reason() },
        }
    }

    /// Returns why the plugin could not be restarted, unless its process did
    /// start, and how it ended says it.
    fn reason(&self) -> Option<Reason> {
        let failure = self.failure.as_ref().filter(|failure| !matches!(failure, Error::EarlyExit { .. }));
        failure.map(|failure| Reason(failure.clone().into()))
    }

    /// Returns whether the plugin is stopped and nothing of it is left.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopped) && !self.is_alive && !self.is_working
    }

    /// Returns the plugin's state.
    pub(crate) fn state(&self) -> PluginState {
        match &self.phase {
            Phase::Idle => PluginState::Idle,
            Phase::Starting(Why::First | Why::Crash(_)) | Phase::Restoring(Why::First | Why::Crash(_)) => {
                PluginState::Starting
            }
            Phase::Running => PluginState::Running,
            Phase::Starting(_) | Phase::Restoring(_) | Phase::Draining(Next::TakeOver | Next::GoBack(_)) => {
                PluginState::Updating
            }
            Phase::Pausing { is_broken: false, .. } => PluginState::BackingOff,
            Phase::Pausing { is_broken: true, .. } => PluginState::Broken,
            Phase::Draining(Next::Idle) => PluginState::Stopping,
            Phase::Draining(Next::Nothing) | Phase::Stopped => PluginState::Stopped,
        }
    }

    /// Returns when the state was entered.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Returns the number of the latest process, from 1; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the number of restarts after a crash.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Returns the number of processes that were ready and ended unexpectedly.
    pub(crate) fn crash_count(&self) -> u64 {
        self.crash_count
    }

    /// Returns the latest crash or failed start, and when it was.
    pub(crate) fn last_error(&self) -> Option<&(Error, Instant)> {
        self.last_error.as_ref()
    }

    /// Returns how the latest ended process ended.
    pub(crate) fn last_exit(&self) -> Option<&Exit> {
        self.last_exit.as_ref()
    }

    /// Returns the process id of the latest process, while it is alive.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.filter(|_| self.is_alive && self.exit.is_none())
    }
}
