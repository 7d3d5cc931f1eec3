//! The schema of the latest batch of a thread, encoded and decoded: each message
//! has one, and it is the same from message to message.

use std::cell::RefCell;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, SchemaRef};

use super::check;

/// Maximum length of a schema that is kept, in bytes.
const MAX_KEPT: usize = 4 << 10;

/// What a stream ends with.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

thread_local! {
    static WRITTEN: RefCell<Option<Writer>> = const { RefCell::new(None) };
    static READ: RefCell<Option<(Vec<u8>, SchemaRef)>> = const { RefCell::new(None) };
}

/// A stream whose schema is written.
struct Writer {
    schema: SchemaRef,
    /// The schema, as a stream begins with it.
    head: Vec<u8>,
    writer: StreamWriter<Vec<u8>>,
}

impl Writer {
    fn new(schema: &SchemaRef) -> Result<Self, ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
        Ok(Self { schema: schema.clone(), head: std::mem::take(writer.get_mut()), writer })
    }

    fn is_of(&self, schema: &SchemaRef) -> bool {
        Arc::ptr_eq(&self.schema, schema) || self.schema == *schema
    }

    /// Appends a stream with the batch, of this schema, to `buffer`.
    fn write(&mut self, buffer: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), ArrowError> {
        buffer.extend_from_slice(&self.head);
        std::mem::swap(self.writer.get_mut(), buffer);
        let written = self.writer.write(batch);
        std::mem::swap(self.writer.get_mut(), buffer);
        buffer.extend_from_slice(&END);
        written
    }
}

/// Appends a batch to `buffer` as a stream.
pub(super) fn write(buffer: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), ArrowError> {
    let schema = batch.schema_ref();
    let mut writer = match WRITTEN.take().filter(|writer| writer.is_of(schema)) {
        Some(writer) => writer,
        None => Writer::new(schema)?,
    };
    writer.write(buffer, batch)?;
    // A writer sends a dictionary once.
    let is_plain = schema.fields().iter().all(|field| is_plain(field.data_type()));
    WRITTEN.set(Some(writer).filter(|writer| is_plain && writer.head.len() <= MAX_KEPT));
    Ok(())
}

/// Whether a column of this type has no dictionary.
fn is_plain(data_type: &DataType) -> bool {
    !data_type.is_nested() && !matches!(data_type, DataType::Dictionary(..))
}

/// Returns the schema in the metadata of a message, if it is that of the message
/// before.
pub(super) fn known(metadata: &[u8]) -> Option<SchemaRef> {
    READ.with_borrow(|read| {
        let (known, schema) = read.as_ref()?;
        (known == metadata).then(|| schema.clone())
    })
}

/// Reads the schema in the metadata of a message, and keeps it if `is_whole`:
/// no bytes beside the metadata are part of it.
pub(super) fn read(metadata: &[u8], found: arrow_ipc::Schema<'_>, is_whole: bool) -> Result<SchemaRef, String> {
    check::schema(&found)?;
    let schema = Arc::new(fb_to_schema(found));
    if is_whole && metadata.len() <= MAX_KEPT {
        READ.set(Some((metadata.to_vec(), schema.clone())));
    }
    Ok(schema)
}
