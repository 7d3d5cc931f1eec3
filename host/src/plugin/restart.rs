//! The restart of a plugin that has crashed, with all that is live.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::message::SymbolKind;
use ekuiper_core::restart::Verdict;

use super::{Phase, Plugin};
use crate::Error;
use crate::live::Live;
use crate::running::Running;
use crate::site::lock;
use crate::status::EventKind;

impl Plugin {
    /// The process of this generation has ended, if it has: starts the next.
    pub(super) fn process_ended(self: &Arc<Self>, generation: u64) {
        let mut state = lock(&self.state);
        let running = match &state.phase {
            Phase::Running(running) if running.generation == generation => running.clone(),
            _ => return,
        };
        let Some(exit) = running.process.exit() else { return };
        state.last_exit = Some(exit.clone());
        state.is_starting = true;
        self.set(&mut state, Phase::BackingOff);
        drop(state);
        running.retire();
        self.site.events.tell(self.name(), EventKind::Crashed { exit });
        self.restart();
    }

    /// Starts it again in another thread. Its phase is [`Phase::BackingOff`],
    /// and it is said to be starting.
    pub(super) fn restart(self: &Arc<Self>) {
        let plugin = self.clone();
        let spawned = std::thread::Builder::new().name(format!("{}-restart", self.name())).spawn(move || {
            // A restart does not wait for another version's trial.
            plugin.end_trial();
            plugin.start_again(Instant::now());
            let mut state = lock(&plugin.state);
            state.is_starting = false;
            plugin.changed.notify_all();
            let generation = state.generation;
            drop(state);
            // It may have ended before it was said to run.
            plugin.process_ended(generation);
        });
        if let Err(error) = spawned {
            tracing::error!(plugin = self.name(), %error, "cannot start a thread: the plugin is started when needed");
            let mut state = lock(&self.state);
            state.is_starting = false;
            self.set(&mut state, Phase::Idle);
        }
    }

    /// Starts it until it serves, or the host is shut down.
    fn start_again(self: &Arc<Self>, crashed: Instant) {
        loop {
            let mut state = lock(&self.state);
            let (phase, pause, event) = match state.crashes.crashed(Instant::now(), chance()) {
                Verdict::After(pause) => (Phase::BackingOff, pause, EventKind::BackingOff { pause }),
                Verdict::Broken(pause) => (Phase::Broken, pause, EventKind::Broken { pause }),
            };
            if matches!(state.phase, Phase::Stopped) {
                return;
            }
            self.set(&mut state, phase);
            drop(state);
            self.site.events.tell(self.name(), event);
            self.wake();
            let Some(generation) = self.pause(pause) else { return };
            match self.start(generation) {
                Err(Error::Stopped) => return,
                Err(error) => {
                    if let Error::EarlyExit { exit, .. } = &error {
                        lock(&self.state).last_exit = Some(exit.clone());
                    }
                    self.site.events.tell(self.name(), EventKind::RestartFailed { error: error.to_string() });
                }
                Ok(running) => {
                    if self.restore(&running, crashed) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits; the number of the next process, unless the host is shut down.
    fn pause(&self, pause: Duration) -> Option<u64> {
        let until = Instant::now() + pause;
        let mut state = lock(&self.state);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match state.phase {
                Phase::Stopped => return None,
                // Told to go on at once, or done.
                Phase::BackingOff | Phase::Broken if !left.is_zero() => {
                    state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => {
                    self.set(&mut state, Phase::Starting);
                    state.generation += 1;
                    return Some(state.generation);
                }
            }
        }
    }

    /// Starts again what is live, and says that the plugin serves; false when
    /// the process has ended meanwhile.
    fn restore(self: &Arc<Self>, running: &Arc<Running>, crashed: Instant) -> bool {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            drop(state);
            running.shutdown();
            return true;
        }
        self.set(&mut state, Phase::Restoring(running.clone()));
        drop(state);
        let symbols = self.restore_symbols(running);
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            drop(state);
            running.shutdown();
            return true;
        }
        if let Some(exit) = running.process.exit() {
            state.last_exit = Some(exit.clone());
            drop(state);
            running.retire();
            self.site.events.tell(self.name(), EventKind::Crashed { exit });
            return false;
        }
        state.restarts += 1;
        self.serves(&mut state, running);
        drop(state);
        self.wake();
        let (pid, away) = (running.process.pid(), crashed.elapsed());
        self.site.events.tell(self.name(), EventKind::Restored { pid, away, symbols });
        true
    }

    /// Starts again what is live; how much that is. What does not start is
    /// lost, unless it is the process that has ended: then the next one has
    /// all that is live.
    pub(super) fn restore_symbols(&self, running: &Arc<Running>) -> usize {
        let mut symbols = 0;
        for symbol in self.live_functions() {
            match running.function(&symbol) {
                Ok(_) => symbols += 1,
                Err(error) if running.has_ended_with(&error) => return symbols,
                Err(error) => self.lost(SymbolKind::Function, symbol, &error),
            }
        }
        for symbol in self.live_symbols() {
            let control = symbol.control();
            match symbol.restore(running) {
                Ok(()) => symbols += 1,
                Err(error) if running.has_ended_with(&error) => return symbols,
                Err(error) => {
                    symbol.is_lost(&error);
                    self.lost(control.plugin_type, control.symbol_name.clone(), &error);
                }
            }
        }
        symbols
    }

    pub(super) fn live_functions(&self) -> Vec<String> {
        lock(&self.functions).iter().cloned().collect()
    }

    /// Sources and sinks with a handle, in the order of their start: whoever
    /// takes rows is there before those who send them.
    pub(super) fn live_symbols(&self) -> Vec<Arc<dyn Live>> {
        let mut live = lock(&self.live).clone();
        live.sort_by_key(|symbol| symbol.control().plugin_type == SymbolKind::Source);
        live
    }

    fn lost(&self, kind: SymbolKind, symbol: String, error: &Error) {
        let event = EventKind::SymbolLost { kind, symbol, error: error.to_string() };
        self.site.events.tell(self.name(), event);
    }
}

/// A number from 0 to 1, by chance.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without any, the pause is the whole one.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
