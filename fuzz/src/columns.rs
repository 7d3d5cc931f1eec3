//! Columns: an Arrow IPC stream of a peer.

use ekuiper_core::codec::Format;
use ekuiper_core::columns::arrow_buffer::Buffer;
use ekuiper_core::columns::{MAX_ROWS, TableReader, TableWriter, decode, encode};
use serde_json::{Map, Value};

/// Rows of a batch that are read, of those that there may be.
const READ: usize = 1000;

/// A batch that is accepted can be read as rows, and is the same when it is sent
/// on.
pub fn columns(data: &[u8]) {
    let Ok(batch) = decode(&Buffer::from(data)) else { return };
    assert!(batch.num_rows() <= MAX_ROWS);
    let mut written = Vec::new();
    encode(&mut written, &batch).unwrap();
    let again = decode(&Buffer::from_vec(written)).unwrap();
    assert_eq!((again.num_rows(), again.schema().fields().len()), (batch.num_rows(), batch.num_columns()));
    let (Ok(rows), Ok(rows_again)) = (TableReader::new(&batch), TableReader::new(&again)) else { return };
    let mut table = TableWriter::new();
    for row in 0..batch.num_rows().min(READ) {
        let read = rows.row(row).read::<Map<String, Value>>();
        if let (Ok(one), Ok(two)) = (&read, rows_again.row(row).read::<Map<String, Value>>()) {
            assert_eq!(*one, two);
        }
        // NaN has no place in it.
        let _ = Format::MessagePack.encode(&mut Vec::new(), &rows.row(row));
        let _ = read.map(|read| table.push(&read));
    }
}
