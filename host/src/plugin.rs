//! A plugin of a host: started when first needed, started again when it has
//! crashed, ended with the host.

mod restart;
mod trial;
mod update;

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::message::SymbolKind;
use ekuiper_transport_ipc::lock::{DeadlineLock, Held};

use crate::catalog::Package;
use crate::channel::Channel;
use crate::live::Live;
use crate::process::Exit;
use crate::running::Running;
use crate::site::{Site, lock};
use crate::startup::Canceller;
use crate::status::{Counters, EventKind, LiveSymbol, PluginState, Status};
use crate::{Error, Result};
use ekuiper_core::restart::Crashes;
use trial::Trial;

/// How long a shutdown waits for a start or an update that is under way to end
/// its own process: both are cancelled, and end within their graces.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// A plugin of a host, whether it runs or not.
pub(crate) struct Plugin {
    name: String,
    /// What the next process is started from.
    package: Mutex<Arc<Package>>,
    pub(crate) site: Arc<Site>,
    pub(crate) counters: Counters,
    state: Mutex<State>,
    changed: Condvar,
    canceller: Canceller,
    ending: DeadlineLock<()>,
    /// Held during an update: one comes after the other.
    updating: DeadlineLock<()>,
    /// Held while a process is started: none is while another is tried.
    launching: DeadlineLock<()>,
    trial: Mutex<Option<Arc<Trial>>>,
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
    /// A process of another version takes over.
    is_updating: bool,
    /// How many starts of a plugin that did not run have begun.
    first_starts: u64,
    /// The last of them that failed, and why: for those who waited for it.
    failed_start: Option<(u64, Error)>,
    generation: u64,
    restarts: u64,
    last_exit: Option<Exit>,
    /// It is away since this host is short of something.
    shortage: Option<Error>,
    crashes: Crashes,
}

enum Phase {
    Idle,
    Starting,
    /// Its symbols are being started again.
    Restoring(Arc<Running>),
    Running(Arc<Running>),
    /// It is replaced by a process of another version: the former one, until
    /// it has ended.
    Updating(Option<Arc<Running>>),
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
            is_updating: false,
            first_starts: 0,
            failed_start: None,
            generation: 0,
            restarts: 0,
            last_exit: None,
            shortage: None,
            crashes: Crashes::new(site.options.restart.clone()),
        };
        Arc::new(Self {
            name: package.name.clone(),
            package: Mutex::new(Arc::new(package)),
            site,
            counters: Counters::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            canceller: Canceller::default(),
            ending: DeadlineLock::default(),
            updating: DeadlineLock::default(),
            launching: DeadlineLock::default(),
            trial: Mutex::default(),
            live: Mutex::default(),
            functions: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn set(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        state.since = Instant::now();
        self.changed.notify_all();
    }

    /// The running process, started if there has been none: whoever comes
    /// while that is under way shares what becomes of it. While it is started
    /// again, waits at most until `deadline`.
    pub(crate) fn running(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Running>> {
        let mut state = lock(&self.state);
        let awaited = matches!(state.phase, Phase::Starting).then_some(state.first_starts);
        loop {
            if let Some((number, error)) = &state.failed_start
                && awaited.is_some_and(|awaited| *number >= awaited)
            {
                return Err(error.for_another_caller());
            }
            match &state.phase {
                Phase::Running(running) if running.process.exit().is_none() => return Ok(running.clone()),
                Phase::Stopped => return Err(Error::Stopped),
                Phase::Broken => return Err(self.broken(&state)),
                Phase::Idle => {
                    state.first_starts += 1;
                    self.set(&mut state, Phase::Starting);
                    return self.first_start(state);
                }
                Phase::Running(_) | Phase::Starting | Phase::Restoring(_) | Phase::Updating(_) | Phase::BackingOff => {}
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

    /// Whether the host is shut down, or is being.
    pub(crate) fn is_shut_down(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Stopped)
    }

    /// The error of whoever has waited for it in vain.
    pub(crate) fn away_error(&self) -> Error {
        self.away(&lock(&self.state))
    }

    fn away(&self, state: &State) -> Error {
        if state.is_updating {
            return Error::Updating { plugin: self.name().to_owned() };
        }
        if let Some(shortage) = &state.shortage {
            return shortage.for_another_caller();
        }
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
                state.failed_start = Some((state.first_starts, error.for_another_caller()));
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
        // Not beside one that is tried: both would dial the same address.
        let _alone = self.launch_alone()?;
        let package = lock(&self.package).clone();
        Running::start(&package, generation, &self.site, &self.canceller, on_exit)
    }

    /// Waits until no other process of it is started or tried.
    fn launch_alone(&self) -> Result<Held<'_, ()>> {
        let deadline = Instant::now() + self.site.options.init_timeout;
        self.launching.lock(deadline).ok_or_else(|| self.away_error())
    }

    fn serves(&self, state: &mut State, running: &Arc<Running>) {
        state.generation = running.generation;
        state.shortage = None;
        state.crashes.started(Instant::now());
        self.set(state, Phase::Running(running.clone()));
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
            // A restart may have it in its list, or have started it.
            symbol.give_up();
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
                Err(_) if running.is_left() && Instant::now() < give_up => {}
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
        let (running, channel) = loop {
            let running = self.running(deadline)?;
            match running.function(symbol) {
                Ok(channel) => break (running, channel),
                // The next process has it.
                Err(_) if running.is_left() => {}
                // As where a source or a sink is opened.
                Err(Error::Replaced { .. } | Error::Exited { .. }) if Instant::now() < deadline => {
                    running.process.wait(self.site.options.grace);
                }
                Err(error) => return Err(error),
            }
        };
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
            Phase::Running(running) | Phase::Restoring(running) | Phase::Updating(Some(running))
                if running.process.exit().is_none() =>
            {
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
                Phase::Updating(_) => PluginState::Updating,
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
        let _ending = self.ending.lock(Instant::now() + END_TIMEOUT);
        self.canceller.cancel();
        let mut state = lock(&self.state);
        let former = std::mem::replace(&mut state.phase, Phase::Stopped);
        self.changed.notify_all();
        drop(state);
        if let Phase::Running(running) | Phase::Restoring(running) | Phase::Updating(Some(running)) = former {
            running.shutdown();
        }
        self.wake();
        self.end_trial();
        // A start that was under way ends its own process.
        let mut state = lock(&self.state);
        let give_up = Instant::now() + END_TIMEOUT;
        while state.is_starting && Instant::now() < give_up {
            let left = give_up.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        // So does an update.
        drop(self.updating.lock(Instant::now() + END_TIMEOUT));
    }
}
