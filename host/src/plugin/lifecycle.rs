//! The life of one plugin as a pure state machine: which process is to run,
//! which symbols are restored in it, which callers wait for it, and when it is
//! restarted. Processes, threads, locks and clocks are elsewhere.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ekuiper_core::restart::{Crashes, RestartPolicy, Verdict};

use crate::process::Exit;
use crate::status::{EventKind, PluginState};
use crate::{Error, Result};

/// The shortest pause after a shortage of the host's.
const MIN_SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// The number of a caller that waits for the plugin, or of an update.
pub(crate) type Caller = u64;

/// What has happened.
#[derive(Debug)]
pub(crate) enum Input<S> {
    /// A caller needs the plugin, at most until the deadline.
    Wanted { caller: Caller, deadline: Instant },
    /// A symbol is in use from now on: every later process gets it.
    Attached(S),
    /// A symbol is no longer in use.
    Detached(S),
    /// A [`Work::Spawn`] has succeeded: the process has shaken hands.
    Started { generation: u64, pid: u32 },
    /// A [`Work::Spawn`] has failed: nothing is left of the process.
    StartFailed { generation: u64, error: Error },
    /// A process has ended. Comes at any time after its `Spawn`, also before
    /// its `Started`, and also when the end was ordered.
    Exited { generation: u64, exit: Exit },
    /// A [`Work::Restore`] is done. The postponed symbols lack something that
    /// the host is short of.
    Restored { generation: u64, symbols: usize, postponed: Vec<S> },
    /// A strict [`Work::Restore`] has failed.
    RestoreFailed { generation: u64, error: Error },
    /// A [`Work::Drain`] is done: the process has ended.
    Drained { generation: u64 },
    /// A [`Work::Retire`] is done.
    Retired { generation: u64 },
    /// An update of the plugin waits for its turn, at most until the deadline.
    UpdateWanted { update: Caller, deadline: Instant },
    /// An update that has its turn is to be tried.
    UpdateBegun { update: Caller },
    /// A [`Work::Try`] is done.
    Tried { update: Caller, outcome: Result<()> },
    /// An update that has its turn gives it back.
    UpdateDone { update: Caller },
    /// All crashes are to be forgotten, and a pause is to end.
    Reset,
    /// The plugin is removed from its host.
    Removed,
    /// The host is shut down.
    Shutdown,
    /// Time has passed: [`Lifecycle::poll_timeout`] was reached.
    TimePassed,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action<S> {
    /// Takes time: to be carried out by one thread, in this order.
    Work(Work<S>),
    /// To break off the start of a process, or to end the process: at once,
    /// beside any work.
    Kill { generation: u64 },
    /// To break off a [`Work::Try`]: at once, beside any work.
    EndTrial,
    /// The answer to [`Input::Wanted`]: the generation that serves.
    Answer { caller: Caller, outcome: Result<u64> },
    /// The answer to [`Input::UpdateWanted`].
    Turn { update: Caller, outcome: Result<()> },
    /// The package of an update is that of the plugin from now on.
    Adopt { update: Caller },
    /// The answer to [`Input::UpdateBegun`].
    Updated { update: Caller, outcome: Result<()> },
    /// An event for the host's subscribers.
    Tell(EventKind),
    /// The sources and sinks that wait for the plugin look at it again.
    Wake,
}

/// An action that takes time.
#[derive(Debug, Clone)]
pub(crate) enum Work<S> {
    /// To start a process. Answered by `Started` or `StartFailed`.
    Spawn { generation: u64, version: Version },
    /// To start these symbols in a process; a strict one fails with the first
    /// symbol. Answered by `Restored` or `RestoreFailed`.
    Restore { generation: u64, symbols: Vec<S>, is_strict: bool },
    /// To end a process; an orderly end comes after everything in flight.
    /// Answered by `Drained`.
    Drain { generation: u64, is_orderly: bool },
    /// To start a process of an update beside the one that serves, and to end
    /// it. Answered by `Tried`.
    Try { update: Caller },
    /// To free what a process held that has ended. Answered by `Retired`.
    Retire { generation: u64 },
}

/// The package that a process is started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The plugin's.
    Current,
    /// That of an update.
    Update(Caller),
}

/// The life of one plugin, from its host's start to its end.
///
/// The order of calls: [`handle`](Self::handle) with an input, then
/// [`poll_action`](Self::poll_action) until it has none, then
/// [`poll_timeout`](Self::poll_timeout), at which `handle` is to be called with
/// [`Input::TimePassed`]. Every work is answered by exactly one input. `S` is a
/// symbol in use.
///
/// The invariants:
/// - At most one process of the plugin is alive, except for a trial's, and at
///   most one work is not answered. So no two processes dial one address.
/// - A caller is answered once: by its deadline, or by the end of the first
///   start, which has a deadline of its own.
/// - A process serves once all symbols in use have been restored in it, or
///   were reported as lost or postponed.
/// - After `Shutdown` nothing is started, and [`is_over`](Self::is_over) holds
///   once the outstanding work is answered and the process has ended.
#[derive(Debug)]
pub(crate) struct Lifecycle<S> {
    plugin: String,
    policy: RestartPolicy,
    /// The longest that an update waits for a start or a restart.
    patience: Duration,
    phase: Phase,
    since: Instant,
    /// The number of the latest process.
    generation: u64,
    /// The latest process may be alive.
    is_alive: bool,
    pid: Option<u32>,
    /// How the latest process ended, until the lifecycle has dealt with it.
    exit: Option<Exit>,
    /// It has crashed, and still holds what the next process needs.
    must_retire: bool,
    last_exit: Option<Exit>,
    restarts: u64,
    crashes: Crashes,
    /// What the host was short of at the latest start, and how often in a row.
    shortage: Option<Error>,
    shortages: u32,
    symbols: Vec<S>,
    postponed: Option<Postponed<S>>,
    callers: Vec<(Caller, Instant)>,
    /// The first one has its turn, or gets it next.
    updates: VecDeque<Update>,
    is_working: bool,
    actions: VecDeque<Action<S>>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// A process is being started.
    Starting(Why),
    /// Symbols are being restored in it.
    Restoring(Why),
    Running,
    /// A process is being ended in order.
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
    /// The plugin has been away since then.
    Crash(Instant),
    /// It is the new version's.
    TakeOver,
    /// The new version has failed.
    GoBack(Error),
}

/// What follows the end of a process.
#[derive(Debug)]
enum Next {
    TakeOver,
    GoBack(Error),
    Nothing,
}

/// Symbols that the host was short of something for.
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
    /// When it is given up, in the stages `Queued` and `Tried`.
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Others are before it.
    Queued,
    /// It has its turn.
    Called,
    /// It is to be tried.
    Begun,
    /// It is being tried.
    Trying,
    /// The trial was broken off.
    BrokenOff,
    /// The trial has succeeded.
    Tried,
    /// Its process takes over.
    TakingOver,
    /// It has been answered.
    Done,
}

impl<S: Clone + PartialEq> Lifecycle<S> {
    /// A plugin that has not been needed yet. `patience` is the longest that an
    /// update waits for a start or a restart.
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
            shortage: None,
            shortages: 0,
            symbols: Vec::new(),
            postponed: None,
            callers: Vec::new(),
            updates: VecDeque::new(),
            is_working: false,
            actions: VecDeque::new(),
        }
    }

    /// Takes note of what has happened. `chance`, from 0 to 1, is the jitter of
    /// a pause that may follow.
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
            Input::UpdateBegun { update } => self.move_update(update, Stage::Called, Stage::Begun),
            Input::Tried { update, outcome } => self.tried(update, outcome, now),
            Input::UpdateDone { update } => self.updates.retain(|other| other.number != update),
            Input::Reset => self.reset(now),
            Input::Removed => self.removed(now),
            Input::Shutdown => self.shut_down(now),
            Input::TimePassed => {}
        }
        while self.proceed(now) {}
        self.expire(now);
    }

    /// The next thing to be done.
    pub(crate) fn poll_action(&mut self) -> Option<Action<S>> {
        self.actions.pop_front()
    }

    /// When something is to be done that no input announces.
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

    /// The generation that serves, as far as is known.
    pub(crate) fn serving(&self) -> Option<u64> {
        matches!(self.phase, Phase::Running).then_some(self.generation)
    }

    /// The symbols in use.
    pub(crate) fn symbols(&self) -> &[S] {
        &self.symbols
    }

    /// Whether it makes sense to wait for the plugin.
    pub(crate) fn check(&self) -> Result<()> {
        match self.phase {
            Phase::Stopped => Err(Error::Stopped),
            Phase::Pausing { is_broken: true, .. } => Err(self.broken()),
            _ => Ok(()),
        }
    }

    /// The error of a caller that has waited until its deadline.
    pub(crate) fn away(&self) -> Error {
        if self.state() == PluginState::Updating {
            return Error::Updating { plugin: self.plugin.clone() };
        }
        if let Some(shortage) = &self.shortage {
            return shortage.for_another_caller();
        }
        Error::Away { plugin: self.plugin.clone(), exit: self.last_exit.clone() }
    }

    /// Whether the plugin is stopped and nothing of it is left.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopped) && !self.is_alive && !self.is_working
    }

    /// What the plugin is doing.
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
            Phase::Draining(Next::Nothing) | Phase::Stopped => PluginState::Stopped,
        }
    }

    /// Since when it has been doing that.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// The number of the latest process, from 1; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// How often the plugin was restarted after a crash.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// How the latest process that has ended did.
    pub(crate) fn last_exit(&self) -> Option<&Exit> {
        self.last_exit.as_ref()
    }

    /// The process id of the latest process, while it is alive.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.filter(|_| self.is_alive && self.exit.is_none())
    }
}

/// Inputs, one function each.
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
            // It has started before it was killed.
            Phase::Stopped if self.is_alive => self.actions.push_back(Action::Kill { generation }),
            Phase::Stopped => {}
            Phase::Starting(Why::First) => {
                self.tell(EventKind::Started { pid });
                match self.exit.take() {
                    None => self.serve(now),
                    Some(exit) => {
                        // It has ended before it was said to run.
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
                    self.answer(caller, Err(error.for_another_caller()));
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
            // Late news.
            return;
        }
        self.last_exit = Some(exit.clone());
        match &self.phase {
            // The work that is under way ends with the process, and is
            // answered.
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
                    Why::First => {}
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
            // It was a retry, and the process has ended meanwhile.
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
            Why::First => self.crashed(exit, now, now, chance),
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

    fn move_update(&mut self, update: Caller, from: Stage, to: Stage) {
        match self.updates.front_mut().filter(|front| front.number == update) {
            Some(front) if front.stage == from => front.stage = to,
            // The plugin was stopped meanwhile.
            _ => self.actions.push_back(Action::Updated { update, outcome: Err(Error::Stopped) }),
        }
    }

    fn tried(&mut self, update: Caller, outcome: Result<()>, now: Instant) {
        self.is_working = false;
        let deadline = now + self.patience;
        let Some(front) = self.updates.front_mut().filter(|front| front.number == update) else { return };
        match (front.stage, outcome) {
            (Stage::Trying, Ok(())) => (front.stage, front.deadline) = (Stage::Tried, deadline),
            (Stage::Trying, Err(error)) => self.update_ends(Err(error)),
            (Stage::BrokenOff, _) => {
                let plugin = self.plugin.clone();
                self.update_ends(Err(Error::TrialEnded { plugin }));
            }
            // The plugin was stopped meanwhile.
            _ => {}
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
            _ => self.shut_down(now),
        }
    }

    fn shut_down(&mut self, now: Instant) {
        if self.exit.take().is_some() {
            // Its end is known: nothing else tells of it.
            self.is_alive = false;
        }
        if self.is_alive {
            self.actions.push_back(Action::Kill { generation: self.generation });
        }
        self.enter(Phase::Stopped, now);
        self.dismiss();
    }

    /// Answers all who wait.
    fn dismiss(&mut self) {
        for (caller, _) in std::mem::take(&mut self.callers) {
            self.answer(caller, Err(Error::Stopped));
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
    /// Orders what is due; whether there may be more.
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
            // There is no process to replace.
            (Phase::Idle | Phase::Pausing { .. }, Some(Stage::Tried)) => {
                self.adopt();
                self.update_ends(Ok(()));
                self.reset(now);
                return true;
            }
            (Phase::Idle, _) if !self.callers.is_empty() => self.spawn(Why::First, now),
            (Phase::Pausing { until, crashed, .. }, _) if *until <= now => {
                let crashed = *crashed;
                self.spawn(Why::Crash(crashed), now);
            }
            (Phase::Idle | Phase::Running | Phase::Pausing { .. }, Some(Stage::Begun)) => {
                self.set_stage(Stage::Trying);
                let update = self.updates.front().map_or(0, |front| front.number);
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
        let update = self.updates.front().map(|front| front.number);
        let version = match (&why, update) {
            (Why::TakeOver, Some(update)) => Version::Update(update),
            _ => Version::Current,
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

    /// The process serves.
    fn serve(&mut self, now: Instant) {
        (self.shortage, self.shortages) = (None, 0);
        self.crashes.started(now);
        self.enter(Phase::Running, now);
        for (caller, _) in std::mem::take(&mut self.callers) {
            self.answer(caller, Ok(self.generation));
        }
    }

    /// The process has ended without having been told to.
    fn crashed(&mut self, exit: Exit, since: Instant, now: Instant, chance: f64) {
        self.is_alive = false;
        self.must_retire = true;
        self.tell(EventKind::Crashed { exit });
        self.end_trial();
        self.postponed = None;
        self.pause(since, now, chance);
    }

    fn restart_failed(&mut self, error: Error, crashed: Instant, now: Instant, chance: f64) {
        if error.is_shortage() {
            let pause = shortage_pause(&self.policy, self.shortages);
            self.shortages += 1;
            self.tell(EventKind::Shortage { error: error.to_string(), pause });
            self.shortage = Some(error);
            self.enter(Phase::Pausing { until: later(now, pause), is_broken: false, crashed }, now);
            return;
        }
        (self.shortage, self.shortages) = (None, 0);
        self.tell(EventKind::RestartFailed { error: error.to_string() });
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
        if let Some(front) = self.updates.front() {
            self.actions.push_back(Action::Adopt { update: front.number });
        }
    }

    /// Answers the update that is under way.
    fn update_ends(&mut self, outcome: Result<()>) {
        if let Some(front) = self.updates.front_mut() {
            front.stage = Stage::Done;
            self.actions.push_back(Action::Updated { update: front.number, outcome });
        }
    }

    /// Whether the callers wait for the first start, whose deadline is theirs.
    fn is_first_start(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Starting(Why::First))
    }

    fn broken(&self) -> Error {
        Error::Broken { plugin: self.plugin.clone(), pause: self.policy.break_pause, exit: self.last_exit.clone() }
    }
}

impl Update {
    /// Whether its deadline matters.
    fn can_expire(&self) -> bool {
        matches!(self.stage, Stage::Queued | Stage::Tried)
    }
}

/// The pause before the next attempt after so many shortages.
pub(crate) fn shortage_pause(policy: &RestartPolicy, shortages: u32) -> Duration {
    let pause = policy.first_pause.saturating_mul(1u32.checked_shl(shortages).unwrap_or(u32::MAX));
    pause.clamp(MIN_SHORTAGE_PAUSE, policy.max_pause.max(MIN_SHORTAGE_PAUSE))
}

/// A phase in which this input cannot come.
fn unexpected(phase: Phase, what: &str) -> Phase {
    debug_assert!(false, "{what}: {phase:?}");
    phase
}

/// The instant after a pause, however long that is.
fn later(now: Instant, pause: Duration) -> Instant {
    now.checked_add(pause).unwrap_or_else(|| now + Duration::from_secs(365 * 86_400))
}
