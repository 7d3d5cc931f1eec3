//! A plugin of a host: started when first needed, started again when it has
//! crashed, ended with the host.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::message::SymbolKind;

use crate::catalog::Package;
use crate::channel::Channel;
use crate::live::Live;
use crate::process::Exit;
use crate::running::Running;
use crate::site::{Site, lock};
use crate::startup::Canceller;
use crate::status::{Counters, EventKind, LiveSymbol, PluginState, Status};
use crate::{Error, Result};
use ekuiper_core::restart::{Crashes, Verdict};

/// A plugin of a host, whether it runs or not.
pub(crate) struct Plugin {
    package: Package,
    pub(crate) site: Arc<Site>,
    pub(crate) counters: Counters,
    state: Mutex<State>,
    changed: Condvar,
    canceller: Canceller,
    ending: Mutex<()>,
    /// Sources and sinks with a handle.
    live: Mutex<Vec<Arc<dyn Live>>>,
    /// Functions that have been used.
    functions: Mutex<BTreeSet<String>>,
}

struct State {
    phase: Phase,
    since: Instant,
    /// Somebody is starting a process: the shutdown waits for that.
    is_starting: bool,
    generation: u64,
    restarts: u64,
    last_exit: Option<Exit>,
    crashes: Crashes,
}

enum Phase {
    Idle,
    Starting,
    /// Its symbols are being started again.
    Restoring(Arc<Running>),
    Running(Arc<Running>),
    BackingOff,
    Broken,
    Stopped,
}

impl Plugin {
    pub(crate) fn new(package: Package, site: Arc<Site>) -> Arc<Self> {
        let state = State {
            phase: Phase::Idle,
            since: Instant::now(),
            is_starting: false,
            generation: 0,
            restarts: 0,
            last_exit: None,
            crashes: Crashes::new(site.options.restart.clone()),
        };
        Arc::new(Self {
            package,
            site,
            counters: Counters::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            canceller: Canceller::default(),
            ending: Mutex::default(),
            live: Mutex::default(),
            functions: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.package.name
    }

    fn set(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        state.since = Instant::now();
        self.changed.notify_all();
    }

    /// The running process, started if there has been none. While it is
    /// started again, waits at most until `deadline`.
    pub(crate) fn running(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Running>> {
        let mut state = lock(&self.state);
        loop {
            match &state.phase {
                Phase::Running(running) if running.process.exit().is_none() => return Ok(running.clone()),
                Phase::Stopped => return Err(Error::Stopped),
                Phase::Broken => return Err(self.broken(&state)),
                Phase::Idle => {
                    self.set(&mut state, Phase::Starting);
                    return self.first_start(state);
                }
                Phase::Running(_) | Phase::Starting | Phase::Restoring(_) | Phase::BackingOff => {}
            }
            // A first start has its own deadline.
            let first = state.generation == 0;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !first {
                return Err(self.away(&state));
            }
            state = if first {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Whether it makes sense to wait for it.
    pub(crate) fn check(&self) -> Result<()> {
        let state = lock(&self.state);
        match state.phase {
            Phase::Stopped => Err(Error::Stopped),
            Phase::Broken => Err(self.broken(&state)),
            _ => Ok(()),
        }
    }

    /// The error of whoever has waited for it in vain.
    pub(crate) fn away_error(&self) -> Error {
        self.away(&lock(&self.state))
    }

    fn away(&self, state: &State) -> Error {
        Error::Away { plugin: self.name().to_owned(), exit: state.last_exit.clone() }
    }

    fn broken(&self, state: &State) -> Error {
        Error::Broken {
            plugin: self.name().to_owned(),
            pause: self.site.options.restart.break_pause,
            exit: state.last_exit.clone(),
        }
    }

    fn first_start(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Result<Arc<Running>> {
        state.is_starting = true;
        drop(state);
        let started = self.start(1);
        let mut state = lock(&self.state);
        state.is_starting = false;
        match started {
            Ok(running) if !matches!(state.phase, Phase::Stopped) => {
                self.serves(&mut state, &running);
                drop(state);
                self.site.events.tell(self.name(), EventKind::Started { pid: running.process.pid() });
                self.process_ended(1);
                Ok(running)
            }
            Ok(running) => {
                self.changed.notify_all();
                drop(state);
                running.shutdown();
                Err(Error::Stopped)
            }
            Err(error) => {
                let phase = if matches!(state.phase, Phase::Stopped) { Phase::Stopped } else { Phase::Idle };
                self.set(&mut state, phase);
                Err(error)
            }
        }
    }

    fn start(self: &Arc<Self>, generation: u64) -> Result<Arc<Running>> {
        let plugin = Arc::downgrade(self);
        let on_exit = move || {
            if let Some(plugin) = plugin.upgrade() {
                plugin.process_ended(generation);
            }
        };
        Running::start(&self.package, generation, &self.site, &self.canceller, on_exit)
    }

    fn serves(&self, state: &mut State, running: &Arc<Running>) {
        state.generation = running.generation;
        state.crashes.started(Instant::now());
        self.set(state, Phase::Running(running.clone()));
    }

    /// The process of this generation has ended, if it has: starts the next.
    fn process_ended(self: &Arc<Self>, generation: u64) {
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
        let plugin = self.clone();
        let spawned = std::thread::Builder::new().name(format!("{}-restart", self.name())).spawn(move || {
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
        let functions: Vec<_> = lock(&self.functions).iter().cloned().collect();
        let mut symbols = functions.len();
        for symbol in functions {
            if let Err(error) = running.function(&symbol) {
                symbols -= 1;
                self.lost(SymbolKind::Function, symbol, &error);
            }
        }
        // Whoever takes rows is there before those who send them.
        let mut live = lock(&self.live).clone();
        live.sort_by_key(|symbol| symbol.control().plugin_type == SymbolKind::Source);
        for symbol in live {
            let control = symbol.control();
            match symbol.restore(running) {
                Ok(()) => symbols += 1,
                Err(error) => self.lost(control.plugin_type, control.symbol_name.clone(), &error),
            }
        }
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

    fn lost(&self, kind: SymbolKind, symbol: String, error: &Error) {
        let event = EventKind::SymbolLost { kind, symbol, error: error.to_string() };
        self.site.events.tell(self.name(), event);
    }

    fn wake(&self) {
        lock(&self.live).iter().for_each(|symbol| symbol.wake());
    }

    /// Starts a source or a sink, and again after every crash, until it is
    /// [detached](Self::detach).
    pub(crate) fn attach(self: &Arc<Self>, symbol: Arc<dyn Live>) -> Result<()> {
        // First, or a crash between the start and this would leave it out.
        lock(&self.live).push(symbol.clone());
        let opened = self.open(&*symbol);
        if opened.is_err() {
            self.detach(&*symbol);
        }
        opened
    }

    fn open(self: &Arc<Self>, symbol: &dyn Live) -> Result<()> {
        let give_up = Instant::now() + self.site.options.init_timeout;
        loop {
            let running = self.running(give_up)?;
            match symbol.restore(&running) {
                // Its process was replaced, or died: not the symbol's fault.
                Err(Error::Replaced { .. } | Error::Exited { .. }) if Instant::now() < give_up => {
                    running.process.wait(self.site.options.grace);
                }
                opened => return opened,
            }
        }
    }

    /// Its handle is closed: it is not started again.
    pub(crate) fn detach(&self, symbol: &dyn Live) {
        let gone: *const () = std::ptr::from_ref(symbol).cast();
        lock(&self.live).retain(|other| Arc::as_ptr(other).cast() != gone);
    }

    /// A function's channel, and the process that it belongs to.
    pub(crate) fn function(self: &Arc<Self>, symbol: &str, deadline: Instant) -> Result<(Arc<Running>, Arc<Channel>)> {
        let running = self.running(deadline)?;
        let channel = running.function(symbol)?;
        let mut functions = lock(&self.functions);
        if !functions.contains(symbol) {
            functions.insert(symbol.to_owned());
        }
        drop(functions);
        Ok((running, channel))
    }

    /// Forgets all crashes, and ends a pause.
    pub(crate) fn reset(&self) {
        let mut state = lock(&self.state);
        state.crashes.reset();
        if matches!(state.phase, Phase::BackingOff | Phase::Broken) {
            self.set(&mut state, Phase::Starting);
        }
    }

    /// The process id, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &lock(&self.state).phase {
            Phase::Running(running) | Phase::Restoring(running) if running.process.exit().is_none() => {
                Some(running.process.pid())
            }
            _ => None,
        }
    }

    pub(crate) fn status(&self) -> Status {
        let pid = self.pid();
        let function =
            |name: &String| LiveSymbol { kind: SymbolKind::Function, name: name.clone(), meta: Default::default() };
        let mut live: Vec<_> = lock(&self.functions).iter().map(function).collect();
        live.extend(lock(&self.live).iter().map(|symbol| {
            let control = symbol.control();
            LiveSymbol { kind: control.plugin_type, name: control.symbol_name.clone(), meta: control.meta.clone() }
        }));
        let state = lock(&self.state);
        Status {
            state: match state.phase {
                Phase::Idle => PluginState::Idle,
                Phase::Starting | Phase::Restoring(_) => PluginState::Starting,
                Phase::Running(_) => PluginState::Running,
                Phase::BackingOff => PluginState::BackingOff,
                Phase::Broken => PluginState::Broken,
                Phase::Stopped => PluginState::Stopped,
            },
            since: state.since.elapsed(),
            pid,
            generation: state.generation,
            restarts: state.restarts,
            last_exit: state.last_exit.clone(),
            live,
            traffic: self.counters.traffic(),
        }
    }

    /// Ends the process, or its start; it is not started again.
    pub(crate) fn shutdown(&self) {
        // Whoever comes second waits for the first.
        let _ending = lock(&self.ending);
        self.canceller.cancel();
        let mut state = lock(&self.state);
        let former = std::mem::replace(&mut state.phase, Phase::Stopped);
        self.changed.notify_all();
        drop(state);
        if let Phase::Running(running) | Phase::Restoring(running) = former {
            running.shutdown();
        }
        self.wake();
        // A start that was under way ends its own process.
        let mut state = lock(&self.state);
        while state.is_starting {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A number from 0 to 1, by chance.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without any, the pause is the whole one.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
