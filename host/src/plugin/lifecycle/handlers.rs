//! What each input changes in a lifecycle.

use std::time::Instant;

use ekuiper_core::instant::later;

use super::transitions::shortage_pause;
use super::vocabulary::{Action, Caller, Work};
use super::{Lifecycle, Next, Phase, Postponed, Stage, Update, Why};
use crate::process::Exit;
use crate::status::{EventKind, PluginState};
use crate::{Error, Result};

/// Handlers, one per input.
impl<S: Clone + PartialEq> Lifecycle<S> {
    pub(super) fn wanted(&mut self, caller: Caller, deadline: Instant) {
        match (&self.phase, self.check()) {
            (_, Err(error)) => self.answer(caller, Err(error)),
            (Phase::Running, _) => self.answer(caller, Ok(self.generation)),
            // An idle plugin is started by `proceed`.
            _ => self.callers.push((caller, deadline)),
        }
    }

    pub(super) fn started(&mut self, generation: u64, pid: u32, now: Instant, chance: f64) {
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

    pub(super) fn start_failed(&mut self, generation: u64, error: Error, now: Instant, chance: f64) {
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
                self.last_error = Some((error, now));
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

    pub(super) fn exited(&mut self, generation: u64, exit: Exit, now: Instant, chance: f64) {
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

    pub(super) fn restored(&mut self, generation: u64, count: usize, postponed: Vec<S>, now: Instant, chance: f64) {
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
            let retry_at = later(now, shortage_pause(&self.policy, retries));
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

    pub(super) fn restore_failed(&mut self, generation: u64, error: Error, now: Instant) {
        self.work_is_answered(generation);
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Stopped => {}
            Phase::Restoring(Why::TakeOver) => self.drain(Next::GoBack(error), now),
            phase => self.phase = unexpected(phase, "only a strict restoration fails"),
        }
    }

    pub(super) fn drained(&mut self, generation: u64, now: Instant) {
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

    pub(super) fn update_wanted(&mut self, update: Caller, deadline: Instant) {
        if let Phase::Stopped | Phase::Draining(Next::Nothing) = self.phase {
            self.actions.push_back(Action::Turn { update, outcome: Err(Error::Stopped) });
            return;
        }
        self.updates.push_back(Update { number: update, stage: Stage::Queued, deadline });
    }

    pub(super) fn update_begun(&mut self, update: Caller) {
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

    pub(super) fn tried(&mut self, update: Caller, outcome: Result<()>, now: Instant) {
        self.is_working = false;
        let deadline = later(now, self.patience);
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

    pub(super) fn given_up(&mut self) {
        match self.phase {
            // Nothing is given up of a plugin that has served before.
            Phase::Starting(Why::First | Why::TakeOver) => self.actions.push_back(Action::EndStart),
            _ => self.end_trial(),
        }
    }

    pub(super) fn stop_wanted(&mut self, stop: Caller) {
        match self.phase {
            Phase::Stopped | Phase::Draining(Next::Nothing) => self.has_stopped(stop, Err(Error::Stopped)),
            _ => self.stops.push(stop),
        }
    }

    pub(super) fn reset(&mut self, now: Instant) {
        self.crashes.reset();
        self.shortages = 0;
        if let Phase::Pausing { crashed, .. } = self.phase {
            self.enter(Phase::Pausing { until: now, is_broken: false, crashed }, now);
        }
    }

    pub(super) fn removed(&mut self, now: Instant) {
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

    pub(super) fn shut_down(&mut self, now: Instant) {
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

/// Reports an input that cannot come in this phase.
fn unexpected(phase: Phase, what: &str) -> Phase {
    debug_assert!(false, "{what}: {phase:?}");
    phase
}
