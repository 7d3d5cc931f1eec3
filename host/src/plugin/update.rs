//! The replacement of a plugin's running version by another: first the trial,
//! then the swap, and the way back.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use ekuiper_core::message::SymbolKind;
use ekuiper_transport_ipc::lock::Held;

use super::{Phase, Plugin, State};
use crate::catalog::Package;
use crate::running::Running;
use crate::site::lock;
use crate::{Error, Result};

impl Plugin {
    /// Waits for another update to be over; no other begins while this lives.
    pub(crate) fn begin_update(&self) -> Result<Held<'_, ()>> {
        let deadline = Instant::now() + self.site.options.init_timeout;
        let busy = || Error::Updating { plugin: self.name().to_owned() };
        self.updating.lock(deadline).ok_or_else(busy)
    }

    /// The version that the next process has.
    pub(crate) fn version(&self) -> String {
        lock(&self.package).manifest.version.clone()
    }

    /// Replaces its package, and its process if there is one; or leaves all as
    /// it is.
    pub(crate) fn update(self: &Arc<Self>, package: Package) -> Result<()> {
        self.lacks_nothing(&package)?;
        self.try_out(&package)?;
        self.swap(Arc::new(package))
    }

    /// Whether a package has all that is live.
    fn lacks_nothing(&self, package: &Package) -> Result<()> {
        let functions = self.live_functions().into_iter().map(|symbol| (SymbolKind::Function, symbol));
        let live = self.live_symbols();
        let others = live.iter().map(|symbol| {
            let control = symbol.control();
            (control.plugin_type, control.symbol_name.clone())
        });
        let mut lacking: Vec<String> = functions
            .chain(others)
            .filter(|(kind, symbol)| !package.manifest.symbols(*kind).contains(symbol))
            .map(|(kind, symbol)| format!("{kind} {symbol}"))
            .collect();
        // Several rules may use one.
        lacking.sort();
        lacking.dedup();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::MissingSymbols { plugin: self.name().to_owned(), symbols: lacking.join(", ") })
    }

    fn swap(self: &Arc<Self>, package: Arc<Package>) -> Result<()> {
        let mut state = self.settled()?;
        // Something may have been opened since the trial.
        self.lacks_nothing(&package)?;
        let running = match &state.phase {
            Phase::Running(running) => running.clone(),
            // There is no process to replace; after crashes the next is
            // started at once.
            phase => {
                let is_waiting = matches!(phase, Phase::BackingOff | Phase::Broken);
                *lock(&self.package) = package;
                state.crashes.reset();
                if is_waiting {
                    self.set(&mut state, Phase::Starting);
                }
                return Ok(());
            }
        };
        (state.is_starting, state.is_updating) = (true, true);
        self.set(&mut state, Phase::Updating(Some(running.clone())));
        drop(state);
        self.leave(&running);
        let former = std::mem::replace(&mut *lock(&self.package), package);
        let swapped = self.take_over();
        if swapped.is_err() {
            *lock(&self.package) = former;
            self.go_back();
        }
        let mut state = lock(&self.state);
        state.is_updating = false;
        if !matches!(state.phase, Phase::BackingOff) {
            state.is_starting = false;
        }
        self.changed.notify_all();
        if matches!(state.phase, Phase::Stopped) {
            return Err(Error::Stopped);
        }
        let generation = state.generation;
        let must_restart = matches!(state.phase, Phase::BackingOff);
        drop(state);
        self.wake();
        if must_restart {
            self.restart();
        } else {
            // It may have ended before it was said to run.
            self.process_ended(generation);
        }
        swapped
    }

    /// Waits until nobody else starts a process.
    fn settled(&self) -> Result<MutexGuard<'_, State>> {
        let deadline = Instant::now() + self.site.options.init_timeout;
        let mut state = lock(&self.state);
        loop {
            match &state.phase {
                Phase::Stopped => return Err(Error::Stopped),
                Phase::Idle | Phase::BackingOff | Phase::Broken => return Ok(state),
                Phase::Running(running) if running.process.exit().is_none() && !state.is_starting => return Ok(state),
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.away(&state));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends a process in order, after what is under way: whatever begins waits
    /// for the next.
    fn leave(&self, running: &Arc<Running>) {
        let deadline = Instant::now() + self.site.options.recv_timeout;
        running.leave(deadline);
        // Each takes its time, and none waits for another's.
        std::thread::scope(|scope| {
            for symbol in self.live_symbols() {
                scope.spawn(move || symbol.leave(running, deadline));
            }
        });
        running.end();
    }

    /// Starts the next process, with all that is live; on failure nothing is
    /// left of it.
    fn take_over(self: &Arc<Self>) -> Result<()> {
        let running = self.start_next()?;
        let restored = self.restore_all(&running).and_then(|()| self.serve(&running));
        if restored.is_err() {
            running.leave(Instant::now());
            running.end();
            let mut state = lock(&self.state);
            if !matches!(state.phase, Phase::Stopped) {
                self.set(&mut state, Phase::Updating(None));
            }
        }
        restored
    }

    /// Starts the former version again, as after a crash.
    fn go_back(self: &Arc<Self>) {
        let restored = self.start_next().and_then(|running| {
            self.restore_all_there_is(&running);
            self.serve(&running).inspect_err(|_| running.end())
        });
        let Err(error) = restored else { return };
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            return;
        }
        tracing::warn!(plugin = self.name(), %error, "the former version does not start either, it is tried again");
        self.set(&mut state, Phase::BackingOff);
    }

    fn start_next(self: &Arc<Self>) -> Result<Arc<Running>> {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            return Err(Error::Stopped);
        }
        if let Phase::Updating(Some(former)) = &state.phase {
            state.last_exit = former.process.exit();
        }
        state.generation += 1;
        let generation = state.generation;
        self.set(&mut state, Phase::Updating(None));
        drop(state);
        let running = self.start(generation)?;
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            drop(state);
            running.shutdown();
            return Err(Error::Stopped);
        }
        self.set(&mut state, Phase::Updating(Some(running.clone())));
        Ok(running)
    }

    /// Starts all that is live, or fails with the first that does not start.
    fn restore_all(&self, running: &Arc<Running>) -> Result<()> {
        self.live_functions().iter().try_for_each(|symbol| running.function(symbol).map(|_| ()))?;
        self.live_symbols().iter().try_for_each(|symbol| symbol.restore(running))
    }

    fn serve(&self, running: &Arc<Running>) -> Result<()> {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Stopped) {
            drop(state);
            running.shutdown();
            return Err(Error::Stopped);
        }
        if let Some(exit) = running.process.exit() {
            state.last_exit = Some(exit.clone());
            return Err(Error::Exited { plugin: self.name().to_owned(), exit });
        }
        self.serves(&mut state, running);
        Ok(())
    }
}
