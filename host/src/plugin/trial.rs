//! The trial of a plugin's new version, in a separate process beside the
//! running one.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::instant::later;
use ekuiper_core::message::{CallKind, Outcome, SymbolKind, decode_reply, encode_call};
use serde::de::IgnoredAny;

use super::Plugin;
use super::lifecycle::Caller;
use super::restore::Symbol;
use super::running::Running;
use super::startup::{self, Canceller};
use crate::catalog::Package;
use crate::sync::lock;
use crate::{Error, Result, Subject};

/// A trial in progress.
#[derive(Default)]
pub(super) struct Trial {
    canceller: Canceller,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_cancelled: bool,
    running: Option<Arc<Running>>,
}

impl Trial {
    pub(super) fn cancel(&self) {
        self.canceller.cancel();
        let mut state = lock(&self.state);
        state.is_cancelled = true;
        let running = state.running.clone();
        drop(state);
        if let Some(running) = running {
            running.shutdown();
        }
    }

    /// Records the process of the trial; returns false if the trial was
    /// cancelled.
    fn goes_on(&self, running: &Arc<Running>) -> bool {
        let mut state = lock(&self.state);
        state.running = Some(running.clone());
        !state.is_cancelled
    }
}

impl Plugin {
    /// Returns the functions that have been used and that the package has.
    fn functions(&self, package: &Package) -> Vec<String> {
        let inner = lock(&self.inner);
        let symbols = inner.lifecycle.symbols().iter();
        let used = symbols.filter(|symbol| symbol.kind() == SymbolKind::Function).map(Symbol::name);
        let served = package.manifest.symbols(SymbolKind::Function);
        used.filter(|name| served.iter().any(|served| served == name)).map(str::to_owned).collect()
    }

    /// Tests the package of an update: its process must complete the handshake
    /// and start the functions that have been used. Afterwards the process is gone.
    pub(super) fn try_out(self: &Arc<Self>, update: Caller) -> Result<()> {
        let inner = lock(&self.inner);
        let (Some(trial), Some(package)) = (inner.trial.clone(), inner.package_of(update)) else {
            // The plugin was stopped.
            return Err(Error::Stopped);
        };
        let serving = inner.lifecycle.serving().and(inner.running.clone());
        drop(inner);
        let former = serving.filter(|running| running.process.exit().is_none());
        let outcome = self.run_trial(&trial, &package, former.as_deref());
        lock(&self.inner).trial = None;
        // More symbols may have been opened meanwhile.
        outcome.and_then(|()| self.check_symbols(&package))
    }

    fn run_trial(&self, trial: &Trial, package: &Package, former: Option<&Running>) -> Result<()> {
        let (site, _folder) = self.site.beside()?;
        // A plugin that supports only the common folder connects to the running
        // process, if that listens there.
        let common = self.site.common_folder();
        let host = former.filter(|running| running.folder == common).map(|running| running.scope.kin());
        let common = host.is_none().then_some(common);
        let started = startup::start_beside(host, package, &site, common, &trial.canceller)?;
        let Some(started) = started else { return Ok(()) };
        let running = Running::new(self.name(), 0, &site, started)?;
        let outcome = match trial.goes_on(&running) {
            true => self.try_functions(package, &running),
            false => Err(Error::TrialEnded { plugin: self.name().to_owned() }),
        };
        running.end();
        outcome
    }

    fn try_functions(&self, package: &Package, running: &Running) -> Result<()> {
        let options = &self.site.options;
        for symbol in self.functions(package) {
            let words = || format!("the {} of function {symbol}", CallKind::IsAggregate);
            let what = || Subject::from(words()).about(self.name(), Some(&symbol));
            let message = |source: ekuiper_core::Error| Error::Message { what: what(), source: source.into() };
            let channel = running.function(&symbol)?;
            let mut request = Vec::new();
            let format = running.format(SymbolKind::Function);
            encode_call(format, &mut request, CallKind::IsAggregate, &(), None).map_err(message)?;
            let now = Instant::now();
            let (send_by, answer_by) = (later(now, options.send_timeout), later(now, options.recv_timeout));
            let read = |reply: &[u8]| decode_reply::<IgnoredAny>(format, reply);
            let reply = channel.exchange(&request, send_by, answer_by, read);
            let reply = reply.map_err(|failure| running.explain(failure, what(), options.recv_timeout))?;
            if let Outcome::Err(text) = reply.map_err(message)? {
                return Err(Error::Function {
                    plugin: self.name().to_owned(),
                    symbol,
                    text: text.trim_end().to_owned(),
                });
            }
        }
        Ok(())
    }
}
