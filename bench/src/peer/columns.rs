//! The columns that are measured, and what is to come of them.

use std::sync::Arc;

use ekuiper_host::arrow59::arrow_array::types::Float64Type;
use ekuiper_host::arrow59::arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};

use super::RowFunction;
use crate::clock::{self, Pace};
use crate::reading::text;
use crate::{Error, Result, check};

/// A column and the function's result for it.
pub(super) struct Columns {
    pub(super) given: RecordBatch,
    pub(super) expected: ArrayRef,
    /// The payload of a row, in bytes.
    pub(super) size: usize,
}

impl Columns {
    /// Creates a column of so many rows.
    pub(super) fn of(function: RowFunction, rows: usize) -> Result<Self> {
        let (size, given, expected): (_, ArrayRef, ArrayRef) = match function {
            RowFunction::Double => {
                let x = Float64Array::from_iter_values((0..rows).map(|row| row as f64));
                let doubled = x.unary::<_, Float64Type>(|x| x * 2.0);
                (8, Arc::new(x), Arc::new(doubled))
            }
            RowFunction::Upper => {
                let text = text(16);
                let texts = |text: &str| Arc::new(StringArray::from(vec![text; rows]));
                (16, texts(&text), texts(&text.to_ascii_uppercase()))
            }
        };
        let given = RecordBatch::try_from_iter([("x", given)]).map_err(|error| Error::Peer(error.to_string()))?;
        Ok(Self { given, expected, size })
    }

    /// Measures calls with the column, one after the other. `pids` are the other
    /// processes involved.
    pub(super) fn measure(
        &self,
        pace: Pace,
        pids: &[u32],
        mut call: impl FnMut(&RecordBatch) -> Result<ArrayRef>,
    ) -> super::Measured {
        check(*call(&self.given)? == *self.expected, "the function gave another result")?;
        let rows = self.given.num_rows();
        clock::streams_here(pids, self.size, || {
            let next = || {
                // That the values are right was checked above.
                check(call(&self.given)?.len() == rows, "the function gave another number of results")?;
                Ok(rows as u64)
            };
            clock::stream_of(pace, 1, next).map(Some)
        })
    }
}
