//! The destination of a context's messages, and the capacity of their buffers.

use ekuiper_core::transport::TransportError;

/// The destination of a symbol's messages: a channel, or a test.
pub(crate) trait Outlet: Send + Sync {
    /// Sends a message; blocks without a deadline.
    fn send(&self, message: &[u8]) -> Result<(), TransportError>;
}

/// The largest buffer capacity kept for the next message, in bytes.
const KEEP: usize = 1 << 20;

/// Releases the excess capacity after a long message.
pub(crate) fn trim(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        buffer.clear();
        buffer.shrink_to(KEEP);
    }
}
