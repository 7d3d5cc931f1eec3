//! Both codecs carry the same values, and refuse the same.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Bytes, Codec, Format, Json, MessagePack, Reader};

const BOTH: [Format; 2] = [Format::Json, Format::MessagePack];

/// Any value that a message can hold.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            prop::collection::btree_map(".{0,20}", inner, 0..20)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What plugins' records are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    text: String,
    small: Option<u8>,
    number: f64,
    single: f32,
    list: Vec<(i32, char)>,
    map: BTreeMap<String, i64>,
    kind: Kind,
    bytes: Bytes,
    unit: (),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    One(String),
    Two(i8, bool),
    Named { field: u16 },
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Plain),
        ".{0,9}".prop_map(Kind::One),
        any::<(i8, bool)>().prop_map(|(number, truth)| Kind::Two(number, truth)),
        any::<u16>().prop_map(|field| Kind::Named { field }),
    ]
}

prop_compose! {
    fn any_record()(
        text in ".{0,50}",
        small in any::<Option<u8>>(),
        number in any::<f64>().prop_filter("finite", |number| number.is_finite()),
        single in any::<f32>().prop_filter("finite", |number| number.is_finite()),
        list in prop::collection::vec(any::<(i32, char)>(), 0..20),
        map in prop::collection::btree_map(".{0,9}", any::<i64>(), 0..20),
        kind in any_kind(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) -> Record {
        Record { text, small, number, single, list, map, kind, bytes: Bytes(bytes), unit: () }
    }
}

fn encoded(format: Format, value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    let mut buffer = Vec::new();
    format.encode(&mut buffer, value).unwrap();
    buffer
}

proptest! {
    #[test]
    fn any_value_is_the_same_in_both(value in any_value()) {
        for format in BOTH {
            let bytes = encoded(format, &value);
            prop_assert_eq!(&format.decode::<Value>(&bytes).unwrap(), &value);
            prop_assert_eq!(format.length(&bytes).unwrap(), bytes.len());
        }
    }

    #[test]
    fn a_record_is_the_same_in_both(record in any_record()) {
        for format in BOTH {
            let bytes = encoded(format, &record);
            prop_assert_eq!(&format.decode::<Record>(&bytes).unwrap(), &record);
            prop_assert!(format.decode::<Record>(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_list_is_read_element_by_element(values in prop::collection::vec(any_value(), 0..20)) {
        for format in BOTH {
            let mut bytes = encoded(format, &values);
            bytes.extend_from_slice(b" more");
            let mut reader = Reader::new(format, &bytes);
            let mut array = reader.array().unwrap();
            let mut read = Vec::new();
            while reader.has_next(&mut array).unwrap() {
                let raw = reader.clone().raw().unwrap();
                let value = reader.value::<Value>().unwrap();
                prop_assert_eq!(&format.decode::<Value>(raw).unwrap(), &value);
                read.push(value);
            }
            prop_assert_eq!(&read, &values);
            prop_assert_eq!(reader.rest(), b" more");
        }
    }

    #[test]
    fn no_bytes_are_trouble(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in BOTH {
            if let Ok(length) = format.length(&bytes) {
                prop_assert!(length <= bytes.len());
            }
            let _ = format.decode::<Value>(&bytes);
            let _ = format.decode::<Record>(&bytes);
            let mut reader = Reader::new(format, &bytes);
            if let Ok(mut array) = reader.array() {
                while let Ok(true) = reader.has_next(&mut array) {
                    if reader.raw().is_err() {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn fault_17_what_is_no_number_is_an_error_in_both() {
    for format in BOTH {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut buffer = b"before".to_vec();
            let error = format.encode(&mut buffer, &json_like(value)).unwrap_err().to_string();
            assert!(error.contains("is not a number that a message can hold"), "{error}");
            assert_eq!(buffer, b"before");
        }
    }
}

fn json_like(value: f64) -> BTreeMap<&'static str, Vec<Option<f64>>> {
    BTreeMap::from([("a", vec![Some(1.0), None, Some(value)])])
}

#[test]
fn bytes_are_bytes_or_base64_text() {
    let bytes = Bytes(vec![0, 1, 254, 255]);
    assert_eq!(encoded(Format::Json, &bytes), b"\"AAH+/w==\"");
    assert_eq!(encoded(Format::MessagePack, &bytes), [0xc4, 4, 0, 1, 254, 255]);
    assert!(Format::Json.decode::<Bytes>(b"\"no base64\"").is_err());
    assert_eq!(Format::Json.decode::<Bytes>(b"[1,2]").unwrap(), Bytes(vec![1, 2]));
}

#[test]
fn a_map_names_its_fields_in_both() {
    #[derive(Serialize)]
    struct Point {
        x: u8,
    }
    assert_eq!(encoded(Format::Json, &Point { x: 7 }), b"{\"x\":7}");
    assert_eq!(encoded(Format::MessagePack, &Point { x: 7 }), b"\x81\xa1x\x07");
}

#[test]
fn what_is_nested_too_deep_is_an_error_and_no_overflow() {
    for format in BOTH {
        let nested = |depth: usize| (0..depth).fold(json!(1), |value, _| json!([value]));
        let bytes = encoded(format, &nested(100));
        assert_eq!(format.decode::<Value>(&bytes).unwrap(), nested(100));
        let deep = match format {
            Format::Json => [vec![b'['; 100_000], vec![b']'; 100_000]].concat(),
            Format::MessagePack => [vec![0x91; 100_000], vec![0xc0]].concat(),
        };
        assert!(format.decode::<Value>(&deep).is_err());
    }
}

#[test]
fn claims_of_length_cost_nothing() {
    for bytes in
        [&b"\xdd\xff\xff\xff\xff"[..], b"\xdf\xff\xff\xff\xff\x01", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffx"]
    {
        assert!(MessagePack::length(bytes).is_err());
        assert!(Format::MessagePack.decode::<Value>(bytes).is_err());
    }
    assert!(Json::length(b"[1,").is_err());
}

#[test]
fn raw_json_is_no_messagepack() {
    let raw = serde_json::value::RawValue::from_string("[1]".into()).unwrap();
    let mut buffer = Vec::new();
    assert!(Format::MessagePack.encode(&mut buffer, &raw).unwrap_err().to_string().contains("RawValue"));
    assert_eq!(encoded(Format::Json, &raw), b"[1]");
}

#[test]
fn formats_are_known_by_name() {
    for format in BOTH {
        assert_eq!(Format::by_name(format.name()), Some(format));
    }
    assert_eq!(Format::by_name("yaml"), None);
}
