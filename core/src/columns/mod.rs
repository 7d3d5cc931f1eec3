//! Columns in messages: Arrow record batches as Arrow IPC streams, and the
//! bridges between columns and rows.
//!
//! A message holds one whole stream: its schema, its dictionaries and one record
//! batch. So nothing is remembered from message to message, and nothing is lost
//! with a connection.
//!
//! Bytes of a peer are checked three times: the flatbuffers of their metadata by
//! that library's verifier, every length and type in them by `check`, so that
//! `arrow-ipc` has nothing to panic at, and the arrays by `arrow-ipc` itself, or
//! by `texts`.

#[cfg(feature = "arrow-c-data")]
pub mod c_data;
mod cells;
mod check;
mod memory;
mod schemas;
mod table;
mod texts;
mod writer;

use std::collections::HashMap;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_buffer::Buffer;
use arrow_ipc::MessageHeader;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_schema::{ArrowError, SchemaRef};
use serde::de::Error as _;

pub use arrow_array;
pub use arrow_buffer;
pub use arrow_schema;
pub use cells::{Cell, Cells, TableReader, TableRow};
pub use memory::MessageMemory;
pub use table::TableWriter;
pub use writer::ColumnWriter;

use crate::{Error, Result};

/// Maximum number of rows in a message. Some types need no bytes per row, so the
/// length of a message does not limit them.
pub const MAX_ROWS: usize = 1 << 24;

/// What a record batch begins with, on the wire: a mark, and the length of the
/// metadata.
const PREFIX: usize = 8;

/// Appends a record batch to `buffer` as an Arrow IPC stream.
///
/// # Errors
/// [`Error::Encode`] when the batch has more than [`MAX_ROWS`] rows or a type
/// that cannot be sent; `buffer` then keeps its former length.
pub fn encode(buffer: &mut Vec<u8>, batch: &RecordBatch) -> Result<()> {
    let start = buffer.len();
    check::can_send(batch).and_then(|()| schemas::write(buffer, batch).map_err(|error| error.to_string())).map_err(
        |text| {
            buffer.truncate(start);
            Error::Encode { what: "the record batch", source: serde_json::Error::custom(text) }
        },
    )
}

/// What a part of a long batch has, in bytes: the buffers of messages of this
/// length are [kept](crate::buffer::KEEP) from one to the next.
const PART: usize = 3 << 19;

/// Splits a batch so that each part is about as long as is sent fastest, and
/// shorter than `max` bytes unless its rows differ much in length. There is one
/// part at least.
pub fn parts(batch: &RecordBatch, max: usize) -> impl Iterator<Item = RecordBatch> + use<'_> {
    let length = |column: &dyn Array| column.to_data().get_slice_memory_size().unwrap_or(0);
    let bytes: usize = batch.columns().iter().map(|column| length(column)).sum();
    let rows = batch.num_rows();
    // Half of the rest is for what the columns are not, such as dictionaries.
    let count = bytes.div_ceil(PART.min(max / 2).max(1)).max(rows.div_ceil(MAX_ROWS)).clamp(1, rows.max(1));
    let step = rows.div_ceil(count).max(1);
    (0..rows.max(1)).step_by(step).map(move |from| batch.slice(from, step.min(rows - from)))
}

/// Decodes an Arrow IPC stream with one record batch. The arrays share the
/// memory of `stream` where that is aligned as they need it.
///
/// # Errors
/// [`Error::Message`] when the bytes are no such stream, or hold more than
/// [`MAX_ROWS`] rows or types that are not supported.
pub fn decode(stream: &Buffer) -> Result<RecordBatch> {
    read(stream).map_err(|text| Error::Message { what: "the record batch", source: serde_json::Error::custom(text) })
}

fn read(stream: &Buffer) -> Result<RecordBatch, String> {
    let aligned;
    let stream = if stream.as_ptr().addr().is_multiple_of(PREFIX) {
        stream
    } else {
        aligned = Buffer::from(stream.as_slice());
        &aligned
    };
    let mut schema: Option<SchemaRef> = None;
    let mut dictionaries = HashMap::new();
    let mut batch = None;
    let mut at = 0;
    while let Some(part) = Part::next(stream, &mut at)? {
        if schema.is_none()
            && let Some(known) = schemas::known(&part.metadata)
        {
            schema = Some(known);
            continue;
        }
        let message = arrow_ipc::root_as_message(&part.metadata).map_err(|error| error.to_string())?;
        let body = part.body(stream, &mut at, message.bodyLength())?;
        let version = message.version();
        match message.header_type() {
            MessageHeader::Schema if schema.is_none() => {
                let found = message.header_as_schema().ok_or("its schema is missing")?;
                schema = Some(schemas::read(&part.metadata, found, body.is_empty())?);
            }
            MessageHeader::DictionaryBatch if batch.is_none() => {
                let schema = schema.as_ref().ok_or("a dictionary stands before the schema")?;
                let found = message.header_as_dictionary_batch().ok_or("a dictionary is missing")?;
                check::dictionary(&found, schema, body.len())?;
                read_dictionary(&body, found, schema, &mut dictionaries, &version)
                    .map_err(|error| error.to_string())?;
            }
            MessageHeader::RecordBatch if batch.is_none() => {
                let schema = schema.clone().ok_or("a batch stands before the schema")?;
                let found = message.header_as_record_batch().ok_or("its batch is missing")?;
                check::record_batch(&found, schema.fields(), body.len())?;
                let texts = texts::read(&found, schema.fields(), &body);
                let decoder = RecordBatchDecoder::try_new(&body, found, schema.clone(), &dictionaries, &version);
                let read = decoder.and_then(|decoder| match texts {
                    None => decoder.read_record_batch(),
                    Some(texts) => with_texts(decoder, &schema, texts),
                });
                batch = Some(read.map_err(|error| error.to_string())?);
            }
            MessageHeader::RecordBatch => return Err("it has more than one batch".into()),
            other => return Err(format!("it has a part out of place: {other:?}")),
        }
    }
    batch.ok_or_else(|| "it has no batch".into())
}

/// Reads the columns of a batch that are no texts, and puts the texts among them.
fn with_texts(
    decoder: RecordBatchDecoder<'_>,
    schema: &SchemaRef,
    texts: Vec<Option<ArrayRef>>,
) -> Result<RecordBatch, ArrowError> {
    let places: Vec<usize> = texts.iter().enumerate().filter(|(_, text)| text.is_none()).map(|(at, _)| at).collect();
    let others = decoder.with_projection(Some(&places)).read_record_batch()?;
    let mut others_in_order = others.columns().iter().cloned();
    let columns = texts.into_iter().filter_map(|text| text.or_else(|| others_in_order.next())).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(others.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// One part of a stream.
struct Part {
    metadata: Buffer,
}

impl Part {
    /// Returns the part that begins at `at`; `None` at the stream's end.
    fn next(stream: &Buffer, at: &mut usize) -> Result<Option<Self>, String> {
        let rest = &stream[*at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let prefix = rest.first_chunk::<PREFIX>().ok_or("it is cut off")?;
        let [a, b, c, d, length @ ..] = *prefix;
        if [a, b, c, d] != crate::message::COLUMNS_MARK {
            return Err("it is no Arrow IPC stream".into());
        }
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            return if rest.len() == PREFIX { Ok(None) } else { Err("bytes follow its end".into()) };
        }
        // What follows stays aligned.
        if !length.is_multiple_of(PREFIX) || length > rest.len() - PREFIX {
            return Err("the length of its metadata is wrong".into());
        }
        let metadata = stream.slice_with_length(*at + PREFIX, length);
        *at += PREFIX + length;
        Ok(Some(Self { metadata }))
    }

    /// Returns the bytes that follow the metadata.
    fn body(&self, stream: &Buffer, at: &mut usize, length: i64) -> Result<Buffer, String> {
        let length = usize::try_from(length).ok().filter(|length| *length <= stream.len() - *at);
        let length = length.ok_or("the length of its body is wrong")?;
        let body = stream.slice_with_length(*at, length);
        *at += length;
        Ok(body)
    }
}

#[cfg(test)]
mod tests;
