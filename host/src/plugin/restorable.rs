//! What runs as long as its handle lives, across processes.

use std::sync::Arc;
use std::time::Instant;

use ekuiper_core::message::Control;

use super::running::Running;
use crate::health::vitals::Vitals;
use crate::{Error, Result};

/// A source or a sink with a handle.
pub(crate) trait Restorable: Send + Sync {
    /// Control message of the symbol.
    fn control(&self) -> &Control;

    /// Counters of the symbol.
    fn vitals(&self) -> &Vitals;

    /// Starts the symbol in a process, unless it runs there already or its
    /// handle was closed meanwhile: exactly what is live is restored (fault
    /// 19).
    ///
    /// # Errors
    /// The reason why the symbol cannot be started.
    fn restore(&self, running: &Arc<Running>) -> Result<()>;

    /// Gives up a symbol that was not opened: stops whatever of it was started,
    /// releases its addresses, and does not start it again.
    fn give_up(&self);

    /// Records that the symbol could not be restored, so that its handle
    /// returns the error.
    fn mark_lost(&self, cause: &Error);

    /// Stops new work in a process that is being replaced, and waits for the
    /// work in flight, at most until the deadline.
    fn leave(&self, running: &Running, deadline: Instant);

    /// Ends a symbol whose process was stopped, for good: releases its
    /// addresses, and has its handle return [`Error::Stopped`] from then on.
    fn end_with_plugin(&self);

    /// Wakes all waits for the plugin, whose state has changed.
    fn wake(&self);
}
