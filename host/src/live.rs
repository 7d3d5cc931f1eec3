//! What is to run as long as its handle lives, whatever becomes of the process.

use std::sync::Arc;

use ekuiper_core::message::Control;

use crate::Result;
use crate::running::Running;

/// A source or a sink with a handle.
pub(crate) trait Live: Send + Sync {
    /// What its plugin is told.
    fn control(&self) -> &Control;

    /// Starts it in this process, unless that was done, or its handle was
    /// closed meanwhile: what is restored is exactly what is live (fault 19).
    ///
    /// # Errors
    /// Whatever stands against its start; its handle tells that too.
    fn restore(&self, running: &Arc<Running>) -> Result<()>;

    /// The plugin's state has changed: whoever waits looks again.
    fn wake(&self);
}
