use std::ptr::{null, null_mut};
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::*;
use arrow_schema::Schema;

use super::*;
use crate::Chain;

fn examples() -> Vec<ArrayRef> {
    let numbers = || Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef;
    let texts = Arc::new(StringArray::from(vec![Some("a"), None, Some("a text of more than twelve bytes")]));
    vec![
        numbers(),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        texts.clone(),
        Arc::new(LargeStringArray::from_iter(texts.iter())),
        Arc::new(StringViewArray::from_iter(texts.iter())),
        Arc::new(BinaryArray::from_iter(texts.iter())),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])])),
        Arc::new(StructArray::from(
            RecordBatch::try_from_iter_with_nullable([("n", numbers(), true), ("t", texts, true)]).unwrap(),
        )),
        Arc::new(["a", "b", "a"].into_iter().collect::<DictionaryArray<Int32Type>>()),
        Arc::new(NullArray::new(3)),
        Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC")),
        Arc::new(Decimal128Array::from(vec![Some(1), None, Some(3)])),
    ]
}

fn imported(array: FFI_ArrowArray, schema: &FFI_ArrowSchema) -> Result<ArrayRef, String> {
    // SAFETY: where the tests lie, it is in what is checked.
    unsafe { import(array, schema) }.map_err(|error| Chain(&error).to_string())
}

#[test]
fn arrays_and_their_slices_come_back() {
    for array in examples() {
        for (from, length) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
            let slice = array.slice(from, length);
            let (exported, schema) = export(&slice).unwrap();
            assert_eq!(&imported(exported, &schema).unwrap(), &slice);
        }
    }
}

/// A change of an array.
type Change = fn(&mut FFI_ArrowArray);

#[test]
fn arrays_that_contradict_themselves_are_errors() {
    let changes: [(Change, &str); 11] = [
        (|array| array.length = -1, "it has -1 values"),
        (|array| array.length = i64::MAX, "it has 9223372036854775807 values"),
        (|array| array.offset = -1, "values from -1 on"),
        (|array| array.offset = i64::MAX, "values from 9223372036854775807 on"),
        (|array| array.null_count = 4, "of its 3 values 4 are null"),
        (|array| array.null_count = -2, "of its 3 values -2 are null"),
        (|array| array.n_buffers += 1 << 20, " buffers"),
        (|array| array.n_buffers = -1, "-1 buffers"),
        (|array| array.n_children += 1, "children"),
        (|array| array.n_children = -1, "-1 children"),
        (|array| array.release = None, "it was released already"),
    ];
    for array in examples() {
        for (change, expected) in &changes {
            let (mut exported, schema) = export(&array).unwrap();
            let release = exported.release;
            change(&mut exported);
            let taken = exported.release.is_none().then(|| {
                // SAFETY: a copy that is released in its place.
                let mut copy = unsafe { std::ptr::read(&exported) };
                copy.release = release;
                copy
            });
            let error = imported(exported, &schema).unwrap_err();
            assert!(error.contains(expected), "{}: {error}", array.data_type());
            drop(taken);
        }
    }
}

#[test]
fn pointers_that_are_missing_are_errors() {
    for array in examples() {
        let (mut exported, schema) = export(&array).unwrap();
        let buffers = exported.n_buffers;
        exported.buffers = null_mut();
        assert_eq!(imported(exported, &schema).is_err(), buffers > 0, "{}", array.data_type());
        let (mut exported, schema) = export(&array).unwrap();
        let children = exported.n_children;
        exported.children = null_mut();
        assert_eq!(imported(exported, &schema).is_err(), children > 0, "{}", array.data_type());
        let (mut exported, schema) = export(&array).unwrap();
        let is_dictionary = !exported.dictionary.is_null();
        exported.dictionary = null_mut();
        assert_eq!(imported(exported, &schema).is_err(), is_dictionary, "{}", array.data_type());
        if buffers > 1 {
            let (exported, schema) = export(&array).unwrap();
            // SAFETY: there are so many buffers.
            unsafe { *exported.buffers.add(1) = null() };
            assert!(imported(exported, &schema).unwrap_err().contains("buffer 1 is missing"));
        }
    }
}

/// A change of a schema.
type SchemaChange = fn(&mut FFI_ArrowSchema);

#[test]
fn schemas_that_contradict_themselves_are_errors() {
    let changes: [(SchemaChange, &str); 5] = [
        (|schema| schema.format = null(), "its schema has no format"),
        (|schema| schema.format = c"\xff".as_ptr(), "no UTF-8"),
        (|schema| schema.format = c"+us:0".as_ptr(), "is not supported"),
        (|schema| schema.format = c"tss".as_ptr(), ""),
        (|schema| schema.n_children = -1, "-1 children"),
    ];
    for array in examples() {
        for (change, expected) in &changes {
            let (exported, schema) = export(&array).unwrap();
            // SAFETY: a copy, which is not released.
            let mut changed = std::mem::ManuallyDrop::new(unsafe { std::ptr::read(&schema) });
            change(&mut changed);
            let error = imported(exported, &changed).unwrap_err();
            assert!(error.contains(expected), "{}: {error}", array.data_type());
        }
    }
    let (exported, mut schema) = export(&examples()[0]).unwrap();
    let release = schema.release.take();
    assert!(imported(exported, &schema).unwrap_err().contains("its schema was released already"));
    schema.release = release;
}

#[test]
fn a_type_that_is_nested_without_end_is_an_error() {
    let mut schema = FFI_ArrowSchema::try_new("i", Vec::new(), None).unwrap();
    for _ in 0..100 {
        schema = FFI_ArrowSchema::try_new("+l", vec![schema], None).unwrap();
    }
    let schema = std::mem::ManuallyDrop::new(schema);
    let (exported, _schema) = export(&examples()[0]).unwrap();
    assert!(imported(exported, &schema).unwrap_err().contains("nested deeper than 64 levels"));
}

#[test]
fn a_stream_gives_its_arrays_and_its_error() {
    let batch = RecordBatch::try_from_iter([("n", examples().remove(0))]).unwrap();
    let batches = |broken: bool| {
        let error = Err(arrow_schema::ArrowError::ComputeError("the reader broke".into()));
        let batches = [Ok(batch.clone()), Ok(batch.clone())].into_iter().chain(broken.then_some(error));
        let schema: Arc<Schema> = batch.schema();
        let reader = RecordBatchIterator::new(batches.collect::<Vec<_>>(), schema);
        // SAFETY: a stream of `arrow-array`.
        unsafe { Stream::new(FFI_ArrowArrayStream::new(Box::new(reader))) }.unwrap()
    };
    let read: Vec<_> = batches(false).map(|array| array.unwrap().len()).collect();
    assert_eq!(read, [3, 3]);
    let mut broken = batches(true);
    assert!(broken.by_ref().take(2).all(|array| array.is_ok()));
    let error = broken.next().unwrap().unwrap_err();
    assert!(Chain(&error).to_string().contains("the reader broke"));
    assert!(broken.next().is_none());
    // SAFETY: a stream that is released.
    let error = unsafe { Stream::new(FFI_ArrowArrayStream::empty()) }.unwrap_err();
    assert!(Chain(&error).to_string().contains("it was released already"));
}
