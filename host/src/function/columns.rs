//! Calls with record batches.

use std::cell::Cell as Flag;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use arrow_select::concat::concat;
use ekuiper_core::codec;
use ekuiper_core::columns::arrow_array::{Array, ArrayRef, RecordBatch};
use ekuiper_core::columns::arrow_buffer::Buffer;
#[cfg(feature = "c-data")]
use ekuiper_core::columns::c_data::Column;
use ekuiper_core::columns::{decode, encode, parts};
use ekuiper_core::message::CallKind;
use ekuiper_transport_ipc::wait::deadline_after;
use serde::de::Error as _;

use super::Function;
use super::by_rows::{PendingRows, by_rows};
use super::options::{CallOptions, Due, Terms};
use super::pending::PendingColumns;
use super::pool::{FunctionPool, PooledColumns};
use super::route::FunctionRoute;
use crate::{Error, Result};

/// Length that a request and an answer have beside the columns, at most.
const REQUEST: usize = 16 << 10;

/// Twice the length of a part that one process of a pool gets: shorter than the
/// best for one process alone, so that several have one.
const POOLED: usize = 1 << 20;

/// Calls a function with the columns of a batch, one for each argument, whatever
/// their names; returns a column with a value for each row. If the function fails
/// for a row, the whole call fails, with the row's number.
///
/// A long batch is sent in parts. A plugin that takes no columns is called with
/// rows, as by [`Function::call_many`]: the type of the result is then that of
/// its values, which are bools, 64-bit integers, 64-bit floats or texts.
///
/// The function computes a part while the host encodes the next one. The
/// [options](Function::with_options) of the function apply: its deadline is that
/// of the whole batch, and an idempotent part is sent again after a crash.
///
/// # Errors
/// As [`Function::call`]; with parts, some may have been computed nevertheless.
pub fn call_columns(function: &impl CallColumns, batch: &RecordBatch) -> Result<ArrayRef> {
    let callee = function.callee();
    let route = callee.route();
    let connection = route.connection(deadline_after(route.plugin.site.options.send_timeout))?;
    if !connection.takes_columns() {
        return by_rows(&callee, batch);
    }
    let mut all: Vec<_> = callee.parts(batch);
    if let (Callee::Function(function), [_]) = (&callee, &all[..])
        && function.is_plain
        && !function.pipeline.has_stopper()
    {
        let mut results = Vec::new();
        call_part(route, &all.remove(0), 0, &mut results)?;
        return joined(route, results);
    }
    PendingArray::new(callee, all).wait()
}

/// A function whose calls take record batches: a [`Function`], or a
/// [`FunctionPool`], whose processes compute parts of a batch at the same time.
pub trait CallColumns {
    #[doc(hidden)]
    fn callee(&self) -> Callee;
}

impl CallColumns for Function {
    fn callee(&self) -> Callee {
        Callee::Function(self.clone())
    }
}

impl CallColumns for FunctionPool {
    fn callee(&self) -> Callee {
        Callee::Pool(self.clone())
    }
}

/// What is called.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Callee {
    #[doc(hidden)]
    Function(Function),
    #[doc(hidden)]
    Pool(FunctionPool),
}

/// A part that is sent.
enum PendingPart {
    Function(PendingColumns),
    Pool(PooledColumns),
}

impl Callee {
    pub(super) fn route(&self) -> &FunctionRoute {
        match self {
            Self::Function(function) => &function.route,
            Self::Pool(pool) => pool.first(),
        }
    }

    fn options(&self) -> CallOptions {
        match self {
            Self::Function(function) => function.options,
            Self::Pool(pool) => pool.options(),
        }
    }

    /// Splits a batch into the parts that are sent.
    fn parts(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        let max = self.route().plugin.site.options.max_message;
        parts(batch, if let Self::Pool(_) = self { max.min(POOLED) } else { max }).collect()
    }

    /// Returns the number of parts that are sent, or encoded, before the result of
    /// the first: in each process one is computed, and one waits.
    fn ahead(&self) -> usize {
        match self {
            Self::Function(_) => 2,
            Self::Pool(pool) => 2 * pool.size(),
        }
    }

    /// Makes a call with a part of a batch, which `write` writes.
    fn post(
        &self,
        first: usize,
        write: impl FnOnce(&mut Vec<u8>) -> ekuiper_core::Result<()>,
        terms: Terms,
        due: Option<Due>,
    ) -> Result<PendingPart> {
        match self {
            Self::Function(function) => {
                let command = function.pipeline.add_columns(first, write, terms, due)?;
                Ok(PendingPart::Function(PendingColumns::new(function.pipeline.clone(), command)))
            }
            Self::Pool(pool) => {
                let mut stream = Vec::new();
                write(&mut stream).map_err(|source| self.route().unsent(CallKind::Columns, source))?;
                pool.make_columns(stream, first, terms, due).map(PendingPart::Pool)
            }
        }
    }
}

impl PendingPart {
    fn wait(self) -> Result<ekuiper_core::Result<RecordBatch>> {
        match self {
            Self::Function(pending) => pending.wait_with(|reply| decode(&Buffer::from(reply))),
            Self::Pool(pending) => pending.wait().map(|reply| decode(&Buffer::from_vec(reply))),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<ekuiper_core::Result<RecordBatch>>> {
        match self {
            Self::Function(pending) => pending.poll_with(context, |reply| decode(&Buffer::from(reply))),
            Self::Pool(pending) => {
                Pin::new(pending).poll(context).map(|reply| reply.map(|reply| decode(&Buffer::from_vec(reply))))
            }
        }
    }
}

/// Calls a function with the columns of a batch, as [`call_columns`], without
/// waiting for anything. [`PendingArray`] is a future of the result, and
/// [`PendingArray::wait`] blocks for it. Dropping it cancels the call.
///
/// The first parts, or rows, are sent at once, and the next ones while the result
/// is waited for.
///
/// # Errors
/// [`QueueFull`](Error::QueueFull), when too many calls wait.
pub fn call_columns_async(function: &impl CallColumns, batch: &RecordBatch) -> Result<PendingArray> {
    let callee = function.callee();
    let route = callee.route();
    match &callee {
        Callee::Function(function) => function.pipeline.admit().map_err(|error| uncalled(route, error))?,
        Callee::Pool(pool) => pool.admit()?,
    }
    let mut pending = match route.latest().takes_columns() {
        true => {
            let all = callee.parts(batch);
            PendingArray::new(callee, all)
        }
        false => PendingArray::by_rows(callee, batch),
    };
    pending.send_ahead()?;
    Ok(pending)
}

/// Joins the results of parts.
fn joined(route: &FunctionRoute, mut results: Vec<ArrayRef>) -> Result<ArrayRef> {
    if results.len() == 1 {
        return Ok(results.remove(0));
    }
    let all: Vec<&dyn Array> = results.iter().map(|result| &**result).collect();
    concat(&all).map_err(|error| unread(route, &error.to_string()))
}

/// Counts a call that could not be made.
fn uncalled(route: &FunctionRoute, error: Error) -> Error {
    route.counted.begin(1, Instant::now()).fail(error)
}

/// A call with the columns of a batch in flight: see [`call_columns_async`].
#[must_use = "its result may be an error"]
pub struct PendingArray {
    callee: Callee,
    due: Option<Due>,
    /// The parts that are not sent, the last one first, and the numbers of their
    /// first rows.
    rest: Vec<(RecordBatch, usize)>,
    /// The parts that are sent, and the numbers of their rows.
    sent: VecDeque<(PendingPart, usize)>,
    results: Vec<ArrayRef>,
    /// Instead of parts, if the plugin takes no columns.
    rows: Option<PendingRows>,
}

impl fmt::Debug for PendingArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingArray").field("callee", &self.callee).finish_non_exhaustive()
    }
}

impl PendingArray {
    fn new(callee: Callee, parts: Vec<RecordBatch>) -> Self {
        let mut first = 0;
        let number = |part: RecordBatch| {
            let from = first;
            first += part.num_rows();
            (part, from)
        };
        let mut rest: Vec<_> = parts.into_iter().map(number).collect();
        rest.reverse();
        let (due, sent, results) = (callee.options().due(), VecDeque::new(), Vec::new());
        Self { callee, due, rest, sent, results, rows: None }
    }

    /// A call for each row.
    fn by_rows(callee: Callee, batch: &RecordBatch) -> Self {
        Self { rows: Some(PendingRows::new(batch.clone())), ..Self::new(callee, Vec::new()) }
    }

    /// Blocks until the result is there, and returns it.
    ///
    /// # Errors
    /// As [`call_columns`].
    pub fn wait(mut self) -> Result<ArrayRef> {
        if let Some(rows) = self.rows {
            return rows.wait(&self.callee, self.due);
        }
        loop {
            self.send_ahead()?;
            let Some((part, rows)) = self.sent.pop_front() else { return self.result() };
            let answer = part.wait()?;
            self.take(answer, rows)?;
        }
    }

    fn result(&mut self) -> Result<ArrayRef> {
        joined(self.callee.route(), std::mem::take(&mut self.results))
    }

    fn take(&mut self, answer: ekuiper_core::Result<RecordBatch>, rows: usize) -> Result<()> {
        let route = self.callee.route();
        let answer = answer.map_err(|source| route.unread(CallKind::Columns, source));
        let column = answer.and_then(|answer| column_of(route, &answer, rows));
        self.results.push(column.inspect_err(|error| route.counted.failed(1, error))?);
        Ok(())
    }

    /// Sends parts, or rows, until the process has enough of them.
    fn send_ahead(&mut self) -> Result<()> {
        if let Some(rows) = &mut self.rows {
            return rows.send_ahead(&self.callee, self.due);
        }
        let route = self.callee.route();
        let terms = Terms::of(&self.callee.options(), &route.plugin.site.options);
        while self.sent.len() < self.callee.ahead()
            && let Some((part, first)) = self.rest.pop()
        {
            let rows = part.num_rows();
            let too_long = Flag::new(None);
            let write = |request: &mut Vec<u8>| write(request, &part, route, &too_long);
            match self.callee.post(first, write, terms.of_columns(rows), self.due) {
                Ok(pending) => self.sent.push_back((pending, rows)),
                Err(_) if too_long.get().is_some() && rows > 1 => {
                    let half = rows / 2;
                    self.rest.push((part.slice(half, rows - half), first + half));
                    self.rest.push((part.slice(0, half), first));
                }
                Err(error) => {
                    let error = too_long.get().map_or(error, |length| route.too_long(length));
                    return Err(uncalled(route, error));
                }
            }
        }
        Ok(())
    }
}

impl Future for PendingArray {
    type Output = Result<ArrayRef>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self { callee, due, rows: Some(rows), .. } = &mut *self {
            return rows.poll(callee, *due, context);
        }
        loop {
            self.send_ahead()?;
            let Some((part, rows)) = self.sent.front_mut() else { return Poll::Ready(self.result()) };
            let rows = *rows;
            let Poll::Ready(answer) = part.poll(context) else {
                return Poll::Pending;
            };
            self.sent.pop_front();
            self.take(answer?, rows)?;
        }
    }
}

/// Writes a part of a batch, unless it is too long: then its length is noted.
fn write(
    request: &mut Vec<u8>,
    part: &RecordBatch,
    route: &FunctionRoute,
    too_long: &Flag<Option<usize>>,
) -> ekuiper_core::Result<()> {
    let max = route.plugin.site.options.max_message;
    encode(request, part)?;
    let length = request.len() + REQUEST.min(max / 4);
    if length <= max {
        return Ok(());
    }
    too_long.set(Some(length));
    Err(ekuiper_core::Error::Encode { what: "the columns", source: codec::Error::custom("they are too long") })
}

/// Returns the column of an answer.
fn column_of(route: &FunctionRoute, answer: &RecordBatch, wanted: usize) -> Result<ArrayRef> {
    match answer.columns() {
        [result] if answer.num_rows() == wanted => Ok(result.clone()),
        columns => {
            let (columns, rows) = (columns.len(), answer.num_rows());
            Err(unread(route, &format!("it has {columns} columns of {rows} rows, not one of {wanted}")))
        }
    }
}

/// Returns the batch of a call.
#[cfg(feature = "c-data")]
pub(crate) fn batch_of(function: &impl CallColumns, column: &Column) -> Result<RecordBatch> {
    column.batch().map_err(|source| function.callee().route().unsent(CallKind::Columns, source))
}

/// Calls a function with a part of a batch, in halves if it is too long.
fn call_part(route: &FunctionRoute, part: &RecordBatch, first: usize, results: &mut Vec<ArrayRef>) -> Result<()> {
    let too_long = Flag::new(None);
    let write = |request: &mut Vec<u8>| write(request, part, route, &too_long);
    let called = route.call_columns(first, write, |reply| decode(&route.memory.share(reply)));
    if let Some(length) = too_long.get() {
        let rows = part.num_rows();
        if rows < 2 {
            return Err(route.too_long(length));
        }
        let half = rows / 2;
        call_part(route, &part.slice(0, half), first, results)?;
        return call_part(route, &part.slice(half, rows - half), first + half, results);
    }
    results.push(column_of(route, &called?, part.num_rows())?);
    Ok(())
}

fn unread(route: &FunctionRoute, text: &str) -> Error {
    let source = codec::Error::custom(text);
    route.unread(CallKind::Columns, ekuiper_core::Error::Message { what: "the function's result", source })
}
