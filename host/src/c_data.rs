//! Columns of any Arrow library, in any version, by Arrow's [C data interface]:
//! nothing is encoded for it, and no memory is copied. This module does what
//! `arrow59` does for the record batches of one version of `arrow-array`.
//!
//! A library moves an array into a [`Column`] by [`Column::import`], and out of it
//! by [`Column::export`]. Here it is `arrow-array`:
//!
//! ```
//! use ekuiper_core::columns::arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
//! use ekuiper_core::columns::arrow_array::{Array, Float64Array, RecordBatch, StructArray, make_array};
//! use ekuiper_host::c_data::{Column, call_columns};
//! use ekuiper_host::{Function, Result};
//!
//! fn doubled(double: &Function, batch: RecordBatch) -> Result<Float64Array, Box<dyn std::error::Error>> {
//!     let (mut array, mut schema) = to_ffi(&StructArray::from(batch).into_data())?;
//!     // SAFETY: the structures are those of the interface, and proper.
//!     let batch = unsafe { Column::import((&raw mut array).cast(), (&raw mut schema).cast()) }?;
//!     let (mut array, mut schema) = call_columns(double, &batch)?.export()?;
//!     // SAFETY: as above.
//!     let array = unsafe { FFI_ArrowArray::from_raw((&raw mut array).cast()) };
//!     let schema = unsafe { FFI_ArrowSchema::from_raw((&raw mut schema).cast()) };
//!     let doubled = unsafe { from_ffi(array, &schema) }?;
//!     Ok(Float64Array::from(doubled))
//! }
//! ```
//!
//! [C data interface]: https://arrow.apache.org/docs/format/CDataInterface.html

use std::pin::Pin;
use std::task::{Context, Poll};

pub use ekuiper_core::columns::c_data::{ArrowArray, ArrowSchema, Column};

pub use crate::function::columns::CallColumns;
#[doc(hidden)]
pub use crate::function::columns::Callee;
use crate::function::columns::{self as function, PendingArray};
use crate::sink::columns as sink;
use crate::source::batches as source;
use crate::{Result, Sink, Source};

/// Calls a function with the columns of a batch, one for each argument, whatever
/// their names; returns a column with a value for each row. It is one call: if the
/// function fails for a row, the whole call fails, with the row's number.
///
/// A long batch is sent in parts. A plugin that takes no columns is called with
/// rows, as by [`Function::call_many`](crate::Function::call_many): the type of the result is then that of its
/// values, which are bools, 64-bit integers, 64-bit floats or texts.
///
/// # Errors
/// [`Error::Message`](crate::Error::Message) for a column that is no batch;
/// otherwise as [`Function::call`](crate::Function::call).
pub fn call_columns(function: &impl CallColumns, batch: &Column) -> Result<Column> {
    let batch = function::batch_of(function, batch)?;
    function::call_columns(function, &batch).map(Column::of)
}

/// Calls a function with the columns of a batch, as [`call_columns`], without
/// waiting for anything. [`PendingColumn`] is a future of the result, and
/// [`PendingColumn::wait`] blocks for it. Dropping it cancels the call.
///
/// # Errors
/// [`QueueFull`](crate::Error::QueueFull), when too many calls wait.
pub fn call_columns_async(function: &impl CallColumns, batch: &Column) -> Result<PendingColumn> {
    let batch = function::batch_of(function, batch)?;
    function::call_columns_async(function, &batch).map(PendingColumn)
}

/// A call with the columns of a batch in flight: see [`call_columns_async`].
#[must_use = "its result may be an error"]
#[derive(Debug)]
pub struct PendingColumn(PendingArray);

impl PendingColumn {
    /// Blocks until the result is there, and returns it.
    ///
    /// # Errors
    /// As [`call_columns`].
    pub fn wait(self) -> Result<Column> {
        self.0.wait().map(Column::of)
    }
}

impl Future for PendingColumn {
    type Output = Result<Column>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.map(Column::of))
    }
}

/// Reads a source as batches: as it sends them if it was asked for
/// [columns](crate::SourceBuilder::columns), and otherwise the rows that have
/// arrived, up to 8,192 in one batch. Of rows, each field is a column, of bools,
/// 64-bit integers, 64-bit floats or texts; a field that a row does not have is
/// null, and metadata is left out.
///
/// The errors of the iterator are those of [`Source`]; rows whose fields have two
/// types, lists or objects are one, [`Error::Message`](crate::Error::Message).
pub fn batches(source: Source) -> Batches {
    Batches(source::batches(source))
}

/// An iterator over the batches of a source: see [`batches`].
pub struct Batches(source::Batches);

impl Batches {
    /// Returns the source, for its [stopper](Source::stopper), and to
    /// [close](Source::close) it. What was read and not returned is lost.
    pub fn into_source(self) -> Source {
        self.0.into_source()
    }
}

impl Iterator for Batches {
    type Item = Result<Column>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map(Column::of_batch))
    }
}

/// Sends the rows of a batch, in messages of about 1.5 MiB: as columns to a sink
/// that [takes them](crate::description::SinkDescription::columnar), and otherwise
/// as arrays of rows. With acknowledgements, returns once each message is
/// acknowledged.
///
/// # Errors
/// [`Error::Message`](crate::Error::Message) for a column that is no batch;
/// otherwise as [`Sink::send`], for the first message that fails: those before it
/// were sent, and no later ones.
pub fn send_batch(sink: &Sink, batch: &Column) -> Result<()> {
    let batch = sink::batch_of(sink, batch)?;
    sink::send_batch(sink, &batch)
}
