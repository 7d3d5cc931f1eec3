//! What a symbol is given to work with: its place in the rule, its way out,
//! its end.

mod function;
mod sink;
mod source;

pub use function::FunctionContext;
pub use sink::SinkContext;
pub use source::{SourceContext, StopHook};

use ekuiper_core::transport::TransportError;

/// Where a symbol's messages go: a channel, or a test.
pub(crate) trait Outlet: Send + Sync {
    /// Sends, waiting as long as it takes.
    fn send(&self, message: &[u8]) -> Result<(), TransportError>;
}

/// The longest buffer that is kept for the next message, in bytes.
pub(crate) const KEEP: usize = 1 << 20;

/// Gives back what one long message took.
pub(crate) fn trim(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        buffer.clear();
        buffer.shrink_to(KEEP);
    }
}
