//! What is to run as long as its handle lives, whatever becomes of the process.

use std::sync::Arc;
use std::time::Instant;

use ekuiper_core::message::Control;

use super::running::Running;
use crate::{Error, Result};

/// A source or a sink with a handle.
pub(crate) trait Restorable: Send + Sync {
    /// What its plugin is told.
    fn control(&self) -> &Control;

    /// Starts it in this process, unless that was done, or its handle was
    /// closed meanwhile: what is restored is exactly what is live (fault 19).
    ///
    /// # Errors
    /// Whatever stands against its start.
    fn restore(&self, running: &Arc<Running>) -> Result<()>;

    /// It was not opened, and has no handle: whatever of it was started is
    /// stopped, its addresses are free, and it is not started again.
    fn give_up(&self);

    /// It could not be restored, and its handle is to tell that.
    fn is_lost(&self, cause: &Error);

    /// Its process is to be followed by another: lets what is under way come
    /// to its end, by the deadline. Nothing new begins in that process any
    /// more.
    fn leave(&self, running: &Running, deadline: Instant);

    /// The plugin's state has changed: whoever waits looks again.
    fn wake(&self);
}
