//! Columns as record batches of `arrow-array` 59, the version that DataFusion 55
//! has. For other versions, and other Arrow libraries, the methods of
//! [`Function`](crate::Function::call_columns),
//! [`SourceBuilder`](crate::SourceBuilder::columns) and
//! [`Sink`](crate::Sink::send_columns) take and give Arrow IPC streams.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use ekuiper_host::Host;
//! use ekuiper_host::arrow59::arrow_array::{Float64Array, RecordBatch};
//! use ekuiper_host::arrow59::call_columns;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::builder().plugins_dir("plugins/portable").build()?;
//! let double = host.function("double")?;
//! let x = Arc::new(Float64Array::from(vec![1.0, 2.0]));
//! let doubled = call_columns(&double, &RecordBatch::try_from_iter([("x", x as _)])?)?;
//! # Ok(())
//! # }
//! ```

pub use ekuiper_core::columns::{arrow_array, arrow_schema};

#[doc(hidden)]
pub use crate::function::columns::Callee;
pub use crate::function::columns::{CallColumns, PendingArray, call_columns, call_columns_async};
pub use crate::sink::columns::send_batch;
pub use crate::source::batches::{Batches, batches};
