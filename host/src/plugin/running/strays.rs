//! Sources and sinks that may run without a handle, because the outcome of their
//! start or stop is unknown.

use std::time::Duration;

use ekuiper_core::Chain;
use ekuiper_core::message::{CommandKind, Control};
use ekuiper_transport_ipc::wait::deadline_after;

use super::Running;
use crate::sync::lock;
use crate::{Error, Result, Subject};

/// Interval of the check whether a plugin that has not answered a command
/// accepts another one.
const STRAY_LOOK: Duration = Duration::from_millis(100);

impl Running {
    /// Stops the symbols that may run without a handle.
    ///
    /// # Errors
    /// The plugin accepts no command; the remaining strays are stopped later.
    pub(super) fn stop_strays(&self) -> Result<()> {
        let patience = self.site.options.recv_timeout;
        let Some(_alone) = self.stopping_strays.lock(deadline_after(patience)) else {
            let what = Subject::from("the stop of a symbol without a handle").about(&self.name, None).not_sent();
            return Err(Error::Timeout { plugin: self.name.clone(), what, after: patience });
        };
        // A stray that is not stopped now is added again.
        let strays = std::mem::take(&mut *lock(&self.strays));
        let mut stopped = Ok(());
        for control in strays {
            match &stopped {
                Ok(()) => match self.command(CommandKind::Stop, &control, patience) {
                    // The symbol runs no more, or never did.
                    Ok(()) | Err(Error::Refused { .. }) => {}
                    failed => stopped = failed,
                },
                Err(_) => self.add_stray(&control),
            }
        }
        stopped
    }

    /// Records a source or a sink that may run without a handle, and has it
    /// stopped as soon as the plugin accepts commands.
    pub(super) fn add_stray(&self, control: &Control) {
        if self.scope.is_over() {
            return;
        }
        let mut strays = lock(&self.strays);
        if !strays.contains(control) {
            strays.push(control.clone());
        }
        let is_first = strays.len() == 1;
        drop(strays);
        if !is_first {
            // The thread started for the first stray stops all.
            return;
        }
        let own = self.own.clone();
        let stop = move || {
            while let Some(running) = own.upgrade() {
                if running.scope.is_over() || lock(&running.strays).is_empty() {
                    return;
                }
                if running.control.is_ready() == Some(true) {
                    // A stray that is not stopped gets a new thread.
                    let _ = running.stop_strays();
                    return;
                }
                if running.process.wait(STRAY_LOOK).is_some() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("{}-stop", self.name)).spawn(stop) {
            // The next start stops the stray.
            tracing::debug!(plugin = self.name, error = %Chain(&error), "cannot start a thread");
        }
    }
}
