//! The life of one plugin as a pure state machine: which process is to run,
//! which symbols are restored in it, which callers wait for it, and when it is
//! restarted. Processes, threads, locks and clocks are elsewhere.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::restart::{Crashes, RestartPolicy, Verdict};

use crate::error::Reason;
use crate::process::Exit;
use crate::status::{EventKind, PluginState};
use crate::{Error, Result};

/// Minimum pause after a shortage of the host.
const MIN_SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// The number of a caller that waits for the plugin, or of an update.
pub(crate) type Caller = u64;

/// An event in a plugin's life.
#[derive(Debug)]
pub(crate) enum Input<S> {
    /// A caller needs the plugin, and waits at most until the deadline.
    Wanted { caller: Caller, deadline: Instant },
    /// A symbol is in use from now on, and is restored in every later process.
    Attached(S),
    /// A symbol is no longer in use.
    Detached(S),
    /// A [`Work::Spawn`] has succeeded: the process has shaken hands.
    Started { generation: u64, pid: u32 },
    /// A [`Work::Spawn`] has failed: nothing is left of the process.
    StartFailed { generation: u64, error: Error },
    /// A process has ended. Arrives at any time after its `Spawn`, even before
    /// its `Started`, and also when the end was ordered.
    Exited { generation: u64, exit: Exit },
    /// A [`Work::Restore`] is done. The postponed symbols lack a resource that
    /// the host has exhausted.
    Restored { generation: u64, symbols: usize, postponed: Vec<S> },
    /// A strict [`Work::Restore`] has failed.
    RestoreFailed { generation: u64, error: Error },
    /// A [`Work::Drain`] is done: the process has ended.
    Drained { generation: u64 },
    /// A [`Work::Retire`] is done.
    Retired { generation: u64 },
    /// An update of the plugin waits for its turn, at most until the deadline.
    UpdateWanted { update: Caller, deadline: Instant },
    /// An update that has its turn begins its trial.
    UpdateBegun { update: Caller },
    /// A [`Work::Try`] is done.
    Tried { update: Caller, outcome: Result<()> },
    /// An update gives its turn back.
    UpdateDone { update: Caller },
    /// The process is to end until the plugin is needed again.
    StopWanted { stop: Caller },
    /// All crashes are forgotten, and a pause ends.
    Reset,
    /// The plugin is removed from its host.
    Removed,
    /// The host is shut down.
    Shutdown,
    /// Time has passed: [`Lifecycle::poll_timeout`] was reached.
    TimePassed,
}

/// An order to the caller.
#[derive(Debug)]
pub(crate) enum Action<S> {
    /// Takes time: one thread carries out all work in this order.
    Work(Work<S>),
    /// Abort the start of a process, or end the process: at once, concurrently
    /// with any work.
    Kill { generation: u64 },
    /// Abort a [`Work::Try`]: at once, concurrently with any work.
    EndTrial,
    /// The answer to [`Input::Wanted`]: the generation that serves.
    Answer { caller: Caller, outcome: Result<u64> },
    /// The answer to [`Input::UpdateWanted`].
    Turn { update: Caller, outcome: Result<()> },
    /// The package of an update becomes that of the plugin.
    Adopt { update: Caller },
    /// The answer to [`Input::UpdateBegun`].
    Updated { update: Caller, outcome: Result<()> },
    /// The answer to [`Input::StopWanted`].
    HasStopped { stop: Caller, outcome: Result<()> },
    /// An event for the host's subscribers.
    Tell(EventKind),
    /// Wake the sources and sinks that wait for the plugin.
    Wake,
}

/// An action that takes time.
#[derive(Debug, Clone)]
pub(crate) enum Work<S> {
    /// Start a process. Answered by `Started` or `StartFailed`.
    Spawn { generation: u64, version: Version },
    /// Start these symbols in a process; a strict restore fails with the first
    /// symbol. Answered by `Restored` or `RestoreFailed`.
    Restore { generation: u64, symbols: Vec<S>, is_strict: bool },
    /// End a process; a graceful end waits for the work in flight. Answered by
    /// `Drained`.
    Drain { generation: u64, is_orderly: bool },
    /// End a process gracefully, if there is one, and then these symbols, for
    /// good. Answered by `Drained`.
    Stop { generation: u64, is_alive: bool, symbols: Vec<S> },
    /// Start a process of an update beside the serving one, and end it.
    /// Answered by `Tried`.
    Try { update: Caller },
    /// Release what a process held that has ended. Answered by `Retired`.
    Retire { generation: u64 },
}

/// The package that a process is started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The plugin's package.
    Current,
    /// The package of an update.
    Update(Caller),
}

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

    /// Returns how the latest ended process ended.
    pub(crate) fn last_exit(&self) -> Option<&Exit> {
        self.last_exit.as_ref()
    }

    /// Returns the process id of the latest process, while it is alive.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.filter(|_| self.is_alive && self.exit.is_none())
    }
}

/// Handlers, one per input.
impl<S: Clone + PartialEq> Lifecycle<S> {
    fn wanted(&mut self, caller: Caller, deadline: Instant) {
        match (&self.phase, self.check()) {
            (_, Err(error)) => self.answer(caller, Err(error)),
            (Phase::Running, _) => self.answer(caller, Ok(self.generation)),
            // An idle plugin is started by `proceed`.
            _ => self.callers.push((caller, deadline)),
        }
    }

    fn started(&mut self, generation: u64, pid: u32, now: Instant, chance: f64) {
        self.work_is_answered(generation);
        self.pid = Some(pid);
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            // The process has started before it was killed.
            Phase::Stopped if self.is_alive => self.actions.push_back(Action::Kill { generation }),
            Phase::Stopped => {}
            Phase::Starting(Why::First) => {
                self.tell(EventKind::Started { pid });
                match self.exit.take() {
                    None => self.serve(now),
                    Some(exit) => {
                        // The process has ended before its start was reported.
                        self.crashes.started(now);
                        self.crashed(exit, now, now, chance);
                    }
                }
            }
            Phase::Starting(why) => {
                let is_strict = matches!(why, Why::TakeOver);
                self.enter(Phase::Restoring(why), now);
                let symbols = self.symbols.clone();
                self.work(Work::Restore { generation, symbols, is_strict });
            }
            phase => self.phase = unexpected(phase, "a process was started that was not ordered"),
        }
    }

    fn start_failed(&mut self, generation: u64, error: Error, now: Instant, chance: f64) {
        self.work_is_answered(generation);
        self.is_alive = false;
        self.exit = None;
        if let Error::EarlyExit { exit, .. } = &error {
            self.last_exit = Some(exit.clone());
        }
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Stopped => {}
            Phase::Starting(Why::First) => {
                for (caller, _) in std::mem::take(&mut self.callers) {
                    self.answer(caller, Err(error.clone()));
                }
                self.enter(Phase::Idle, now);
            }
            Phase::Starting(Why::Crash(crashed)) => self.restart_failed(error, crashed, now, chance),
            Phase::Starting(Why::TakeOver) => self.spawn(Why::GoBack(error), now),
            Phase::Starting(Why::GoBack(reason)) => {
                self.update_ends(Err(reason));
                self.restart_failed(error, now, now, chance);
            }
            phase => self.phase = unexpected(phase, "a start failed that was not ordered"),
        }
    }

    fn exited(&mut self, generation: u64, exit: Exit, now: Instant, chance: f64) {
        if generation != self.generation || !self.is_alive {
            // A late report of an earlier process.
            return;
        }
        self.last_exit = Some(exit.clone());
        match &self.phase {
            // The work in progress ends with the process, and is answered.
            Phase::Starting(_) | Phase::Restoring(_) => self.exit = Some(exit),
            Phase::Running => self.crashed(exit, now, now, chance),
            Phase::Draining(_) | Phase::Stopped => self.is_alive = false,
            Phase::Idle | Phase::Pausing { .. } => debug_assert!(false, "no process is alive in {:?}", self.phase),
        }
    }

    fn restored(&mut self, generation: u64, count: usize, postponed: Vec<S>, now: Instant, chance: f64) {
        self.work_is_answered(generation);
        let retries = self.postponed.take().map_or(0, |earlier| earlier.retries + 1);
        match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Running => {}
            Phase::Restoring(why) => {
                if let Some(exit) = self.exit.take() {
                    return self.ended_in_restore(why, exit, now, chance);
                }
                let pid = self.pid.unwrap_or_default();
                match why {
                    Why::First => unreachable!("nothing is restored in the first process"),
                    Why::Crash(crashed) => {
                        self.restarts += 1;
                        let away = now.saturating_duration_since(crashed);
                        self.tell(EventKind::Restored { pid, away, symbols: count });
                    }
                    Why::TakeOver => {
                        self.adopt();
                        self.update_ends(Ok(()));
                    }
                    Why::GoBack(reason) => self.update_ends(Err(reason)),
                }
                self.serve(now);
            }
            // A retry of postponed symbols, whose process has ended meanwhile.
            phase @ (Phase::Pausing { .. } | Phase::Stopped) => {
                self.phase = phase;
                return;
            }
            phase => {
                self.phase = unexpected(phase, "symbols were restored that were not to be");
                return;
            }
        }
        if !postponed.is_empty() {
            let retry_at = now + shortage_pause(&self.policy, retries);
            self.postponed = Some(Postponed { symbols: postponed, retry_at, retries });
        }
    }

    fn ended_in_restore(&mut self, why: Why, exit: Exit, now: Instant, chance: f64) {
        match why {
            Why::First => unreachable!("nothing is restored in the first process"),
            Why::Crash(since) => self.crashed(exit, since, now, chance),
            Why::TakeOver => {
                let error = Error::Exited { plugin: self.plugin.clone(), exit };
                self.drain(Next::GoBack(error), now);
            }
            Why::GoBack(reason) => {
                self.update_ends(Err(reason));
                self.crashed(exit, now, now, chance);
            }
        }
    }

    fn restore_failed(&mut self, generation: u64, error: Error, now: Instant) {
        self.work_is_answered(generation);
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Stopped => {}
            Phase::Restoring(Why::TakeOver) => self.drain(Next::GoBack(error), now),
            phase => self.phase = unexpected(phase, "only a strict restoration fails"),
        }
    }

    fn drained(&mut self, generation: u64, now: Instant) {
        self.work_is_answered(generation);
        self.is_alive = false;
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Stopped => {}
            Phase::Draining(Next::TakeOver) => self.spawn(Why::TakeOver, now),
            Phase::Draining(Next::GoBack(error)) => self.spawn(Why::GoBack(error), now),
            Phase::Draining(Next::Idle) => {
                let ended = std::mem::take(&mut self.ending);
                self.symbols.retain(|symbol| !ended.contains(symbol));
                self.tell(EventKind::Stopped);
                self.enter(Phase::Idle, now);
            }
            Phase::Draining(Next::Nothing) => self.shut_down(now),
            phase => self.phase = unexpected(phase, "a process was drained that was not to be"),
        }
    }

    fn update_wanted(&mut self, update: Caller, deadline: Instant) {
        if let Phase::Stopped | Phase::Draining(Next::Nothing) = self.phase {
            self.actions.push_back(Action::Turn { update, outcome: Err(Error::Stopped) });
            return;
        }
        self.updates.push_back(Update { number: update, stage: Stage::Queued, deadline });
    }

    fn update_begun(&mut self, update: Caller) {
        match self.updates.front_mut().filter(|front| front.number == update) {
            Some(front) => {
                debug_assert_eq!(front.stage, Stage::Called, "an update begins once, when it has its turn");
                front.stage = Stage::Begun;
            }
            None => {
                debug_assert_eq!(
                    self.state(),
                    PluginState::Stopped,
                    "an update keeps its turn unless all are dismissed"
                );
                self.actions.push_back(Action::Updated { update, outcome: Err(Error::Stopped) });
            }
        }
    }

    fn tried(&mut self, update: Caller, outcome: Result<()>, now: Instant) {
        self.is_working = false;
        let deadline = now + self.patience;
        let Some(front) = self.updates.front_mut().filter(|front| front.number == update) else {
            debug_assert_eq!(self.state(), PluginState::Stopped, "an update keeps its turn unless all are dismissed");
            return;
        };
        match (front.stage, outcome) {
            (Stage::Trying, Ok(())) => (front.stage, front.deadline) = (Stage::Tried, deadline),
            (Stage::Trying, Err(error)) => self.update_ends(Err(error)),
            (Stage::BrokenOff, _) => {
                let plugin = self.plugin.clone();
                self.update_ends(Err(Error::TrialEnded { plugin }));
            }
            (stage, _) => unreachable!("an update was tried in stage {stage:?}"),
        }
    }

    fn stop_wanted(&mut self, stop: Caller) {
        match self.phase {
            Phase::Stopped | Phase::Draining(Next::Nothing) => self.has_stopped(stop, Err(Error::Stopped)),
            _ => self.stops.push(stop),
        }
    }

    fn reset(&mut self, now: Instant) {
        self.crashes.reset();
        self.shortages = 0;
        if let Phase::Pausing { until, is_broken, .. } = &mut self.phase {
            (*until, *is_broken) = (now, false);
        }
    }

    fn removed(&mut self, now: Instant) {
        match self.phase {
            Phase::Running if !self.is_working => {
                self.dismiss();
                self.drain(Next::Nothing, now);
            }
            Phase::Draining(Next::Nothing) | Phase::Stopped => {}
            Phase::Draining(Next::Idle) => {
                self.dismiss();
                self.enter(Phase::Draining(Next::Nothing), now);
            }
            _ => self.shut_down(now),
        }
    }

    fn shut_down(&mut self, now: Instant) {
        if self.exit.take().is_some() {
            // The end is known, and will not be reported again.
            self.is_alive = false;
        }
        if self.is_alive {
            self.actions.push_back(Action::Kill { generation: self.generation });
        }
        self.enter(Phase::Stopped, now);
        self.dismiss();
    }

    /// Answers all waiting callers and updates.
    fn dismiss(&mut self) {
        for (caller, _) in std::mem::take(&mut self.callers) {
            self.answer(caller, Err(Error::Stopped));
        }
        for stop in std::mem::take(&mut self.stops) {
            self.has_stopped(stop, Err(Error::Stopped));
        }
        self.end_trial();
        for Update { number: update, stage, .. } in std::mem::take(&mut self.updates) {
            match stage {
                Stage::Queued => self.actions.push_back(Action::Turn { update, outcome: Err(Error::Stopped) }),
                Stage::Called | Stage::Done => {}
                _ => self.actions.push_back(Action::Updated { update, outcome: Err(Error::Stopped) }),
            }
        }
        self.postponed = None;
    }
}

/// Transitions.
impl<S: Clone + PartialEq> Lifecycle<S> {
    /// Orders what is due; returns whether there may be more.
    fn proceed(&mut self, now: Instant) -> bool {
        if let Some(front) = self.updates.front_mut()
            && front.stage == Stage::Queued
        {
            front.stage = Stage::Called;
            let update = front.number;
            self.actions.push_back(Action::Turn { update, outcome: Ok(()) });
        }
        if self.is_working {
            return false;
        }
        if std::mem::take(&mut self.must_retire) {
            self.work(Work::Retire { generation: self.generation });
            return false;
        }
        let stage = self.updates.front().map(|front| front.stage);
        match (&mut self.phase, stage) {
            (Phase::Running, Some(Stage::Tried)) => {
                self.set_stage(Stage::TakingOver);
                self.drain(Next::TakeOver, now);
            }
            // No process is running that would have to be replaced.
            (Phase::Idle | Phase::Pausing { .. }, Some(Stage::Tried)) => {
                self.adopt();
                self.update_ends(Ok(()));
                self.reset(now);
                return true;
            }
            (Phase::Idle, _) if !self.stops.is_empty() => {
                for stop in std::mem::take(&mut self.stops) {
                    self.has_stopped(stop, Ok(()));
                }
                return true;
            }
            (Phase::Running | Phase::Pausing { .. }, _) if !self.stops.is_empty() => self.stop(now),
            (Phase::Idle, _) if !self.callers.is_empty() => self.spawn(Why::First, now),
            (Phase::Pausing { until, crashed, .. }, _) if *until <= now => {
                let crashed = *crashed;
                self.spawn(Why::Crash(crashed), now);
            }
            (Phase::Idle | Phase::Running | Phase::Pausing { .. }, Some(Stage::Begun)) => {
                self.set_stage(Stage::Trying);
                let update = self.update_in_progress();
                self.work(Work::Try { update });
            }
            (Phase::Running, _) => return self.retry_postponed(now),
            _ => {}
        }
        false
    }

    fn retry_postponed(&mut self, now: Instant) -> bool {
        let Some(postponed) = &mut self.postponed else { return false };
        if postponed.retry_at > now {
            return false;
        }
        let mut symbols = std::mem::take(&mut postponed.symbols);
        symbols.retain(|symbol| self.symbols.contains(symbol));
        if symbols.is_empty() {
            self.postponed = None;
            return true;
        }
        let generation = self.generation;
        self.work(Work::Restore { generation, symbols, is_strict: false });
        false
    }

    /// Answers the callers and updates whose deadlines have passed.
    fn expire(&mut self, now: Instant) {
        if !self.is_first_start() {
            let due = self.callers.extract_if(.., |(_, deadline)| *deadline <= now).collect::<Vec<_>>();
            for (caller, _) in due {
                self.answer(caller, Err(self.away()));
            }
        }
        while let Some(index) = self.updates.iter().position(|update| update.can_expire() && update.deadline <= now) {
            let is_tried = self.updates[index].stage == Stage::Tried;
            if is_tried {
                self.update_ends(Err(self.away()));
            } else if let Some(Update { number: update, .. }) = self.updates.remove(index) {
                let plugin = self.plugin.clone();
                self.actions.push_back(Action::Turn { update, outcome: Err(Error::Updating { plugin }) });
            }
        }
    }

    fn spawn(&mut self, why: Why, now: Instant) {
        debug_assert!(!self.is_alive && !self.is_working, "one process at a time: {:?}", self.phase);
        self.generation += 1;
        (self.is_alive, self.pid, self.exit) = (true, None, None);
        let version = match why {
            Why::TakeOver => Version::Update(self.update_in_progress()),
            Why::First | Why::Crash(_) | Why::GoBack(_) => Version::Current,
        };
        self.enter(Phase::Starting(why), now);
        self.work(Work::Spawn { generation: self.generation, version });
    }

    fn drain(&mut self, next: Next, now: Instant) {
        if self.exit.take().is_some() {
            self.is_alive = false;
        }
        let is_orderly = !matches!(next, Next::GoBack(_));
        self.enter(Phase::Draining(next), now);
        self.work(Work::Drain { generation: self.generation, is_orderly });
    }

    /// Ends the process, if there is one, and the symbols in use.
    fn stop(&mut self, now: Instant) {
        if self.exit.take().is_some() {
            self.is_alive = false;
        }
        let (generation, is_alive) = (self.generation, self.is_alive);
        let symbols = self.symbols.clone();
        (self.postponed, self.failure, self.shortages) = (None, None, 0);
        self.ending.clone_from(&symbols);
        self.enter(Phase::Draining(Next::Idle), now);
        self.work(Work::Stop { generation, is_alive, symbols });
    }

    /// Marks the process as serving.
    fn serve(&mut self, now: Instant) {
        (self.failure, self.shortages) = (None, 0);
        self.crashes.started(now);
        self.enter(Phase::Running, now);
        if !self.stops.is_empty() {
            // The process is ended at once: the callers get the next.
            return;
        }
        for (caller, _) in std::mem::take(&mut self.callers) {
            self.answer(caller, Ok(self.generation));
        }
    }

    /// Handles an unexpected end of the process.
    fn crashed(&mut self, exit: Exit, since: Instant, now: Instant, chance: f64) {
        self.is_alive = false;
        self.must_retire = true;
        self.failure = None;
        self.tell(EventKind::Crashed { exit });
        self.end_trial();
        self.postponed = None;
        self.pause(since, now, chance);
    }

    fn restart_failed(&mut self, error: Error, crashed: Instant, now: Instant, chance: f64) {
        if error.is_shortage() {
            let pause = shortage_pause(&self.policy, self.shortages);
            self.shortages += 1;
            self.tell(EventKind::Shortage { error: Chain(&error).to_string(), pause });
            self.failure = Some(error);
            self.enter(Phase::Pausing { until: later(now, pause), is_broken: false, crashed }, now);
            return;
        }
        self.shortages = 0;
        self.tell(EventKind::RestartFailed { error: Chain(&error).to_string() });
        self.failure = Some(error);
        self.pause(crashed, now, chance);
    }

    fn pause(&mut self, crashed: Instant, now: Instant, chance: f64) {
        let (pause, is_broken) = match self.crashes.crashed(now, chance) {
            Verdict::After(pause) => {
                self.tell(EventKind::BackingOff { pause });
                (pause, false)
            }
            Verdict::Broken(pause) => {
                self.tell(EventKind::Broken { pause });
                (pause, true)
            }
        };
        self.enter(Phase::Pausing { until: later(now, pause), is_broken, crashed }, now);
        if is_broken {
            for (caller, _) in std::mem::take(&mut self.callers) {
                self.answer(caller, Err(self.broken()));
            }
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
        self.actions.push_back(Action::Wake);
    }

    fn work(&mut self, work: Work<S>) {
        debug_assert!(!self.is_working, "one work at a time");
        self.is_working = true;
        self.actions.push_back(Action::Work(work));
    }

    fn work_is_answered(&mut self, generation: u64) {
        debug_assert!(self.is_working && generation == self.generation, "no work for {generation} is under way");
        self.is_working = false;
    }

    fn answer(&mut self, caller: Caller, outcome: Result<u64>) {
        self.actions.push_back(Action::Answer { caller, outcome });
    }

    fn has_stopped(&mut self, stop: Caller, outcome: Result<()>) {
        self.actions.push_back(Action::HasStopped { stop, outcome });
    }

    fn tell(&mut self, event: EventKind) {
        self.actions.push_back(Action::Tell(event));
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(front) = self.updates.front_mut() {
            front.stage = stage;
        }
    }

    fn end_trial(&mut self) {
        if let Some(front) = self.updates.front_mut()
            && front.stage == Stage::Trying
        {
            front.stage = Stage::BrokenOff;
            self.actions.push_back(Action::EndTrial);
        }
    }

    fn adopt(&mut self) {
        let update = self.update_in_progress();
        self.actions.push_back(Action::Adopt { update });
    }

    /// Returns the update that has its turn.
    fn update_in_progress(&self) -> Caller {
        let front = self.updates.front();
        front.unwrap_or_else(|| unreachable!("an update keeps its turn until its answer")).number
    }

    /// Answers the update in progress.
    fn update_ends(&mut self, outcome: Result<()>) {
        if let Some(front) = self.updates.front_mut() {
            front.stage = Stage::Done;
            self.actions.push_back(Action::Updated { update: front.number, outcome });
        }
    }

    /// Returns whether the callers wait for the first start, whose deadline is
    /// theirs.
    fn is_first_start(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Starting(Why::First))
    }

    fn broken(&self) -> Error {
        let (plugin, pause) = (self.plugin.clone(), self.policy.break_pause);
        Error::Broken { plugin, pause, exit: self.last_exit.clone(), source: self.reason() }
    }
}

impl Update {
    /// Returns whether the deadline of this stage is checked.
    fn can_expire(&self) -> bool {
        matches!(self.stage, Stage::Queued | Stage::Tried)
    }
}

/// Returns the pause after this many consecutive shortages.
pub(crate) fn shortage_pause(policy: &RestartPolicy, shortages: u32) -> Duration {
    let pause = policy.first_pause.saturating_mul(1u32.checked_shl(shortages).unwrap_or(u32::MAX));
    pause.clamp(MIN_SHORTAGE_PAUSE, policy.max_pause.max(MIN_SHORTAGE_PAUSE))
}

/// Reports an input that cannot come in this phase.
fn unexpected(phase: Phase, what: &str) -> Phase {
    debug_assert!(false, "{what}: {phase:?}");
    phase
}

/// Returns the instant after a pause of any length.
fn later(now: Instant, pause: Duration) -> Instant {
    now.checked_add(pause).unwrap_or_else(|| now + Duration::from_secs(365 * 86_400))
}
