//! The contexts of symbols: the rule instance, the channel to the engine, and
//! the stop.

mod function;
mod sink;
mod source;

pub use function::FunctionContext;
pub use sink::SinkContext;
pub use source::{SourceContext, StopHook};

use ekuiper_core::transport::TransportError;

/// The destination of a symbol's messages: a channel, or a test.
pub(crate) trait Outlet: Send + Sync {
    /// Sends a message; blocks without a deadline.
    fn send(&self, message: &[u8]) -> Result<(), TransportError>;
}

/// The largest buffer capacity kept for the next message, in bytes.
pub(crate) const KEEP: usize = 1 << 20;

/// Releases the excess capacity after a long message.
pub(crate) fn trim(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        buffer.clear();
        buffer.shrink_to(KEEP);
    }
}
