//! The destinations of a context's messages.

use ekuiper_core::transport::TransportError;

/// The destination of a source's messages: a channel, or a test.
pub(crate) trait Outlet: Send + Sync {
    /// Sends a message; blocks without a deadline.
    fn send(&self, message: &[u8]) -> Result<(), TransportError>;
}

/// The destination of a sink's acknowledgements: a channel, or a test.
pub(crate) trait AckOutlet: Send + Sync {
    /// Acknowledges the next message, as accepted or refused; blocks without a
    /// deadline.
    fn acknowledge(&self, outcome: Result<(), &str>) -> Result<(), TransportError>;
}
