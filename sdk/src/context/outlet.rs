//! The destination of a context's messages.

use ekuiper_core::transport::TransportError;

/// The destination of a symbol's messages: a channel, or a test.
pub(crate) trait Outlet: Send + Sync {
    /// Sends a message; blocks without a deadline.
    fn send(&self, message: &[u8]) -> Result<(), TransportError>;
}
