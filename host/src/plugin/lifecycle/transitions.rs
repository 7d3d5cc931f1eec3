//! The transitions between the phases of a lifecycle, and the orders that go
//! with them.

use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::instant::later;
use ekuiper_core::restart::{RestartPolicy, Verdict};

use super::vocabulary::{Action, Caller, Version, Work};
use super::{Lifecycle, Next, Phase, Stage, Update, Why};
use crate::process::Exit;
use crate::status::EventKind;
use crate::{Error, Result};

/// Minimum pause after a shortage of the host.
const MIN_SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// Transitions.
impl<S: Clone + PartialEq> Lifecycle<S> {
    /// Orders what is due; returns whether there may be more.
    pub(super) fn proceed(&mut self, now: Instant) -> bool {
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
    pub(super) fn expire(&mut self, now: Instant) {
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

    pub(super) fn spawn(&mut self, why: Why, now: Instant) {
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

    pub(super) fn drain(&mut self, next: Next, now: Instant) {
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
    pub(super) fn serve(&mut self, now: Instant) {
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
    pub(super) fn crashed(&mut self, exit: Exit, since: Instant, now: Instant, chance: f64) {
        self.is_alive = false;
        self.must_retire = true;
        self.failure = None;
        self.crash_count += 1;
        self.last_error = Some((Error::Exited { plugin: self.plugin.clone(), exit: exit.clone() }, now));
        self.tell(EventKind::Crashed { exit });
        self.end_trial();
        self.postponed = None;
        self.pause(since, now, chance);
    }

    pub(super) fn restart_failed(&mut self, error: Error, crashed: Instant, now: Instant, chance: f64) {
        self.last_error = Some((error.clone(), now));
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

    pub(super) fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
        self.actions.push_back(Action::Wake);
    }

    pub(super) fn work(&mut self, work: Work<S>) {
        debug_assert!(!self.is_working, "one work at a time");
        self.is_working = true;
        self.actions.push_back(Action::Work(work));
    }

    pub(super) fn work_is_answered(&mut self, generation: u64) {
        debug_assert!(self.is_working && generation == self.generation, "no work for {generation} is under way");
        self.is_working = false;
    }

    pub(super) fn answer(&mut self, caller: Caller, outcome: Result<u64>) {
        self.actions.push_back(Action::Answer { caller, outcome });
    }

    pub(super) fn has_stopped(&mut self, stop: Caller, outcome: Result<()>) {
        self.actions.push_back(Action::HasStopped { stop, outcome });
    }

    pub(super) fn tell(&mut self, event: EventKind) {
        self.actions.push_back(Action::Tell(event));
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(front) = self.updates.front_mut() {
            front.stage = stage;
        }
    }

    pub(super) fn end_trial(&mut self) {
        if let Some(front) = self.updates.front_mut()
            && front.stage == Stage::Trying
        {
            front.stage = Stage::BrokenOff;
            self.actions.push_back(Action::EndTrial);
        }
    }

    pub(super) fn adopt(&mut self) {
        let update = self.update_in_progress();
        self.actions.push_back(Action::Adopt { update });
    }

    /// Returns the update that has its turn.
    fn update_in_progress(&self) -> Caller {
        let front = self.updates.front();
        front.unwrap_or_else(|| unreachable!("an update keeps its turn until its answer")).number
    }

    /// Answers the update in progress.
    pub(super) fn update_ends(&mut self, outcome: Result<()>) {
        if let Some(front) = self.updates.front_mut() {
            front.stage = Stage::Done;
            self.actions.push_back(Action::Updated { update: front.number, outcome });
        }
    }

    /// Returns whether the callers wait for the first start, whose deadline is
    /// theirs.
    pub(super) fn is_first_start(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Starting(Why::First))
    }

    pub(super) fn broken(&self) -> Error {
        let (plugin, pause) = (self.plugin.clone(), self.policy.break_pause);
        Error::Broken { plugin, pause, exit: self.last_exit.clone(), source: self.reason() }
    }
}

impl Update {
    /// Returns whether the deadline of this stage is checked.
    pub(super) fn can_expire(&self) -> bool {
        matches!(self.stage, Stage::Queued | Stage::Tried)
    }
}

/// Returns the pause after this many consecutive shortages.
pub(crate) fn shortage_pause(policy: &RestartPolicy, shortages: u32) -> Duration {
    let pause = policy.first_pause.saturating_mul(1u32.checked_shl(shortages).unwrap_or(u32::MAX));
    pause.clamp(MIN_SHORTAGE_PAUSE, policy.max_pause.max(MIN_SHORTAGE_PAUSE))
}
