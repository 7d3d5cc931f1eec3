//! Columns: functions, sources and sinks over Arrow arrays, thousands of rows at
//! a time. Only `ekuiper-host` sends and reads columns; under any other engine,
//! and for calls of single rows, the same symbols work with rows.
//!
//! ```
//! use ekuiper_sdk::columns::arrow_array::Float64Array;
//! use ekuiper_sdk::prelude::*;
//!
//! # fn plugin() -> Plugin {
//! Plugin::new("numbers").columnar("double", |x: &Float64Array| -> Float64Array { x.unary(|x| x * 2.0) })
//! # }
//! ```
//!
//! - A [columnar](crate::Plugin::columnar) function takes and returns columns. A
//!   call with a row is one with columns of one row.
//! - A closure of values, added by [`Plugin::function`](crate::Plugin::function),
//!   is called with the values of columns, one row after the other, in one
//!   message. A value that is null is read as in a row: it is `None` for an
//!   `Option`, and an error for any other type.
//! - A source sends a batch by [`SourceContext::emit_batch`](crate::SourceContext::emit_batch).
//! - A sink that [says so](crate::description::SinkDescription::columnar) is
//!   given batches, which [`SinkContext::batch`](crate::SinkContext::batch)
//!   reads.

mod column;
mod columnar;

pub use ekuiper_core::columns::{arrow_array, arrow_buffer, arrow_schema};

pub use column::{Column, ColumnOutput};
pub use columnar::IntoColumnar;
pub use columnar::row_by_row;
pub(crate) use columnar::{answer, of_row};
