//! The interface beneath all functions, for language bindings: arguments are
//! read and the result is written in any codec, without a
//! [`Value`](crate::Value) in between.
//!
//! In Rust, use a closure or a [`Function`](crate::Function) instead.

pub use ekuiper_core::codec::Format;
pub use ekuiper_core::message::{Arg, Args, BatchReply, Mark, Rows};

#[doc(hidden)]
pub use crate::arity::WithContext;
pub use crate::cancel::CallWatch;
#[doc(hidden)]
pub use crate::closure::ByTrait;
#[cfg(feature = "arrow")]
pub use crate::columns::row_by_row;
pub use crate::output::Reply;
#[doc(hidden)]
pub use crate::raw_function::ByRaw;
pub use crate::raw_function::{BoxedFunction, Raw, RawFunction, each_row};
