//! Rows on standard output.

use std::io::{self, Write};

use clap::ValueEnum;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::{DataFusionError, Result};

/// The form of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table; of a query without an end, one for each batch of rows.
    Table,
    /// A line of JSON for each row.
    Json,
    /// Comma-separated values, after a line with the names of the columns.
    Csv,
}

/// Writes the rows of one statement.
pub(crate) struct Output {
    format: Format,
    is_endless: bool,
    /// Rows of a table that are not written yet.
    kept: Vec<RecordBatch>,
    has_header: bool,
}

impl Output {
    pub(crate) fn new(format: Format, is_endless: bool) -> Self {
        Self { format, is_endless, kept: Vec::new(), has_header: false }
    }

    pub(crate) fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 || batch.num_columns() == 0 {
            return Ok(());
        }
        let mut text = Vec::new();
        match self.format {
            Format::Table => {
                self.kept.push(batch);
                return if self.is_endless { self.finish() } else { Ok(()) };
            }
            Format::Json => {
                let mut writer = LineDelimitedWriter::new(&mut text);
                writer.write(&batch)?;
                writer.finish()?;
            }
            Format::Csv => {
                let with_header = !std::mem::replace(&mut self.has_header, true);
                WriterBuilder::new().with_header(with_header).build(&mut text).write(&batch)?;
            }
        }
        print(&text)
    }

    /// Writes what is kept.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let table = pretty_format_batches(&self.kept)?;
        self.kept.clear();
        print(format!("{table}\n").as_bytes())
    }
}

fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).map_err(DataFusionError::IoError)
}
