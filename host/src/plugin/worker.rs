//! Executor of a plugin's [lifecycle](super::lifecycle): one thread at a time,
//! while there is work or a pause.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_transport_ipc::random::jitter;
use ekuiper_transport_ipc::wait::deadline_after;

use super::lifecycle::{Action, Input, Version, Work};
use super::restore::Symbol;
use super::running::Running;
use super::trial::Trial;
use super::{Inner, Origin, Plugin};
use crate::Error;
use crate::status::EventKind;
use crate::sync::{lock, wait};

/// What remains to be done after the lock is released.
#[derive(Default)]
struct Aftermath {
    kill: Option<Arc<Running>>,
    trial: Option<Arc<Trial>>,
    is_changed: bool,
    worker_needed: bool,
}

impl Plugin {
    /// Passes an input to the lifecycle, and carries out the resulting actions,
    /// except the work, which a thread does.
    pub(super) fn handle(self: &Arc<Self>, input: Input<Symbol>) {
        self.handle_locked(lock(&self.inner), input);
    }

    /// Passes an input to the lifecycle as [`Plugin::handle`] does, with the lock
    /// held, and releases it.
    pub(super) fn handle_locked(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, input: Input<Symbol>) {
        inner.lifecycle.handle(input, Instant::now(), jitter());
        let mut aftermath = Aftermath::default();
        while let Some(action) = inner.lifecycle.poll_action() {
            self.take(&mut inner, action, &mut aftermath);
        }
        let has_timeout = inner.lifecycle.poll_timeout().is_some();
        if !inner.has_worker && (has_timeout || !inner.work.is_empty()) {
            (inner.has_worker, aftermath.worker_needed) = (true, true);
        }
        inner.kills += usize::from(aftermath.kill.is_some());
        drop(inner);
        self.changed.notify_all();
        self.conclude(aftermath);
    }

    /// Carries out an action that takes no time, under the lock.
    fn take(&self, inner: &mut Inner, action: Action<Symbol>, aftermath: &mut Aftermath) {
        match action {
            Action::Work(work) => {
                if let Work::Try { .. } = work {
                    inner.trial = Some(Arc::default());
                }
                inner.work.push_back(work);
            }
            Action::Kill { generation } => {
                self.canceller.cancel();
                let running = inner.running.as_ref().filter(|running| running.generation == generation);
                aftermath.kill = running.cloned();
            }
            Action::EndStart => self.canceller.end_current(),
            Action::EndTrial => aftermath.trial = inner.trial.clone(),
            Action::Answer { caller, outcome } => {
                let serving =
                    |_| inner.running.clone().unwrap_or_else(|| unreachable!("a process serves once it runs"));
                inner.answers.insert(caller, outcome.map(serving));
            }
            Action::HasStopped { stop, outcome } => {
                inner.stops.insert(stop, outcome);
            }
            Action::Turn { update, outcome } | Action::Updated { update, outcome } => {
                inner.updates.insert(update, outcome);
            }
            Action::Adopt { update } => {
                let candidate = inner.candidate.take_if(|(number, _)| *number == update);
                let candidate = candidate.unwrap_or_else(|| unreachable!("an update keeps its turn until its answer"));
                inner.package = candidate.1;
            }
            Action::Tell(event) => inner.events.push_back(event),
            Action::Wake => aftermath.is_changed = true,
        }
    }

    fn conclude(self: &Arc<Self>, aftermath: Aftermath) {
        self.tell_events();
        if let Some(trial) = aftermath.trial {
            trial.cancel();
        }
        if aftermath.is_changed {
            self.wake_symbols();
        }
        if aftermath.worker_needed {
            self.start_worker();
        }
        if let Some(running) = aftermath.kill {
            running.shutdown();
            lock(&self.inner).kills -= 1;
            self.changed.notify_all();
        }
    }

    /// Sends events to subscribers, in order and without the lock: they may
    /// call the host.
    fn tell_events(&self) {
        let mut inner = lock(&self.inner);
        while !inner.is_telling
            && let Some(event) = inner.events.pop_front()
        {
            inner.is_telling = true;
            drop(inner);
            self.site.events.tell(self.name(), event);
            inner = lock(&self.inner);
            inner.is_telling = false;
        }
    }

    fn wake_symbols(&self) {
        self.site.wake_claims();
        let symbols = lock(&self.inner).lifecycle.symbols().to_vec();
        for symbol in symbols {
            if let Symbol::Handle(handle) = symbol {
                handle.wake();
            }
        }
    }

    fn start_worker(self: &Arc<Self>) {
        let plugin = self.clone();
        let name = format!("{}-life", self.name());
        if let Err(error) = std::thread::Builder::new().name(name).spawn(move || plugin.work()) {
            // No other thread would do it.
            tracing::error!(plugin = self.name(), error = %Chain(&error), "cannot start a thread, so this one does its work");
            self.work();
        }
    }

    /// Does the work there is, until none is left.
    fn work(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(work) = inner.work.pop_front() {
                drop(inner);
                let answer = self.carry_out(work);
                self.handle(answer);
                inner = lock(&self.inner);
                continue;
            }
            let Some(timeout) = inner.lifecycle.poll_timeout() else {
                inner.has_worker = false;
                return;
            };
            let left = timeout.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.handle_locked(inner, Input::TimePassed);
                inner = lock(&self.inner);
            } else {
                inner = wait(&self.changed, inner, Some(left));
            }
        }
    }

    /// Carries out one work; returns its answer.
    fn carry_out(self: &Arc<Self>, work: Work<Symbol>) -> Input<Symbol> {
        match work {
            Work::Spawn { generation, version } => self.spawn(generation, version),
            Work::Restore { generation, symbols, is_strict } => {
                let running = self.process(generation);
                let restored = self.restore(&running, symbols, is_strict);
                // The end of the process is reported before its consequences.
                self.report_exit(&running);
                match restored {
                    Ok(restored) => {
                        Input::Restored { generation, symbols: restored.count, postponed: restored.postponed }
                    }
                    Err(error) => Input::RestoreFailed { generation, error },
                }
            }
            Work::Drain { generation, is_orderly } => {
                let running = self.process(generation);
                self.drain(&running, is_orderly);
                self.report_exit(&running);
                Input::Drained { generation }
            }
            Work::Stop { generation, is_alive, symbols } => {
                if is_alive {
                    let running = self.process(generation);
                    self.drain(&running, true);
                    self.report_exit(&running);
                }
                for symbol in symbols {
                    if let Symbol::Handle(handle) = symbol {
                        handle.end_with_plugin();
                    }
                }
                let ended = lock(&self.inner).running.take();
                drop(ended);
                Input::Drained { generation }
            }
            Work::Try { update } => Input::Tried { update, outcome: self.try_out(update) },
            Work::Retire { generation } => {
                self.process(generation).retire();
                Input::Retired { generation }
            }
        }
    }

    fn spawn(self: &Arc<Self>, generation: u64, version: Version) -> Input<Symbol> {
        let inner = lock(&self.inner);
        let package = match version {
            Version::Update(update) => inner.package_of(update),
            Version::Current => Some(inner.package.clone()),
        };
        drop(inner);
        // The plugin was stopped meanwhile, and the update has given up.
        let Some(package) = package else { return Input::StartFailed { generation, error: Error::Stopped } };
        let plugin = Arc::downgrade(self);
        let on_exit = move |exit: &_| {
            if let Some(plugin) = plugin.upgrade() {
                plugin.handle(Input::Exited { generation, exit: Clone::clone(exit) });
            }
        };
        let started = match self.origin {
            Origin::Started => Running::start(&package, generation, &self.site, &self.canceller, on_exit),
            Origin::Attached => {
                let on_listen = |address: &Address| {
                    lock(&self.inner).events.push_back(EventKind::Awaited { address: address.to_string() });
                    self.tell_events();
                };
                Running::attach(&package, generation, &self.site, &self.canceller, on_listen, on_exit)
            }
        };
        match started {
            Ok(running) => {
                let pid = running.process.pid();
                lock(&self.inner).running = Some(running);
                Input::Started { generation, pid }
            }
            Err(error) => Input::StartFailed { generation, error },
        }
    }

    /// Returns the process of a work that follows its start.
    fn process(&self, generation: u64) -> Arc<Running> {
        let running = lock(&self.inner).running.clone().filter(|running| running.generation == generation);
        running.unwrap_or_else(|| unreachable!("only a process that was started is restored, drained or retired"))
    }

    /// Reports the end of a process to the lifecycle, if it has ended, without
    /// waiting for the thread that also reports it.
    fn report_exit(self: &Arc<Self>, running: &Running) {
        if let Some(exit) = running.process.exit() {
            self.handle(Input::Exited { generation: running.generation, exit });
        }
    }

    /// Ends a process. A graceful end waits for the work in flight; new work
    /// waits for the next process.
    fn drain(&self, running: &Arc<Running>, is_orderly: bool) {
        let patience = if is_orderly { self.site.options.recv_timeout } else { Duration::ZERO };
        let deadline = deadline_after(patience);
        running.leave(deadline);
        if is_orderly {
            // In parallel: each takes its time.
            std::thread::scope(|scope| {
                for handle in self.handles() {
                    scope.spawn(move || handle.leave(running, deadline));
                }
            });
        }
        running.end();
    }
}
