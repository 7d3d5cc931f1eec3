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

/// The shortest pause after a shortage of this host's.
const MIN_SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// What has become of sources and sinks that were to be started again.
struct Restored {
    /// How many were.
    symbols: usize,
    /// Those that this host is short of something for.
    left_out: Vec<Arc<dyn Live>>,
}

/// A process that serves, and what is still to be started in it.
type Incomplete = (Arc<Running>, Vec<Arc<dyn Live>>);

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
        let spawned =
            std::thread::Builder::new().name(format!("{}-restart", self.name())).spawn(move || plugin.restart_here());
        if let Err(error) = spawned {
            // Nobody else would do it.
            tracing::error!(plugin = self.name(), %error, "cannot start a thread: the plugin is restarted without");
            self.restart_here();
        }
    }

    fn restart_here(self: &Arc<Self>) {
        // A restart does not wait for another version's trial.
        self.end_trial();
        let left_out = self.start_again(Instant::now());
        let mut state = lock(&self.state);
        state.is_starting = false;
        self.changed.notify_all();
        let generation = state.generation;
        drop(state);
        if let Some((running, symbols)) = left_out {
            self.restore_rest(&running, symbols);
        }
        // It may have ended before it was said to run.
        self.process_ended(generation);
    }

    /// Starts the symbols again that this host was short of something for,
    /// until they all are or the process has ended.
    fn restore_rest(&self, running: &Arc<Running>, mut symbols: Vec<Arc<dyn Live>>) {
        let mut attempts = 0;
        while !symbols.is_empty() && !running.is_left() {
            let pause = self.shortage_pause(attempts);
            attempts += 1;
            if running.process.wait(pause).is_some() {
                return;
            }
            symbols = self.restore_symbols(running, symbols).left_out;
        }
    }

    /// How long to wait before the next attempt after a shortage, of which
    /// there were so many.
    fn shortage_pause(&self, attempts: u32) -> Duration {
        let policy = &self.site.options.restart;
        let pause = policy.first_pause.saturating_mul(1u32.checked_shl(attempts).unwrap_or(u32::MAX));
        pause.clamp(MIN_SHORTAGE_PAUSE, policy.max_pause.max(MIN_SHORTAGE_PAUSE))
    }

    /// Starts it until it serves, or the host is shut down. What could not be
    /// started in it, since this host is short of something.
    fn start_again(self: &Arc<Self>, crashed: Instant) -> Option<Incomplete> {
        let mut shortages = 0;
        loop {
            let mut state = lock(&self.state);
            let shortage = state.shortage.as_ref().map(ToString::to_string);
            let (phase, pause, event) = match shortage {
                Some(error) => {
                    let pause = self.shortage_pause(shortages);
                    shortages += 1;
                    (Phase::BackingOff, pause, EventKind::Shortage { error, pause })
                }
                None => {
                    shortages = 0;
                    match state.crashes.crashed(Instant::now(), chance()) {
                        Verdict::After(pause) => (Phase::BackingOff, pause, EventKind::BackingOff { pause }),
                        Verdict::Broken(pause) => (Phase::Broken, pause, EventKind::Broken { pause }),
                    }
                }
            };
            if matches!(state.phase, Phase::Stopped) {
                return None;
            }
            self.set(&mut state, phase);
            drop(state);
            self.site.events.tell(self.name(), event);
            self.wake();
            let generation = self.pause(pause)?;
            let started = self.start(generation);
            let mut state = lock(&self.state);
            state.shortage = started.as_ref().err().filter(|error| error.is_shortage()).map(Error::for_another_caller);
            if let Err(Error::EarlyExit { exit, .. }) = &started {
                state.last_exit = Some(exit.clone());
            }
            drop(state);
            match started {
                Err(Error::Stopped) => return None,
                // It is told with the pause.
                Err(error) if error.is_shortage() => {}
                Err(error) => {
                    self.site.events.tell(self.name(), EventKind::RestartFailed { error: error.to_string() });
                }
                Ok(running) => {
                    if let Some(left_out) = self.restore(&running, crashed) {
                        return Some((running, left_out));
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

    /// Starts again what is live, and says that the plugin serves; `None` when
    /// the process has ended meanwhile. What this host is short of something
    /// for is still to be started then.
    fn restore(self: &Arc<Self>, running: &Arc<Running>, crashed: Instant) -> Option<Vec<Arc<dyn Live>>> {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            drop(state);
            running.shutdown();
            return Some(Vec::new());
        }
        self.set(&mut state, Phase::Restoring(running.clone()));
        drop(state);
        let functions = self.restore_functions(running);
        let Restored { symbols, left_out } = self.restore_symbols(running, self.live_symbols());
        let symbols = functions + symbols;
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            drop(state);
            running.shutdown();
            return Some(Vec::new());
        }
        if let Some(exit) = running.process.exit() {
            state.last_exit = Some(exit.clone());
            drop(state);
            running.retire();
            self.site.events.tell(self.name(), EventKind::Crashed { exit });
            return None;
        }
        state.restarts += 1;
        self.serves(&mut state, running);
        drop(state);
        self.wake();
        let (pid, away) = (running.process.pid(), crashed.elapsed());
        self.site.events.tell(self.name(), EventKind::Restored { pid, away, symbols });
        Some(left_out)
    }

    /// Starts again what is live, as [`Plugin::update`] does when it goes back.
    pub(super) fn restore_all_there_is(self: &Arc<Self>, running: &Arc<Running>) {
        self.restore_functions(running);
        let left_out = self.restore_symbols(running, self.live_symbols()).left_out;
        if left_out.is_empty() {
            return;
        }
        let (plugin, running) = (self.clone(), running.clone());
        let rest = move || plugin.restore_rest(&running, left_out);
        if let Err(error) = std::thread::Builder::new().name(format!("{}-rest", self.name())).spawn(rest) {
            tracing::error!(plugin = self.name(), %error, "cannot start a thread: some symbols are not started again");
        }
    }

    /// Starts functions again; how many. What does not start is lost, unless it
    /// is the process that has ended: then the next one has all that is live.
    /// One that this host is short of something for is started when it is
    /// called.
    fn restore_functions(&self, running: &Arc<Running>) -> usize {
        let mut restored = 0;
        for symbol in self.live_functions() {
            match running.function(&symbol) {
                Ok(_) => restored += 1,
                Err(error) if error.is_shortage() => self.tell_shortage(&error, Duration::ZERO),
                Err(error) if running.has_ended_with(&error) => return restored,
                Err(error) => self.lost(SymbolKind::Function, symbol, &error),
            }
        }
        restored
    }

    /// The same for sources and sinks.
    fn restore_symbols(&self, running: &Arc<Running>, live: Vec<Arc<dyn Live>>) -> Restored {
        let mut restored = Restored { symbols: 0, left_out: Vec::new() };
        for symbol in live {
            let control = symbol.control();
            match symbol.restore(running) {
                Ok(()) => restored.symbols += 1,
                Err(error) if error.is_shortage() => {
                    self.is_short(&error, 0);
                    restored.left_out.push(symbol);
                }
                Err(error) if running.has_ended_with(&error) => return restored,
                Err(error) => {
                    symbol.is_lost(&error);
                    self.lost(control.plugin_type, control.symbol_name.clone(), &error);
                }
            }
        }
        restored
    }

    /// Tells that a symbol could not be started for want of something; how
    /// long to wait after so many attempts.
    pub(crate) fn is_short(&self, error: &Error, attempts: u32) -> Duration {
        let pause = self.shortage_pause(attempts);
        self.tell_shortage(error, pause);
        pause
    }

    fn tell_shortage(&self, error: &Error, pause: Duration) {
        self.site.events.tell(self.name(), EventKind::Shortage { error: error.to_string(), pause });
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
        let event = EventKind::SymbolLost { kind, symbol, error: error.reason() };
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
