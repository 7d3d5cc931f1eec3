//! Rows, objects of values, written as a record batch.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema};
use serde::de::Error as _;
use serde_json::{Map, Value};

use super::ColumnWriter;
use crate::{Error, Result};

/// A record batch that is made of rows: a column for each field, in the order
/// in which they come. A field that a row does not have is null there.
#[derive(Debug, Default)]
pub struct TableWriter {
    columns: Vec<(String, ColumnWriter)>,
    rows: usize,
}

impl TableWriter {
    /// A batch without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Encode`], with the field's name, when the field has another type
    /// in an earlier row, or is a list or an object: the batch is then of no
    /// use.
    pub fn push(&mut self, row: &Map<String, Value>) -> Result<()> {
        for (at, (name, value)) in row.iter().enumerate() {
            // Rows have their fields in one order, as a rule.
            let place = match self.columns.get(at) {
                Some((known, _)) if known == name => Some(at),
                _ => self.columns.iter().position(|(known, _)| known == name),
            };
            let place = place.unwrap_or_else(|| {
                self.columns.push((name.clone(), ColumnWriter::nulls(self.rows)));
                self.columns.len() - 1
            });
            let pushed = self.columns[place].1.push(value);
            pushed.map_err(|error| Error::Encode {
                what: "rows as columns",
                source: serde_json::Error::custom(format_args!("field {name}: {error}")),
            })?;
        }
        self.rows += 1;
        for (_, column) in self.columns.iter_mut().filter(|(_, column)| column.len() < self.rows) {
            column.push_null();
        }
        Ok(())
    }

    /// Returns the batch.
    ///
    /// # Errors
    /// None: the columns have as many values as there are rows.
    pub fn finish(self) -> Result<RecordBatch> {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = self
            .columns
            .into_iter()
            .map(|(name, column)| {
                let column = column.finish();
                (Field::new(name, column.data_type().clone(), true), column)
            })
            .unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options);
        batch.map_err(|error| Error::Encode { what: "rows as columns", source: serde_json::Error::custom(error) })
    }
}
