//! Many rows of one caller, in all processes of a pool.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use ekuiper_core::message::{Arguments, Outcome};
use serde::de::DeserializeOwned;

use super::{FunctionPool, PooledCall};
use crate::function::command::FULL;
use crate::function::many::ManyError;
use crate::sync::{lock, wait};
use crate::{Error, Result};

/// Maximum size of the rows that a caller has under way in each process, in
/// bytes.
const UNDER_WAY: usize = 4 * FULL;

/// See [`FunctionPool::call_many`].
pub(super) fn call_many<R, A>(
    pool: &FunctionPool,
    rows: impl Iterator<Item = A>,
) -> Result<Vec<Outcome<R>>, ManyError<R>>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let mut outcomes = Vec::with_capacity(rows.size_hint().0);
    match in_order(pool, rows, |_, outcome| outcomes.push(outcome)) {
        Ok(()) => Ok(outcomes),
        Err(error) => Err(ManyError { outcomes, error: Box::new(error) }),
    }
}

/// See [`FunctionPool::call_many_into`].
pub(super) fn call_many_into<R, A>(
    pool: &FunctionPool,
    rows: impl Iterator<Item = A>,
    mut each: impl FnMut(usize, Result<&R, &str>),
) -> Result<()>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let each = |row, outcome: Outcome<R>| each(row, outcome.as_ref().map_err(|text| &**text));
    match pool.is_ordered {
        true => in_order(pool, rows, each),
        false => as_they_come(pool, rows, each),
    }
}

/// The rows of a caller that are under way.
struct Rows<'p, I> {
    pool: &'p FunctionPool,
    rows: I,
    due: Option<crate::function::options::Due>,
    /// Why no further row is made.
    failure: Option<Error>,
    bytes: usize,
}

impl<I: Iterator<Item: Arguments>> Rows<'_, I> {
    /// Makes the call of the next row, if there is one, and room for it beside
    /// this many.
    fn next<R>(&mut self, under_way: usize) -> Option<PooledCall<R>> {
        let is_full = under_way >= self.pool.pool.appetite() || self.bytes >= UNDER_WAY * self.pool.size();
        if self.failure.is_some() || (is_full && under_way > 0) {
            return None;
        }
        match self.pool.make_due(&self.rows.next()?, self.due) {
            Ok(call) => {
                self.bytes += call.length();
                Some(call)
            }
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }
}

fn rows<I>(pool: &FunctionPool, rows: I) -> Rows<'_, I> {
    Rows { pool, rows, due: pool.options.due(), failure: None, bytes: 0 }
}

/// Separates the function's own error.
fn outcome_of<R>(result: Result<R>) -> Result<Outcome<R>> {
    match result {
        Ok(result) => Ok(Ok(result)),
        Err(error) => error.into_row_error().map(Err),
    }
}

fn in_order<R, A>(
    pool: &FunctionPool,
    given: impl Iterator<Item = A>,
    mut each: impl FnMut(usize, Outcome<R>),
) -> Result<()>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let mut rows = rows(pool, given.fuse());
    let mut under_way: VecDeque<PooledCall<R>> = VecDeque::new();
    for row in 0.. {
        while let Some(call) = rows.next(under_way.len()) {
            under_way.push_back(call);
        }
        let Some(call) = under_way.pop_front() else { break };
        rows.bytes -= call.length();
        each(row, outcome_of(call.wait())?);
    }
    rows.failure.map_or(Ok(()), Err)
}

fn as_they_come<R, A>(
    pool: &FunctionPool,
    given: impl Iterator<Item = A>,
    mut each: impl FnMut(usize, Outcome<R>),
) -> Result<()>
where
    R: DeserializeOwned,
    A: Arguments,
{
    let mut rows = rows(pool, given.fuse());
    let mut under_way: HashMap<usize, PooledCall<R>> = HashMap::new();
    let done = Arc::new(Done::default());
    let mut made = 0;
    loop {
        while let Some(call) = rows.next(under_way.len()) {
            under_way.insert(made, call);
            // Polled first by this thread.
            done.push(made);
            made += 1;
        }
        if under_way.is_empty() {
            return rows.failure.map_or(Ok(()), Err);
        }
        let row = done.next();
        let Some(call) = under_way.get_mut(&row) else { continue };
        let waker = Waker::from(Arc::new(RowDone { row, done: done.clone() }));
        if let Poll::Ready(result) = Pin::new(call).poll(&mut Context::from_waker(&waker)) {
            rows.bytes -= under_way.remove(&row).map_or(0, |call| call.length());
            each(row, outcome_of(result)?);
        }
    }
}

/// Rows that may have an outcome.
#[derive(Default)]
struct Done {
    rows: Mutex<VecDeque<usize>>,
    changed: Condvar,
}

impl Done {
    fn push(&self, row: usize) {
        lock(&self.rows).push_back(row);
        self.changed.notify_one();
    }

    fn next(&self) -> usize {
        let mut rows = lock(&self.rows);
        loop {
            match rows.pop_front() {
                Some(row) => return row,
                None => rows = wait(&self.changed, rows, None),
            }
        }
    }
}

/// Waker of one row.
struct RowDone {
    row: usize,
    done: Arc<Done>,
}

impl Wake for RowDone {
    fn wake(self: Arc<Self>) {
        self.done.push(self.row);
    }
}
