//! A source read as record batches.

use std::time::Duration;

use ekuiper_core::codec::{Error as CodecError, Format};
use ekuiper_core::columns::arrow_array::RecordBatch;
use ekuiper_core::columns::{MessageMemory, TableWriter, decode};
use ekuiper_core::message::RawTuple;
use serde::de::Error as _;
use serde_json::{Map, Value};

use super::Source;
use crate::{Error, Result};

/// Maximum number of rows that become one batch.
const ROWS: usize = 8192;

/// Reads a source as record batches: as it sends them if it was asked for
/// [columns](crate::SourceBuilder::columns), and otherwise the rows that have
/// arrived, up to 8,192 in one batch. Of rows, each field is a column, of bools,
/// 64-bit integers, 64-bit floats or texts; a field that a row does not have is
/// null, and metadata is left out.
///
/// The errors of the iterator are those of [`Source`]; rows whose fields have
/// two types, lists or objects are one, [`Error::Message`].
pub fn batches(source: Source) -> Batches {
    Batches { source, raw: RawTuple::new(), memory: MessageMemory::default(), next: None }
}

/// An iterator over the record batches of a source: see [`batches`].
pub struct Batches {
    source: Source,
    raw: RawTuple,
    /// Memory of messages whose columns are in use.
    memory: MessageMemory,
    /// What was read after the rows of the last batch.
    next: Option<Result<Found>>,
}

enum Found {
    Batch(RecordBatch),
    Row(Map<String, Value>),
    End,
}

impl Batches {
    /// Returns the source, for its [stopper](Source::stopper), and to
    /// [close](Source::close) it. What was read and not returned is lost.
    pub fn into_source(self) -> Source {
        self.source
    }

    fn read(&mut self, patience: Option<Duration>) -> Result<Found> {
        if !self.source.next_raw(&mut self.raw, patience)? {
            return Ok(Found::End);
        }
        let found = match self.raw.columns() {
            Some(_) => decode(&self.memory.share(self.raw.buffer())).map(Found::Batch),
            None => row(self.raw.format(), self.raw.message()).map(Found::Row),
        };
        found.map_err(|source| self.source.counted(self.source.unread(source)))
    }

    /// Gathers the rows that have arrived, of which this is the first.
    fn rows(&mut self, first: &Map<String, Value>) -> Result<RecordBatch> {
        let mut table = TableWriter::new();
        let wrong = |error, source: &Source| source.counted(source.unread(error));
        table.push(first).map_err(|error| wrong(error, &self.source))?;
        while table.rows() < ROWS {
            match self.read(Some(Duration::ZERO)) {
                Ok(Found::Row(row)) => table.push(&row).map_err(|error| wrong(error, &self.source))?,
                Err(Error::Timeout { .. }) => break,
                other => {
                    self.next = Some(other);
                    break;
                }
            }
        }
        table.finish().map_err(|error| wrong(error, &self.source))
    }
}

/// Reads a record as a row.
fn row(format: Format, record: &[u8]) -> ekuiper_core::Result<Map<String, Value>> {
    let wrong = |source| ekuiper_core::Error::Message { what: "the source's message", source };
    match format.decode(record).map_err(wrong)? {
        Value::Object(row) => Ok(row),
        _ => Err(wrong(CodecError::custom("a row of columns is an object"))),
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next.take().unwrap_or_else(|| self.read(None)) {
            Ok(Found::Batch(batch)) => Some(Ok(batch)),
            Ok(Found::Row(row)) => Some(self.rows(&row)),
            Ok(Found::End) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
