//! Columns of texts, checked at the speed of memory.
//!
//! `arrow-ipc` checks texts one by one, which costs more than all copies of a
//! message. Here the bytes of a column are checked as one text, and its offsets
//! in one pass. Whatever is not found to be right is left to `arrow-ipc`, whose
//! errors name the fault.
#![allow(unsafe_code, reason = "arrays of texts that were checked here")]

use std::sync::Arc;

use arrow_array::{ArrayRef, GenericStringArray, OffsetSizeTrait};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc as ipc;
use arrow_schema::{DataType, Fields};

/// The texts of a batch that `check` has found proper: for each of its columns
/// the array, if it is one of texts. `None`: `arrow-ipc` must check them.
pub(super) fn read(batch: &ipc::RecordBatch<'_>, fields: &Fields, body: &Buffer) -> Option<Vec<Option<ArrayRef>>> {
    if !fields.iter().any(|field| matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8)) {
        return None;
    }
    let mut nodes = batch.nodes()?.iter();
    let mut buffers = batch.buffers()?.iter();
    let mut next = || {
        let place = buffers.next()?;
        let (from, length) = (usize::try_from(place.offset()).ok()?, usize::try_from(place.length()).ok()?);
        (from.checked_add(length)? <= body.len()).then(|| body.slice_with_length(from, length))
    };
    let column = |field: &Arc<arrow_schema::Field>| {
        let node = nodes.next()?;
        let rows = usize::try_from(node.length()).ok()?;
        let nulls = usize::try_from(node.null_count()).ok()?;
        let mut texts = |make: fn(usize, usize, [Buffer; 3]) -> Option<ArrayRef>| {
            make(rows, nulls, [next()?, next()?, next()?]).map(Some)
        };
        match field.data_type() {
            DataType::Utf8 => texts(array::<i32>),
            DataType::LargeUtf8 => texts(array::<i64>),
            DataType::Binary | DataType::LargeBinary => (0..3).try_for_each(|_| next().map(drop)).map(|()| None),
            of if of.is_primitive() || *of == DataType::Boolean => {
                (next().is_some() && next().is_some()).then_some(None)
            }
            // Columns in columns, and those with other buffers.
            _ => None,
        }
    };
    fields.iter().map(column).collect()
}

/// Returns the array, if everything is right.
fn array<O: OffsetSizeTrait>(rows: usize, nulls: usize, [valid, offsets, values]: [Buffer; 3]) -> Option<ArrayRef> {
    let length = rows.checked_add(1)?.checked_mul(size_of::<O>()).filter(|_| rows > 0)?;
    if offsets.len() < length || !offsets.as_ptr().addr().is_multiple_of(align_of::<O>()) {
        return None;
    }
    let offsets = ScalarBuffer::<O>::new(offsets, 0, rows + 1);
    let nulls = match nulls {
        0 => None,
        nulls => {
            let valid = (valid.len() >= rows.div_ceil(8)).then(|| NullBuffer::new(BooleanBuffer::new(valid, 0, rows)));
            Some(valid.filter(|valid| valid.null_count() == nulls)?)
        }
    };
    // Not one by one until the first that is wrong: so several are compared at
    // once.
    let is_ordered = offsets.iter().zip(&offsets[1..]).fold(true, |is_ordered, (from, to)| is_ordered & (from <= to));
    let (first, last) = (*offsets.first()?, *offsets.last()?);
    if !is_ordered || first < O::default() || last.as_usize() > values.len() || !are_texts(&offsets, &values) {
        return None;
    }
    // SAFETY: the offsets, at least one, are not negative and do not decrease.
    let offsets = unsafe { OffsetBuffer::new_unchecked(offsets) };
    // SAFETY: the last offset is within the values. These are UTF-8 as a whole,
    // and each offset is at the boundary of a character, so what is between two
    // is UTF-8. There are as many nulls, if any, as texts. The memory is not
    // changed while the array exists: the buffers share its ownership.
    let array = unsafe { GenericStringArray::<O>::new_unchecked(offsets, values, nulls) };
    Some(Arc::new(array))
}

/// Whether the values, cut at the offsets, which are within them, are UTF-8.
fn are_texts<O: OffsetSizeTrait>(offsets: &[O], values: &[u8]) -> bool {
    // Each byte is a character.
    if values.is_ascii() {
        return true;
    }
    simdutf8::basic::from_utf8(values)
        .is_ok_and(|values| offsets.iter().all(|offset| values.is_char_boundary(offset.as_usize())))
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, BinaryArray, BooleanArray, Float64Array, LargeStringArray, RecordBatch, StringArray};
    use arrow_ipc::reader::StreamReader;

    use super::*;
    use crate::columns::{decode, encode};

    fn batch(texts: &[Option<&str>]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(BooleanArray::from(vec![true; texts.len()])),
            Arc::new(StringArray::from(texts.to_vec())),
            Arc::new(BinaryArray::from(vec![&b"\xff"[..]; texts.len()])),
            Arc::new(LargeStringArray::from(texts.to_vec())),
            Arc::new(Float64Array::from(vec![1.5; texts.len()])),
        ];
        let named = columns.into_iter().enumerate().map(|(at, column)| (format!("c{at}"), column, true));
        RecordBatch::try_from_iter_with_nullable(named).unwrap()
    }

    /// Whether the texts of a stream are read here.
    fn is_read_here(batch: &RecordBatch) -> bool {
        let texts = batch.column(1).to_data();
        let buffers = texts.buffers();
        let nulls = texts.nulls().map_or_else(|| Buffer::from(&[][..]), |nulls| nulls.inner().sliced());
        let count = texts.null_count();
        array::<i32>(batch.num_rows(), count, [nulls, buffers[0].clone(), buffers[1].clone()]).is_some()
    }

    #[test]
    fn texts_of_all_kinds_are_read_here() {
        for texts in [&["a", "bc", ""][..], &["ü", "日本", "𝄞x"], &["", ""]] {
            let some: Vec<_> = texts.iter().copied().map(Some).collect();
            let with_nulls: Vec<_> = some.iter().copied().chain([None, Some("z"), None]).collect();
            for texts in [some, with_nulls] {
                let batch = batch(&texts);
                assert!(is_read_here(&batch), "{texts:?}");
                for part in [batch.clone(), batch.slice(1, texts.len() - 1), batch.slice(0, 0)] {
                    let mut bytes = Vec::new();
                    encode(&mut bytes, &part).unwrap();
                    assert_eq!(decode(&Buffer::from_vec(bytes)).unwrap(), part, "{texts:?}");
                }
            }
        }
    }

    /// Whatever a byte becomes, what is accepted here is what `arrow-ipc` accepts
    /// when it checks everything.
    #[test]
    fn nothing_is_accepted_that_arrow_refuses() {
        let mut accepted = 0;
        for texts in [&[Some("ab"), Some("c"), Some("d")][..], &[Some("ü"), None, Some("日")]] {
            let mut bytes = Vec::new();
            encode(&mut bytes, &batch(texts)).unwrap();
            for place in 0..bytes.len() {
                for value in [0, 1, 2, 3, 0x7f, 0x80, 0xbc, 0xc3, 0xff, bytes[place].wrapping_add(1)] {
                    let mut bytes = bytes.clone();
                    bytes[place] = value;
                    let Ok(read) = decode(&Buffer::from_vec(bytes.clone())) else { continue };
                    for column in read.columns() {
                        column.to_data().validate_full().unwrap();
                    }
                    let theirs = StreamReader::try_new(&bytes[..], None).unwrap().next().unwrap().unwrap();
                    assert_eq!(read, theirs, "byte {place} is {value}");
                    accepted += 1;
                }
            }
        }
        assert!(accepted > 1000, "{accepted}");
    }

    #[test]
    fn offsets_that_are_wrong_are_left_to_arrow() {
        let values = Buffer::from("aüb".as_bytes());
        let read = |offsets: &[i32], rows: usize| {
            array::<i32>(rows, 0, [Buffer::from(&[][..]), Buffer::from_slice_ref(offsets), values.clone()]).is_some()
        };
        assert!(read(&[0, 1, 3, 4], 3) && read(&[1, 3, 3], 2) && read(&[4, 4], 1));
        assert!(!read(&[0, 2, 4], 2), "in the middle of a character");
        assert!(!read(&[0, 3, 1, 4], 3), "they decrease");
        assert!(!read(&[-1, 1], 1) && !read(&[0, 5], 1) && !read(&[0, 1], 2));
        let nulls = |count, valid: &[u8]| {
            let offsets = Buffer::from_slice_ref([0, 1, 3]);
            array::<i32>(2, count, [Buffer::from(valid), offsets, values.clone()]).is_some()
        };
        assert!(nulls(1, &[0b10]) && nulls(0, &[]));
        assert!(!nulls(1, &[0b11]) && !nulls(2, &[]));
    }
}
