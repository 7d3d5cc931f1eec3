//! The contexts of symbols: the rule instance, the channel to the engine, and
//! the stop.

mod function;
mod outlet;
mod sink;
mod source;

pub use function::FunctionContext;
pub(crate) use outlet::{AckOutlet, Outlet};
pub use sink::SinkContext;
pub use source::{SourceContext, StopHook};
