use std::sync::Arc;

use arrow_array::builder::{MapBuilder, StringBuilder};
use arrow_array::types::{Int8Type, Int32Type};
use arrow_array::*;
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer, i256};
use arrow_schema::{DataType, Field, Fields, Schema};
use serde_json::{Value, json};

use super::*;
use crate::Chain;
use crate::codec::{Bytes, Format};

fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    let named = columns.into_iter().enumerate().map(|(at, column)| (format!("c{at}"), column, true));
    RecordBatch::try_from_iter_with_nullable(named).unwrap()
}

fn sent(batch: &RecordBatch) -> RecordBatch {
    let mut bytes = Vec::new();
    encode(&mut bytes, batch).unwrap();
    decode(&Buffer::from_vec(bytes)).unwrap()
}

#[track_caller]
fn refusal(bytes: Vec<u8>) -> String {
    Chain(&decode(&Buffer::from_vec(bytes)).unwrap_err()).to_string()
}

/// Sends a column, and returns its values as rows of JSON.
#[track_caller]
fn values(column: ArrayRef) -> Value {
    let one = batch(vec![column]);
    let two = sent(&one);
    assert_eq!(one, two);
    let cells = Cells::new(two.column(0)).unwrap();
    let rows = (0..two.num_rows()).map(|row| {
        // The two ways to read a value are one.
        let mut written = Vec::new();
        Format::Json.encode(&mut written, &cells.at(row)).unwrap();
        let read: Value = cells.at(row).read().unwrap();
        assert_eq!(Format::Json.decode::<Value>(&written).unwrap(), read);
        read
    });
    rows.collect()
}

#[test]
fn numbers_and_bools_of_each_width() {
    let nulls = || Some(NullBuffer::from(vec![true, false, true]));
    macro_rules! number {
        ($($type:ty)*) => {
            $(assert_eq!(values(Arc::new(<$type>::new(vec![1, 2, 3].into(), nulls()))), json!([1, null, 3]));)*
        };
    }
    number! { Int8Array Int16Array Int32Array Int64Array UInt8Array UInt16Array UInt32Array UInt64Array }
    assert_eq!(values(Arc::new(Float32Array::from(vec![Some(1.5), None]))), json!([1.5, null]));
    assert_eq!(values(Arc::new(Float64Array::from(vec![Some(1.5), None]))), json!([1.5, null]));
    let halves = [1.5, -0.25].map(half).into_iter().collect::<Float16Array>();
    assert_eq!(values(Arc::new(halves)), json!([1.5, -0.25]));
    assert_eq!(values(Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))), json!([true, null, false]));
    assert_eq!(values(Arc::new(NullArray::new(2))), json!([null, null]));
    assert_eq!(values(Arc::new(UInt64Array::from(vec![u64::MAX]))), json!([u64::MAX]));
}

fn half(value: f32) -> Option<<arrow_array::types::Float16Type as ArrowPrimitiveType>::Native> {
    Some(<arrow_array::types::Float16Type as ArrowPrimitiveType>::Native::from_f32(value))
}

#[test]
fn texts_and_bytes_in_each_layout() {
    let texts = vec![Some("a"), None, Some("ü, longer than twelve bytes")];
    let expected = json!(texts);
    assert_eq!(values(Arc::new(StringArray::from(texts.clone()))), expected);
    assert_eq!(values(Arc::new(LargeStringArray::from(texts.clone()))), expected);
    assert_eq!(values(Arc::new(StringViewArray::from(texts))), expected);
    let bytes: Vec<Option<&[u8]>> = vec![Some(&[0, 255]), None, Some(b"longer than twelve bytes")];
    let expected = json!(["AP8=", null, "bG9uZ2VyIHRoYW4gdHdlbHZlIGJ5dGVz"]);
    assert_eq!(values(Arc::new(BinaryArray::from(bytes.clone()))), expected);
    assert_eq!(values(Arc::new(LargeBinaryArray::from(bytes.clone()))), expected);
    assert_eq!(values(Arc::new(BinaryViewArray::from(bytes.clone()))), expected);
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([1, 2]), None].into_iter(), 2).unwrap();
    assert_eq!(values(Arc::new(fixed)), json!(["AQI=", null]));
    let column = BinaryArray::from(bytes);
    let cells = Cells::new(&column).unwrap();
    assert_eq!(cells.at(0).read::<Bytes>().unwrap(), Bytes(vec![0, 255]));
    assert_eq!(cells.at(1).read::<Option<Bytes>>().unwrap(), None);
}

#[test]
fn moments_are_the_integers_that_they_are() {
    macro_rules! moment {
        ($($type:ty)*) => { $(assert_eq!(values(Arc::new(<$type>::from(vec![Some(7), None]))), json!([7, null]));)* };
    }
    moment! {
        TimestampSecondArray TimestampMillisecondArray TimestampMicrosecondArray TimestampNanosecondArray
        Date32Array Date64Array Time32SecondArray Time32MillisecondArray Time64MicrosecondArray Time64NanosecondArray
        DurationSecondArray DurationMillisecondArray DurationMicrosecondArray DurationNanosecondArray
        IntervalYearMonthArray
    }
    let zoned = TimestampNanosecondArray::from(vec![7]).with_timezone("Europe/Berlin");
    assert_eq!(values(Arc::new(zoned)), json!([7]));
}

#[test]
fn decimals_keep_their_digits() {
    let scaled = Decimal128Array::from(vec![Some(1250), None]).with_precision_and_scale(10, 2).unwrap();
    assert_eq!(values(Arc::new(scaled)), json!(["12.50", null]));
    let long = i256::from_i128(i128::MAX).wrapping_mul(i256::from_i128(1 << 100));
    let wide = Decimal256Array::from(vec![long]).with_precision_and_scale(76, 0);
    assert_eq!(values(Arc::new(wide.unwrap())), json!([long.to_string()]));
    assert_eq!(values(Arc::new(Decimal32Array::from(vec![7]).with_precision_and_scale(3, 1).unwrap())), json!(["0.7"]));
    assert_eq!(values(Arc::new(Decimal64Array::from(vec![7]).with_precision_and_scale(3, 1).unwrap())), json!(["0.7"]));
}

#[test]
fn lists_structs_maps_and_dictionaries() {
    let list = vec![Some(vec![Some(1), None]), None, Some(vec![])];
    let expected = json!([[1, null], null, []]);
    assert_eq!(values(Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list.clone()))), expected);
    assert_eq!(values(Arc::new(LargeListArray::from_iter_primitive::<Int32Type, _, _>(list))), expected);
    let pairs = vec![Some(vec![Some(1), Some(2)]), None];
    let pairs = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(pairs, 2);
    assert_eq!(values(Arc::new(pairs)), json!([[1, 2], null]));
    let fields: Fields = vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)].into();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![1, 2])), Arc::new(StringArray::from(vec![Some("a"), None]))];
    let points = StructArray::new(fields, columns, Some(NullBuffer::from(vec![true, false])));
    assert_eq!(values(Arc::new(points)), json!([{ "x": 1, "y": "a" }, null]));
    assert_eq!(values(Arc::new(StructArray::new_empty_fields(2, None))), json!([{}, {}]));
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("k");
    map.values().append_value("v");
    map.append(true).unwrap();
    map.append(false).unwrap();
    assert_eq!(values(Arc::new(map.finish())), json!([{ "k": "v" }, null]));
    let texts: DictionaryArray<Int8Type> = vec![Some("a"), None, Some("b"), Some("a")].into_iter().collect();
    assert_eq!(values(Arc::new(texts)), json!(["a", null, "b", "a"]));
}

#[test]
fn parts_of_columns_are_sent_alone() {
    let all = batch(vec![
        Arc::new(Float64Array::from_iter_values((0..1000).map(f64::from))),
        Arc::new(StringArray::from_iter_values((0..1000).map(|row| row.to_string()))),
    ]);
    let part = all.slice(500, 10);
    let mut bytes = Vec::new();
    encode(&mut bytes, &part).unwrap();
    assert!(bytes.len() < 2000, "{}", bytes.len());
    assert_eq!(sent(&part), part);
}

#[test]
fn rows_without_columns_have_a_number() {
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(sent(&batch).num_rows(), 7);
}

#[test]
fn what_is_not_supported_is_named() {
    let run = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2]), &Int32Array::from(vec![7])).unwrap();
    let refused = |column: ArrayRef| Chain(&encode(&mut vec![], &batch(vec![column])).unwrap_err()).to_string();
    let text = refused(Arc::new(run));
    assert!(text.contains(r#"column "c0" has the type RunEndEncoded"#), "{text}");
    let field = Arc::new(Field::new("item", DataType::Int32, true));
    let (offsets, sizes) = (ScalarBuffer::from(vec![0]), ScalarBuffer::from(vec![1]));
    let view = ListViewArray::new(field, offsets, sizes, Arc::new(Int32Array::from(vec![7])), None);
    assert!(refused(Arc::new(view)).contains("which is not supported"));
    let many = RecordBatchOptions::new().with_row_count(Some(MAX_ROWS + 1));
    let many = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &many).unwrap();
    assert!(Chain(&encode(&mut vec![], &many).unwrap_err()).to_string().contains("and a message at most 16777216"));
    // Of other peers.
    let mut bytes = Vec::new();
    schemas::write(&mut bytes, &many).unwrap();
    assert!(refusal(bytes).contains("and a message at most 16777216"));
    let run = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2]), &Int32Array::from(vec![7])).unwrap();
    let mut bytes = Vec::new();
    schemas::write(&mut bytes, &batch(vec![Arc::new(run)])).unwrap();
    assert!(refusal(bytes).contains("has the type RunEndEncoded, which is not supported"));
}

#[test]
fn what_is_no_stream_is_refused() {
    let mut bytes = Vec::new();
    encode(&mut bytes, &batch(vec![Arc::new(StringViewArray::from(vec!["a"; 10]))])).unwrap();
    assert!(refusal(vec![]).contains("it has no batch"));
    assert!(refusal(b"{\"a\":1}  ".to_vec()).contains("it is no Arrow IPC stream"));
    assert!(refusal([&bytes[..], b"x"].concat()).contains("bytes follow its end"));
    let twice = [&bytes[..bytes.len() - 8], &bytes].concat();
    assert!(refusal(twice).contains("it has a part out of place: Schema"));
    for cut in 0..bytes.len() - 8 {
        assert!(decode(&Buffer::from_vec(bytes[..cut].to_vec())).is_err(), "cut at {cut}");
    }
}

/// Whatever a byte becomes: an error, or another batch, whose values can be read.
#[test]
fn no_byte_makes_it_panic() {
    let texts: DictionaryArray<Int8Type> = vec![Some("a"), None, Some("b")].into_iter().collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float64Array::from(vec![Some(1.0), None, Some(2.0)])),
        Arc::new(StringArray::from(vec![Some("a"), None, Some("bc")])),
        Arc::new(StringViewArray::from(vec![Some("a"), None, Some("longer than twelve bytes")])),
        Arc::new(texts),
        Arc::new(ListArray::new(
            Arc::new(Field::new("item", DataType::Int32, true)),
            OffsetBuffer::new(vec![0, 1, 2, 3].into()),
            Arc::new(Int32Array::from(vec![1, 2, 3])),
            None,
        )),
        Arc::new(Decimal128Array::from(vec![1, 2, 3])),
    ];
    let mut bytes = Vec::new();
    encode(&mut bytes, &batch(columns)).unwrap();
    for place in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, bytes[place].wrapping_add(1)] {
            let mut bytes = bytes.clone();
            bytes[place] = value;
            let Ok(read) = decode(&Buffer::from_vec(bytes)) else { continue };
            for column in read.columns() {
                let Ok(cells) = Cells::new(column) else { continue };
                (0..read.num_rows()).for_each(|row| drop(cells.at(row).read::<Value>()));
            }
        }
    }
}

/// The schemas of a thread's messages change, also to one that is refused.
#[test]
fn each_message_has_its_own_schema() {
    let number: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let keys: DictionaryArray<Int8Type> = vec![Some("a")].into_iter().collect();
    let one = |name: &str, column: &ArrayRef| RecordBatch::try_from_iter([(name, column.clone())]).unwrap();
    let long = "x".repeat(8000);
    let dictionary: ArrayRef = Arc::new(keys);
    let batches = [one("a", &number), one("b", &number), one("a", &dictionary), one(&long, &number)];
    for at in [0, 0, 1, 0, 2, 2, 3, 3, 0, 2, 1, 1] {
        assert_eq!(sent(&batches[at]), batches[at], "{at}");
    }
    let mut bytes = Vec::new();
    encode(&mut bytes, &batches[0]).unwrap();
    let name = bytes.windows(4).position(|bytes| bytes == b"a\0\0\0").unwrap();
    bytes[name] = 0xff;
    refusal(bytes);
    assert_eq!(sent(&batches[0]), batches[0]);
}

#[test]
fn misaligned_bytes_are_read_too() {
    let one = batch(vec![Arc::new(Decimal128Array::from(vec![1, 2, 3])), Arc::new(Float64Array::from(vec![1.0; 3]))]);
    for shift in 0..9 {
        let mut bytes = vec![0; shift];
        let mut stream = Vec::new();
        encode(&mut stream, &one).unwrap();
        bytes.append(&mut stream);
        assert_eq!(decode(&Buffer::from_vec(bytes).slice(shift)).unwrap(), one, "shifted by {shift}");
    }
}

fn column(values: &[Value]) -> Result<ArrayRef, String> {
    let mut writer = ColumnWriter::default();
    values.iter().try_for_each(|value| writer.push(value)).map_err(|error| error.to_string())?;
    assert_eq!(writer.len(), values.len());
    Ok(writer.finish())
}

#[test]
fn values_become_columns() {
    let float: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(1.0), Some(2.5)]));
    assert_eq!(&column(&[json!(null), json!(1), json!(2.5)]).unwrap(), &float);
    let int: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    assert_eq!(&column(&[json!(1), json!(null)]).unwrap(), &int);
    let text: ArrayRef = Arc::new(StringArray::from(vec![None, Some("a"), Some("")]));
    assert_eq!(&column(&[json!(null), json!("a"), json!("")]).unwrap(), &text);
    let bool: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None]));
    assert_eq!(&column(&[json!(true), json!(null)]).unwrap(), &bool);
    let nulls: ArrayRef = Arc::new(NullArray::new(2));
    assert_eq!(&column(&[json!(null), json!(null)]).unwrap(), &nulls);
    let mut bytes = ColumnWriter::default();
    bytes.push(&Bytes(vec![1, 2])).unwrap();
    let expected: ArrayRef = Arc::new(BinaryArray::from(vec![&[1u8, 2][..]]));
    assert_eq!(&bytes.finish(), &expected);
    assert_eq!(column(&[json!(1), json!("a")]).unwrap_err(), "a text in a column of integers");
    assert_eq!(column(&[json!("a"), json!(1.5)]).unwrap_err(), "the number 1.5 in a column of texts");
    assert_eq!(column(&[json!([1])]).unwrap_err(), "a list cannot be a value of a column that is made of rows");
    assert!(column(&[json!(u64::MAX)]).unwrap_err().contains("18446744073709551615"));
}

#[test]
fn a_described_column_keeps_its_type() {
    use crate::description::DataType as Described;
    let empty = |described: Described| ColumnWriter::new(Some(&described), 4).finish().data_type().clone();
    assert_eq!(empty(Described::Float.nullable()), DataType::Float64);
    assert_eq!(empty(Described::Int), DataType::Int64);
    assert_eq!(empty(Described::String), DataType::Utf8);
    assert_eq!(empty(Described::Bytes), DataType::Binary);
    assert_eq!(empty(Described::Bool), DataType::Boolean);
    assert_eq!(empty(Described::Any), DataType::Null);
    let mut int = ColumnWriter::new(Some(&Described::Int), 1);
    assert_eq!(int.push(&1.5).unwrap_err().to_string(), "the number 1.5 in a column of integers");
}

#[test]
fn values_become_columns_of_a_wanted_type() {
    let of = |values: &[Value], wanted: &DataType| {
        let mut writer = ColumnWriter::default();
        values.iter().for_each(|value| writer.push(value).unwrap());
        writer.finish_as(wanted).map_err(|error| Chain(&error).to_string())
    };
    let short: ArrayRef = Arc::new(Int8Array::from(vec![Some(1), None]));
    assert_eq!(&of(&[json!(1), json!(null)], &DataType::Int8).unwrap(), &short);
    assert_eq!(
        of(&[json!(300)], &DataType::Int8).unwrap_err(),
        "cannot encode a column: the integer 300 cannot be a Int8"
    );
    let float: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None]));
    assert_eq!(&of(&[json!(1), json!(null)], &DataType::Float32).unwrap(), &float);
    let view: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
    assert_eq!(&of(&[json!("a"), json!(null)], &DataType::Utf8View).unwrap(), &view);
    let nulls: ArrayRef = Arc::new(Date32Array::from(vec![None, None]));
    assert_eq!(&of(&[json!(null), json!(null)], &DataType::Date32).unwrap(), &nulls);
    assert_eq!(
        of(&[json!("a")], &DataType::Int32).unwrap_err(),
        "cannot encode a column: texts cannot be a column of Int32"
    );
}
