//! The trial of a plugin's new version, in a process of its own, beside the
//! one that runs.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::message::{CallKind, Outcome, SymbolKind, decode_reply, encode_call};
use serde::de::IgnoredAny;

use super::{Phase, Plugin};
use crate::catalog::Package;
use crate::running::Running;
use crate::site::lock;
use crate::startup::{self, Canceller};
use crate::{Error, Result};

/// A trial that is under way.
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
    fn cancel(&self) {
        self.canceller.cancel();
        let mut state = lock(&self.state);
        state.is_cancelled = true;
        let running = state.running.clone();
        drop(state);
        if let Some(running) = running {
            running.shutdown();
        }
    }

    /// Whether it goes on, with this process.
    fn goes_on(&self, running: &Arc<Running>) -> bool {
        let mut state = lock(&self.state);
        state.running = Some(running.clone());
        !state.is_cancelled
    }

    fn is_cancelled(&self) -> bool {
        lock(&self.state).is_cancelled
    }
}

impl Plugin {
    /// Sees whether a package works: whether its process shakes hands and
    /// starts the functions that are live. Nothing is left of it then.
    pub(super) fn try_out(&self, package: &Package) -> Result<()> {
        let _alone = self.launch_alone()?;
        let trial = Arc::new(Trial::default());
        *lock(&self.trial) = Some(trial.clone());
        let former = match &lock(&self.state).phase {
            Phase::Stopped => {
                lock(&self.trial).take();
                return Err(Error::Stopped);
            }
            Phase::Running(running) if running.process.exit().is_none() => Some(running.clone()),
            _ => None,
        };
        let outcome = self.run_trial(&trial, package, former.as_deref());
        lock(&self.trial).take();
        if outcome.is_err() && trial.is_cancelled() {
            let is_stopped = matches!(lock(&self.state).phase, Phase::Stopped);
            return Err(if is_stopped { Error::Stopped } else { Error::TrialEnded { plugin: self.name().to_owned() } });
        }
        outcome
    }

    fn run_trial(&self, trial: &Trial, package: &Package, former: Option<&Running>) -> Result<()> {
        let (site, _folder) = self.site.beside()?;
        // A plugin that knows only the common folder comes to the process that
        // runs, if that is there.
        let common = self.site.common_folder();
        let host = former.filter(|running| running.folder == common).map(|running| running.scope.kin());
        let common = host.is_none().then_some(common);
        let started = startup::start_beside(host, package, &site, common, &trial.canceller)?;
        let Some(started) = started else { return Ok(()) };
        let running = Running::new(self.name(), 0, &site, started);
        let outcome = if trial.goes_on(&running) { self.try_functions(&running) } else { Err(Error::Stopped) };
        running.end();
        outcome
    }

    fn try_functions(&self, running: &Running) -> Result<()> {
        let options = &self.site.options;
        for symbol in self.live_functions() {
            let what = || format!("{:?} of function {symbol}", CallKind::IsAggregate);
            let message = |source| Error::Message { what: what(), source };
            let channel = running.function(&symbol)?;
            let mut request = Vec::new();
            let format = running.format(SymbolKind::Function);
            encode_call(format, &mut request, CallKind::IsAggregate, &(), None).map_err(message)?;
            let now = Instant::now();
            let (send_by, answer_by) = (now + options.send_timeout, now + options.recv_timeout);
            let read = |reply: &[u8]| decode_reply::<IgnoredAny>(format, reply);
            let reply = channel.exchange(&request, send_by, answer_by, read);
            let reply = reply.map_err(|failure| running.explain(failure, what(), options.recv_timeout))?;
            if let Outcome::Err(text) = reply.map_err(message)? {
                return Err(Error::Function { symbol, text: crate::printable::lines(text.trim_end()).into_owned() });
            }
        }
        Ok(())
    }

    /// Breaks off a trial that is under way, and waits for its end.
    pub(super) fn end_trial(&self) {
        let trial = lock(&self.trial).clone();
        if let Some(trial) = trial {
            trial.cancel();
            drop(self.launch_alone());
        }
    }
}
