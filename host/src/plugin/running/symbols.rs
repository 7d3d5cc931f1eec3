//! The sources and sinks of a process: starting and stopping them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::message::{CommandKind, Control, SymbolKind};
use ekuiper_transport_ipc::wait::deadline_after;

use super::Running;
use crate::sync::lock;
use crate::{Error, ErrorDelivery, Result, Subject};

/// Time for a symbol to end after the plugin has answered its stop, before the
/// stop is repeated; doubles up to [`MAX_STOP_PAUSE`].
const FIRST_STOP_PAUSE: Duration = Duration::from_millis(20);
const MAX_STOP_PAUSE: Duration = Duration::from_millis(200);

/// Interval of the check whether all stops are over.
const STOPPING_LOOK: Duration = Duration::from_millis(5);

/// Outcome of stopping a source or a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The plugin has answered the stop.
    Answered,
    /// The symbol ends with its process.
    WithProcess,
    /// The plugin has answered the stop, and the symbol still runs.
    StillRuns,
}

impl Running {
    /// Starts a source or a sink; [`Running::stop_symbol`] must follow. If the
    /// start fails but the symbol may run nevertheless, it is stopped as soon
    /// as the plugin accepts commands, and before it is started again.
    pub(crate) fn start_symbol(&self, control: &Control) -> Result<()> {
        self.stop_strays()?;
        let started = self.command(CommandKind::Start, control, self.site.options.init_timeout);
        started.map_err(Error::or_shortage)?;
        if control.plugin_type != SymbolKind::Function {
            lock(&self.live).push(control.clone());
        }
        Ok(())
    }

    /// Stops a source or a sink, and repeats the stop until it takes effect:
    /// the official Python SDK answers `ok` to a stop during a start, and
    /// ignores it (fault 13). `has_stopped` waits for the symbol's end, at most
    /// for the given time. A symbol that still runs keeps its addresses: it
    /// would write to whatever listens there.
    pub(crate) fn stop_symbol(
        &self,
        control: &Control,
        mut has_stopped: impl FnMut(Duration) -> bool,
    ) -> Result<Stopped> {
        let stopping = self.begin_stop();
        let mut live = lock(&self.live);
        let before = live.len();
        live.retain(|other| other != control);
        let is_ended = self.is_left() || self.has_told_all.load(Ordering::SeqCst);
        let is_told_by_others = live.len() == before && is_ended;
        drop(live);
        if is_told_by_others {
            drop(stopping);
            self.process.wait(self.site.options.grace);
            return Ok(Stopped::WithProcess);
        }
        let patience = self.site.options.recv_timeout;
        let give_up = deadline_after(patience);
        let mut pause = FIRST_STOP_PAUSE;
        let mut told = false;
        while self.process.exit().is_none() {
            match self.command(CommandKind::Stop, control, patience) {
                Ok(()) => told = true,
                // The official Go SDK's answer to a second stop.
                Err(Error::Refused { .. }) if told => return Ok(Stopped::Answered),
                Err(error) => return Err(error),
            }
            if has_stopped(pause) {
                return Ok(Stopped::Answered);
            }
            if Instant::now() >= give_up {
                return Ok(Stopped::StillRuns);
            }
            tracing::debug!(plugin = self.name, symbol = control.symbol_name, "a stop was ignored: sending it again");
            pause = (pause * 2).min(MAX_STOP_PAUSE);
        }
        Ok(Stopped::WithProcess)
    }

    /// Returns the error of a stop after which the symbol still runs.
    pub(crate) fn still_runs(&self, control: &Control) -> Error {
        let words = format!("{} {}: it still runs after its stop", control.plugin_type, control.symbol_name);
        let what = Subject::from(words).about(&self.name, Some(&control.symbol_name));
        Error::Timeout { plugin: self.name.clone(), what, after: self.site.options.recv_timeout }
    }

    /// Returns whether a symbol runs after this stop: it does not end when it is
    /// told to, or the stop was not sent, and is sent later.
    pub(crate) fn runs_after(&self, stopped: &Result<Stopped>) -> bool {
        match stopped {
            Ok(Stopped::StillRuns) => true,
            Ok(Stopped::Answered | Stopped::WithProcess) => false,
            Err(error) => error.delivery() == ErrorDelivery::NotSent && !self.scope.is_over(),
        }
    }

    /// Returns whether the process runs no source or sink but this one, so that
    /// its work is that one's. Functions work only while they are called.
    pub(crate) fn runs_only(&self, control: &Control) -> bool {
        lock(&self.live).iter().all(|other| other == control)
    }

    /// Records that a caller stops symbols, until its guard is dropped.
    fn begin_stop(&self) -> Stopping<'_> {
        self.stopping.fetch_add(1, Ordering::SeqCst);
        Stopping(&self.stopping)
    }

    /// Stops all symbols that no other caller stops, then waits for those
    /// callers: a process that is ended meanwhile would refuse.
    pub(super) fn stop_all(&self) {
        let deadline = deadline_after(self.site.options.grace);
        self.stop_rest(deadline);
        while self.stopping.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            if self.process.wait(STOPPING_LOOK).is_some() {
                return;
            }
        }
    }

    fn stop_rest(&self, deadline: Instant) {
        let _stopping = self.begin_stop();
        let mut live = lock(&self.live);
        self.has_told_all.store(true, Ordering::SeqCst);
        let rest = std::mem::take(&mut *live);
        drop(live);
        for control in rest {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.process.exit().is_some() {
                break;
            }
            if let Err(error) = self.command(CommandKind::Stop, &control, left) {
                tracing::warn!(plugin = self.name, error = %Chain(&error), "a symbol was not stopped");
            }
        }
    }
}

/// Guard of a caller that stops symbols.
struct Stopping<'a>(&'a AtomicUsize);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
