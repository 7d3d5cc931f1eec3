//! Calls with record batches to plugins that take no columns: a call for each
//! row.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use ekuiper_core::codec;
use ekuiper_core::columns::arrow_array::{ArrayRef, RecordBatch};
use ekuiper_core::columns::{Cell, Cells, ColumnWriter};
use ekuiper_core::message::{ArgWriter, Arguments, CallKind};
use serde_json::Value;

use super::columns::Callee;
use super::options::{Due, Terms};
use super::pending::PendingCall;
use super::pool::PooledCall;
use crate::{Error, Result};

/// Maximum number of rows whose results are awaited at once.
const AHEAD: usize = 1024;

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

/// Returns the columns of a batch, whose values become arguments.
fn cells<'a>(callee: &Callee, batch: &'a RecordBatch) -> Result<Vec<Cells<'a>>> {
    let columns = batch.columns().iter().map(|column| Cells::new(column)).collect::<ekuiper_core::Result<_>>();
    columns.map_err(|source| callee.route().unsent(CallKind::Batch, source))
}

/// Calls a function for each row, and blocks for the results.
pub(super) fn by_rows(callee: &Callee, batch: &RecordBatch) -> Result<ArrayRef> {
    let columns = cells(callee, batch)?;
    let rows = (0..batch.num_rows()).map(|row| Row { columns: &columns, row });
    let mut results = Results::default();
    let mut push = |row: usize, result: Result<&Value, &str>| results.push(row, result);
    match callee {
        Callee::Function(function) => function.call_many_into(rows, push)?,
        // In the order of the rows, whatever the pool's is.
        Callee::Pool(pool) => {
            for (row, result) in pool.call_many::<Value, _>(rows)?.iter().enumerate() {
                push(row, result.as_ref().map_err(String::as_str));
            }
        }
    }
    results.finish(callee)
}

/// The results of rows, which become a column.
#[derive(Default)]
struct Results {
    column: ColumnWriter,
    /// The first row that has failed.
    failed: Option<String>,
}

impl Results {
    fn push(&mut self, row: usize, result: Result<&Value, &str>) {
        let pushed =
            result.map_err(str::to_owned).and_then(|value| self.column.push(value).map_err(|error| error.to_string()));
        if let Err(text) = pushed {
            self.failed.get_or_insert_with(|| format!("row {row}: {text}"));
        }
    }

    fn finish(self, callee: &Callee) -> Result<ArrayRef> {
        match self.failed {
            None => Ok(self.column.finish()),
            Some(text) => Err(callee.route().failed(text)),
        }
    }
}

/// Calls for the rows of a batch, some of which are in flight.
pub(super) struct PendingRows {
    batch: RecordBatch,
    /// Number of rows that are sent.
    sent: usize,
    in_flight: VecDeque<PendingRow>,
    results: Results,
}

enum PendingRow {
    Function(PendingCall<Value>),
    Pool(PooledCall<Value>),
}

impl PendingRows {
    pub(super) fn new(batch: RecordBatch) -> Self {
        Self { batch, sent: 0, in_flight: VecDeque::new(), results: Results::default() }
    }

    /// Makes calls for the next rows.
    pub(super) fn send_ahead(&mut self, callee: &Callee, due: Option<Due>) -> Result<()> {
        let until = (self.sent + AHEAD - self.in_flight.len()).min(self.batch.num_rows());
        // Few at a time, so that they are sent together.
        if until - self.sent < AHEAD / 2 && until < self.batch.num_rows() {
            return Ok(());
        }
        let columns = cells(callee, &self.batch)?;
        while self.sent < until {
            let row = Row { columns: &columns, row: self.sent };
            self.in_flight.push_back(match callee {
                Callee::Function(function) => {
                    let terms = Terms::of(&function.options, &function.route.plugin.site.options);
                    let (command, row) = function.pipeline.add_admitted(&row, terms, due)?;
                    PendingRow::Function(PendingCall::new(function.pipeline.clone(), command, row))
                }
                Callee::Pool(pool) => PendingRow::Pool(pool.make_due(&row, due)?),
            });
            self.sent += 1;
        }
        Ok(())
    }

    /// Blocks for the results.
    pub(super) fn wait(mut self, callee: &Callee, due: Option<Due>) -> Result<ArrayRef> {
        loop {
            self.send_ahead(callee, due)?;
            let row = self.sent - self.in_flight.len();
            let result = match self.in_flight.pop_front() {
                None => return self.results.finish(callee),
                Some(PendingRow::Function(call)) => call.wait(),
                Some(PendingRow::Pool(call)) => call.wait(),
            };
            self.take(row, result)?;
        }
    }

    /// Polls for the results.
    pub(super) fn poll(
        &mut self,
        callee: &Callee,
        due: Option<Due>,
        context: &mut Context<'_>,
    ) -> Poll<Result<ArrayRef>> {
        loop {
            self.send_ahead(callee, due)?;
            let row = self.sent - self.in_flight.len();
            let result = match self.in_flight.front_mut() {
                None => return Poll::Ready(std::mem::take(&mut self.results).finish(callee)),
                Some(PendingRow::Function(call)) => Pin::new(call).poll(context),
                Some(PendingRow::Pool(call)) => Pin::new(call).poll(context),
            };
            let Poll::Ready(result) = result else { return Poll::Pending };
            self.in_flight.pop_front();
            self.take(row, result)?;
        }
    }

    fn take(&mut self, row: usize, result: Result<Value>) -> Result<()> {
        match result {
            Ok(value) => self.results.push(row, Ok(&value)),
            Err(Error::Function { text, .. }) => self.results.push(row, Err(&text)),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
