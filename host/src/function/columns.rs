//! Calls with record batches.

use std::cell::Cell as Flag;

use arrow_select::concat::concat;
use ekuiper_core::codec;
use ekuiper_core::columns::arrow_array::{Array, ArrayRef, RecordBatch};
use ekuiper_core::columns::arrow_buffer::Buffer;
#[cfg(feature = "c-data")]
use ekuiper_core::columns::c_data::Column;
use ekuiper_core::columns::{Cell, Cells, ColumnWriter, decode, encode, parts};
use ekuiper_core::message::{ArgWriter, Arguments, CallKind};
use ekuiper_transport_ipc::wait::deadline_after;
use serde::de::Error as _;
use serde_json::Value;

use super::Function;
use super::route::FunctionRoute;
use crate::{Error, Result};

/// Length that a request and an answer have beside the columns, at most.
const REQUEST: usize = 16 << 10;

/// Calls a function with the columns of a batch, one for each argument, whatever
/// their names; returns a column with a value for each row. If the function fails
/// for a row, the whole call fails, with the row's number.
///
/// A long batch is sent in parts. A plugin that takes no columns is called with
/// rows, as by [`Function::call_many`]: the type of the result is then that of
/// its values, which are bools, 64-bit integers, 64-bit floats or texts.
///
/// # Errors
/// As [`Function::call`]; with parts, some may have been computed nevertheless.
pub fn call_columns(function: &Function, batch: &RecordBatch) -> Result<ArrayRef> {
    let route = &*function.route;
    let connection = route.connection(deadline_after(route.plugin.site.options.send_timeout))?;
    if !connection.takes_columns() {
        return by_rows(function, batch);
    }
    let mut results = Vec::new();
    let mut first = 0;
    for part in parts(batch, route.plugin.site.options.max_message) {
        call_part(route, &part, first, &mut results)?;
        first += part.num_rows();
    }
    match &mut results[..] {
        [_] => Ok(results.remove(0)),
        _ => {
            let all: Vec<&dyn Array> = results.iter().map(|result| &**result).collect();
            concat(&all).map_err(|error| unread(route, &error.to_string()))
        }
    }
}

/// Returns the batch of a call.
#[cfg(feature = "c-data")]
pub(crate) fn batch_of(function: &Function, column: &Column) -> Result<RecordBatch> {
    column.batch().map_err(|source| function.route.unsent(CallKind::Columns, source))
}

/// Calls a function with a part of a batch, in halves if it is too long.
fn call_part(route: &FunctionRoute, part: &RecordBatch, first: usize, results: &mut Vec<ArrayRef>) -> Result<()> {
    let max = route.plugin.site.options.max_message;
    let too_long = Flag::new(None);
    let write = |request: &mut Vec<u8>| {
        encode(request, part)?;
        let length = request.len() + REQUEST.min(max / 4);
        if length <= max {
            return Ok(());
        }
        too_long.set(Some(length));
        Err(ekuiper_core::Error::Encode { what: "the columns", source: codec::Error::custom("they are too long") })
    };
    let called = route.call_columns(first, write, |reply| decode(&Buffer::from(reply)));
    if let Some(length) = too_long.get() {
        let rows = part.num_rows();
        if rows < 2 {
            return Err(route.too_long(length));
        }
        let half = rows / 2;
        call_part(route, &part.slice(0, half), first, results)?;
        return call_part(route, &part.slice(half, rows - half), first + half, results);
    }
    let answer = called?;
    match answer.columns() {
        [result] if answer.num_rows() == part.num_rows() => results.push(result.clone()),
        columns => {
            let (columns, rows, wanted) = (columns.len(), answer.num_rows(), part.num_rows());
            return Err(unread(route, &format!("it has {columns} columns of {rows} rows, not one of {wanted}")));
        }
    }
    Ok(())
}

fn unread(route: &FunctionRoute, text: &str) -> Error {
    let source = codec::Error::custom(text);
    route.unread(CallKind::Columns, ekuiper_core::Error::Message { what: "the function's result", source })
}

/// The arguments of a row.
struct Row<'a> {
    columns: &'a [Cells<'a>],
    row: usize,
}

impl Row<'_> {
    fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        self.columns.iter().map(|column| column.at(self.row))
    }
}

impl Arguments for Row<'_> {
    fn count(&self) -> usize {
        self.columns.len()
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), codec::Error> {
        self.cells().try_for_each(|cell| to.arg(&cell))
    }
}

/// Calls a function for each row.
fn by_rows(function: &Function, batch: &RecordBatch) -> Result<ArrayRef> {
    let route = &*function.route;
    let unsent = |source| route.unsent(CallKind::Batch, source);
    let columns = batch.columns().iter().map(|column| Cells::new(column)).collect::<ekuiper_core::Result<Vec<_>>>();
    let columns = columns.map_err(unsent)?;
    let rows = (0..batch.num_rows()).map(|row| Row { columns: &columns, row });
    let mut results = ColumnWriter::default();
    let mut failed = None;
    function.call_many_into(rows, |row, result: Result<&Value, &str>| {
        let pushed =
            result.map_err(str::to_owned).and_then(|value| results.push(value).map_err(|error| error.to_string()));
        if let Err(text) = pushed {
            failed.get_or_insert_with(|| format!("row {row}: {text}"));
        }
    })?;
    failed.map_or_else(|| Ok(results.finish()), |text| Err(route.failed(text)))
}
