//! Tests that both codecs carry the same values, and refuse the same ones.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use proptest::prelude::*;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Adapted, Bytes, Codec, Format, Json, MessagePack, Reader};

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

/// A record with fields of the types that plugins use.
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

/// The value at the beginning of `bytes` as `rmp-serde` reads it, and its
/// length.
fn by_rmp_serde<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    let length = MessagePack::length(bytes).ok()?;
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(&bytes[..length]).with_human_readable();
    deserializer.set_max_depth(128);
    Some((T::deserialize(Adapted::new(&mut deserializer)).ok()?, length))
}

/// Bytes that may be MessagePack: values, some with a few other bytes in them,
/// and bytes most of which are markers.
fn nearly_messagepack() -> impl Strategy<Value = Vec<u8>> {
    let values = prop_oneof![
        any_value().prop_map(|value| encoded(Format::MessagePack, &value)),
        any_record().prop_map(|record| encoded(Format::MessagePack, &record)),
    ];
    let damaged = (values, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4));
    let damaged = damaged.prop_map(|(mut bytes, damage)| {
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    let marker = prop_oneof![0x80..=0x92u8, 0xa0..=0xa3u8, 0xc0..=0xdfu8, 0..=3u8, 0xfe..=0xffu8];
    prop_oneof![damaged, prop::collection::vec(marker, 0..60)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_rmp_serde_reads_is_read_alike(bytes in nearly_messagepack()) {
        macro_rules! assert_alike {
            ($($type:ty),*) => {
                $(
                    let read = MessagePack::read(&bytes, PhantomData::<$type>).ok();
                    prop_assert_eq!(format!("{:?}", read), format!("{:?}", by_rmp_serde::<$type>(&bytes)));
                )*
            };
        }
        assert_alike! {
            Value, Record, Kind, Option<Kind>, Bytes, Vec<u8>, [u8; 2], String, char, (), bool, u8, i64, f32, i128,
            u128, Vec<Option<Value>>, (Kind, Value), BTreeMap<String, Value>, BTreeMap<i64, Kind>,
            Option<Option<i8>>,
            IgnoredAny
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

/// A struct that asks for bytes in several forms.
#[derive(Debug, PartialEq, Deserialize)]
struct Asked {
    value: Value,
    text: String,
    bytes: Bytes,
    list: Vec<u8>,
    array: [u8; 3],
    maybe: Option<Vec<u8>>,
    nested: BTreeMap<String, Vec<Bytes>>,
    any: Vec<Value>,
    kind: Form,
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Form {
    One(Bytes),
    Two { bytes: Bytes },
}

#[test]
fn bytes_come_as_they_are_asked_for_wherever_they_stand() {
    let bytes = || Bytes(vec![0, 1, 255]);
    #[derive(Serialize)]
    struct Told {
        value: BTreeMap<&'static str, Vec<Bytes>>,
        text: Bytes,
        bytes: Bytes,
        list: Bytes,
        array: Bytes,
        maybe: Option<Bytes>,
        nested: BTreeMap<&'static str, Vec<Bytes>>,
        any: Vec<Bytes>,
        kind: Form,
        extra: Bytes,
        deep: Vec<BTreeMap<&'static str, Bytes>>,
    }
    let told = |kind| Told {
        value: [("a", vec![bytes()])].into(),
        text: bytes(),
        bytes: bytes(),
        list: bytes(),
        array: bytes(),
        maybe: Some(bytes()),
        nested: [("b", vec![bytes(), bytes()])].into(),
        any: vec![bytes()],
        kind,
        extra: bytes(),
        deep: vec![[("c", bytes())].into()],
    };
    for format in BOTH {
        for kind in [|| Form::One(Bytes(vec![0, 1, 255])), || Form::Two { bytes: Bytes(vec![0, 1, 255]) }] {
            let written = encoded(format, &told(kind()));
            let expected = Asked {
                value: json!({"a": ["AAH/"]}),
                text: "AAH/".into(),
                bytes: bytes(),
                list: bytes().0,
                array: [0, 1, 255],
                maybe: Some(bytes().0),
                nested: [("b".into(), vec![bytes(), bytes()])].into(),
                any: vec![json!("AAH/")],
                kind: kind(),
                more: [("extra".into(), json!("AAH/")), ("deep".into(), json!([{"c": "AAH/"}]))].into(),
            };
            assert_eq!(format.decode::<Asked>(&written).unwrap(), expected, "{format:?}");
            // A `Value` decoded by one codec is encoded by the other one.
            let value: Value = format.decode(&written).unwrap();
            for onward in BOTH {
                assert_eq!(
                    onward.decode::<Asked>(&encoded(onward, &value)).unwrap(),
                    expected,
                    "{format:?} {onward:?}"
                );
            }
        }
    }
}

#[test]
fn bytes_are_no_list_of_other_numbers() {
    for format in BOTH {
        let bytes = encoded(format, &Bytes(vec![1, 2, 3]));
        assert!(format.decode::<Vec<f64>>(&bytes).is_err());
        assert!(format.decode::<Vec<i64>>(&bytes).is_err());
        assert!(format.decode::<(u8, u8)>(&bytes).is_err());
        assert!(format.decode::<u32>(&bytes).is_err());
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Point(u8, u8, u8);
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Named {
            x: u8,
        }
        assert!(format.decode::<Point>(&bytes).is_ok());
        assert!(format.decode::<Named>(&encoded(format, &Bytes(vec![1]))).is_err());
        let text = encoded(format, "no base64!");
        let error = format.decode::<Vec<u8>>(&text).unwrap_err().to_string();
        assert!(error.contains("invalid type: string \"no base64!\", expected a sequence"), "{error}");
        let error = format.decode::<Bytes>(&text).unwrap_err().to_string();
        assert!(error.contains("expected bytes, got text that is not base64"), "{error}");
        // An empty value is bytes only if nothing but bytes was requested.
        for none in [encoded(format, &Bytes(vec![])), encoded(format, "")] {
            assert_eq!(format.decode::<Vec<u8>>(&none).unwrap(), Vec::<u8>::new());
            assert_eq!(format.decode::<Bytes>(&none).unwrap(), Bytes(vec![]));
            assert_eq!(format.decode::<Value>(&none).unwrap(), json!(""));
            assert!(format.decode::<Vec<f64>>(&none).is_err());
            assert!(format.decode::<Vec<String>>(&none).is_err());
            assert!(format.decode::<Vec<Value>>(&none).is_err());
            assert!(format.decode::<std::collections::BTreeSet<i8>>(&none).is_err());
        }
        // A list of numbers stays a list.
        let list = encoded(format, &vec![1u8, 2]);
        assert_eq!(format.decode::<Value>(&list).unwrap(), json!([1, 2]));
        assert_eq!(format.decode::<Bytes>(&list).unwrap(), Bytes(vec![1, 2]));
        assert_eq!(format.decode::<Vec<f64>>(&list).unwrap(), [1.0, 2.0]);
    }
}

#[test]
fn untagged_and_tagged_values_take_bytes_in_both() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Frame { data: Bytes },
    }
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(f64),
        Data(Bytes),
    }
    #[derive(Serialize)]
    struct Told {
        kind: &'static str,
        data: Bytes,
    }
    for format in BOTH {
        let written = encoded(format, &Told { kind: "Frame", data: Bytes(vec![7, 200]) });
        assert_eq!(format.decode::<Tagged>(&written).unwrap(), Tagged::Frame { data: Bytes(vec![7, 200]) });
        let written = encoded(format, &Bytes(vec![7, 200]));
        assert_eq!(format.decode::<Untagged>(&written).unwrap(), Untagged::Data(Bytes(vec![7, 200])));
    }
    // A deserializer that is not one of the codecs'.
    assert_eq!(serde_json::from_str::<Bytes>("\"AAE=\"").unwrap(), Bytes(vec![0, 1]));
    assert_eq!(serde_json::from_value::<Bytes>(json!([0, 1])).unwrap(), Bytes(vec![0, 1]));
}

#[test]
fn keys_are_text_or_what_is_asked_for() {
    for format in BOTH {
        let numbers = encoded(format, &BTreeMap::from([(-5, true), (7, false)]));
        assert_eq!(format.decode::<Value>(&numbers).unwrap(), json!({"-5": true, "7": false}));
        assert_eq!(format.decode::<BTreeMap<i64, bool>>(&numbers).unwrap(), [(-5, true), (7, false)].into());
        assert_eq!(format.decode::<BTreeMap<String, bool>>(&numbers).unwrap().len(), 2);
        assert!(format.decode::<BTreeMap<u8, bool>>(&numbers).is_err());
        let largest = encoded(format, &BTreeMap::from([(u64::MAX, 1)]));
        assert_eq!(format.decode::<Value>(&largest).unwrap(), json!({ u64::MAX.to_string(): 1 }));
        assert_eq!(format.decode::<BTreeMap<u64, u8>>(&largest).unwrap(), [(u64::MAX, 1)].into());
        let truths = encoded(format, &BTreeMap::from([(true, 1)]));
        assert_eq!(format.decode::<Value>(&truths).unwrap(), json!({"true": 1}));
        assert_eq!(format.decode::<BTreeMap<bool, u8>>(&truths).unwrap(), [(true, 1)].into());
        let bytes = encoded(format, &BTreeMap::from([(Bytes(vec![255]), 1)]));
        assert_eq!(format.decode::<Value>(&bytes).unwrap(), json!({"/w==": 1}));
        assert_eq!(format.decode::<BTreeMap<Bytes, u8>>(&bytes).unwrap(), [(Bytes(vec![255]), 1)].into());
        // By way of a `Value`, whose keys are text.
        let texts = encoded(format, &json!({"-5": true}));
        assert_eq!(format.decode::<BTreeMap<i32, bool>>(&texts).unwrap(), [(-5, true)].into());
        let error = format.decode::<BTreeMap<i32, bool>>(&encoded(format, &json!({"x": true}))).unwrap_err();
        assert!(error.to_string().contains("expected i32"), "{error}");
        refuses_key(format, (1, 2));
        refuses_key(format, ());
        refuses_key(format, vec![1u8]);
        refuses_key(format, None::<u8>);
    }
}

fn refuses_key(format: Format, key: impl Serialize + Ord) {
    let mut buffer = b"before".to_vec();
    let error = format.encode(&mut buffer, &BTreeMap::from([(key, 3)])).unwrap_err().to_string();
    assert!(error.contains("key must be a string"), "{format:?}: {error}");
    assert_eq!(buffer, b"before");
}

#[test]
fn integers_of_more_than_64_bits_are_refused_in_both() {
    for format in BOTH {
        assert_eq!(format.decode::<Value>(&encoded(format, &u128::from(u64::MAX))).unwrap(), json!(u64::MAX));
        assert_eq!(format.decode::<i128>(&encoded(format, &i128::from(i64::MIN))).unwrap(), i128::from(i64::MIN));
        let mut buffer = Vec::new();
        let error = format.encode(&mut buffer, &(u128::from(u64::MAX) + 1)).unwrap_err().to_string();
        assert!(error.contains("it needs more than 64 bits"), "{error}");
        assert!(format.encode(&mut buffer, &(i128::from(i64::MIN) - 1)).is_err());
    }
}

#[test]
fn what_only_messagepack_has_is_read_as_json_would_show_it() {
    let decode = |bytes: &[u8]| Format::MessagePack.decode::<Value>(bytes);
    // A string that is no UTF-8 is what older writers had for bytes.
    assert_eq!(decode(b"\xa2\xff\x00").unwrap(), json!("/wA="));
    assert_eq!(Format::MessagePack.decode::<Bytes>(b"\xa2\xff\x00").unwrap(), Bytes(vec![255, 0]));
    assert_eq!(Format::MessagePack.decode::<Vec<u8>>(b"\xa2\xff\x00").unwrap(), [255, 0]);
    // A type of one's own: its number and its bytes.
    assert_eq!(decode(b"\x91\xd5\x05\xff\x00").unwrap(), json!([[5, "/wA="]]));
    assert_eq!(decode(b"\xd4\xff\x00").unwrap(), json!([-1, "AA=="]));
    // Keys that JSON has no text for.
    assert!(decode(b"\x81\xc0\x01").is_err());
    assert!(decode(b"\x81\x90\x01").is_err());
}
