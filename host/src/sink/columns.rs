//! Record batches to a sink.

use ekuiper_core::codec::Format;
use ekuiper_core::columns::arrow_array::RecordBatch;
#[cfg(feature = "c-data")]
use ekuiper_core::columns::c_data::Column;
use ekuiper_core::columns::{TableReader, encode, parts};
use ekuiper_core::message::encode_rows;
use serde::ser::{Serialize, Serializer};

use super::Sink;
use crate::{Error, Result};

/// Sends the rows of a record batch, in messages of about 1.5 MiB: as columns to
/// a sink that [takes them](crate::description::SinkDescription::columnar), and
/// otherwise as arrays of rows. With acknowledgements, returns once each message
/// is acknowledged.
///
/// # Errors
/// As [`Sink::send`], for the first message that fails: those before it were
/// sent, and no later ones. Rows cannot have all values of columns, NaN for
/// example.
pub fn send_batch(sink: &Sink, batch: &RecordBatch) -> Result<()> {
    let is_columnar = sink.takes_columns()?;
    let max = sink.session().plugin.site.options.max_message;
    let mut message = Vec::new();
    parts(batch, max).try_for_each(|part| send_part(sink, &part, is_columnar, max, &mut message))
}

/// Returns the batch to be sent.
#[cfg(feature = "c-data")]
pub(crate) fn batch_of(sink: &Sink, column: &Column) -> Result<RecordBatch> {
    column.batch().map_err(|source| unsent(sink, source))
}

fn unsent(sink: &Sink, source: ekuiper_core::Error) -> Error {
    let what = sink.session().what().not_sent();
    sink.session().counted(Error::Message { what, source: source.into() })
}

/// Sends a part of a batch, in halves if it is too long.
fn send_part(sink: &Sink, part: &RecordBatch, is_columnar: bool, max: usize, message: &mut Vec<u8>) -> Result<()> {
    message.clear();
    let encoded = match is_columnar {
        true => encode(message, part),
        // A sink that reads rows reads them in JSON, too.
        false => TableReader::new(part)
            .and_then(|rows| encode_rows(message, Format::Json, &Rows(&rows, part.num_rows())))
            .map(drop),
    };
    encoded.map_err(|source| unsent(sink, source))?;
    let rows = part.num_rows();
    if message.len() > max && rows > 1 {
        send_part(sink, &part.slice(0, rows / 2), is_columnar, max, message)?;
        return send_part(sink, &part.slice(rows / 2, rows - rows / 2), is_columnar, max, message);
    }
    sink.send_bytes(message)
}

/// Rows, as an array.
struct Rows<'a>(&'a TableReader<'a>, usize);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq((0..self.1).map(|row| self.0.row(row)))
    }
}
