//! Tests that JSON is read, and refused, as `serde_json` does.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_json::{Deserializer, Value};

use super::fault::FAULTS;
use crate::codec::{Adapted, Bytes, Codec, Error, Format, Json};

/// What `serde_json` reads.
fn by_serde_json<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    let mut deserializer = Deserializer::from_str(json);
    let value = T::deserialize(Adapted::new(&mut deserializer))?;
    deserializer.end().map(|()| value)
}

/// The value at the beginning as `serde_json` reads it, and its length.
fn prefix_by_serde_json<T: DeserializeOwned>(json: &str) -> Result<(T, usize), Error> {
    let mut deserializer = Deserializer::from_str(json);
    let value = T::deserialize(Adapted::new(&mut deserializer))?;
    Ok((value, deserializer.into_iter::<IgnoredAny>().byte_offset()))
}

/// Checks that a result is that of `serde_json`, or its error, with the same
/// words at the same place, and of the same kind.
fn assert_alike<T: Debug>(json: &[u8], read: Result<T, Error>, expected: Result<T, Error>) {
    let shown = |read: &Result<T, Error>| match read {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{error}, {}:{}", error.line(), error.column()),
    };
    let kind = std::any::type_name::<T>();
    assert_eq!(shown(&read), shown(&expected), "{kind}: {}", json.escape_ascii());
    if let (Err(error), Err(expected)) = (read, expected) {
        let (found, expected) = (error.classify(), expected.classify());
        // `serde_json` calls some errors of type errors of syntax, such as a number where
        // a variant is asked for: JSON that is read as any value is right at that place.
        let any = by_serde_json::<Value>(&String::from_utf8_lossy(json)).err();
        let is_of_type = found == Category::Data && any.is_none_or(|any| any.to_string() != error.to_string());
        assert!(found == expected || is_of_type, "{kind}: {error} is {found:?}: {}", json.escape_ascii());
    }
}

fn check<T: DeserializeOwned + Debug>(bytes: &[u8]) {
    let Ok(json) = std::str::from_utf8(bytes) else {
        let error = Format::Json.decode::<T>(bytes).unwrap_err().to_string();
        assert!(error.starts_with("invalid unicode code point at line "), "{error}");
        // Nothing is known of it but that it is no trouble, and no text.
        if let Ok((_, length)) = Json::read(bytes, PhantomData::<T>) {
            assert!(std::str::from_utf8(&bytes[..length]).is_ok(), "{}", bytes.escape_ascii());
        }
        return;
    };
    assert_alike(bytes, Format::Json.decode::<T>(bytes), by_serde_json(json));
    assert_alike(bytes, Json::read(bytes, PhantomData::<T>), prefix_by_serde_json(json));
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Record {
    id: u64,
    text: String,
    small: Option<u8>,
    number: f64,
    single: f32,
    is_set: bool,
    list: Vec<(i32, char)>,
    map: BTreeMap<i16, Kind>,
    kind: Kind,
    bytes: Bytes,
    unit: (),
    wide: i128,
    #[serde(default)]
    raw: Option<Box<RawValue>>,
    #[serde(default)]
    nested: Option<Box<Record>>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    One(String),
    Two(i8, bool),
    Named { field: u16 },
    Unit(()),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
#[allow(dead_code)]
enum Untagged {
    Number(f64),
    Text(String),
    List(Vec<Untagged>),
    Record { id: u64, kind: Kind },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind")]
#[allow(dead_code)]
enum Tagged {
    One { id: i64 },
    Two { text: String },
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Flat {
    id: u64,
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Few {
    id: IgnoredAny,
    text: String,
}

#[derive(Debug, Deserialize)]
struct New(#[allow(dead_code)] f64);

#[derive(Debug, Deserialize)]
struct Unit;

fn check_all(bytes: &[u8]) {
    macro_rules! check_each {
        ($($type:ty),* $(,)?) => { $(check::<$type>(bytes);)* };
    }
    check_each! {
        Value, IgnoredAny, Box<RawValue>, Record, Kind, Untagged, Tagged, Flat, Few, New, Unit, Bytes, String, char,
        bool, (), u8, i64, u64, f32, f64, i128, u128, Option<Option<i16>>, Vec<u8>, [f32; 2], (Kind, Value),
        Vec<Option<Value>>, Vec<Kind>, BTreeMap<String, Value>, BTreeMap<i64, Kind>, BTreeMap<bool, f64>,
        BTreeMap<Kind, ()>, BTreeMap<char, Vec<f32>>, BTreeMap<String, Box<RawValue>>, Vec<Box<RawValue>>,
        BTreeMap<String, IgnoredAny>, BTreeMap<Option<String>, Record>,
    }
    if let Ok(json) = std::str::from_utf8(bytes) {
        let expected = prefix_by_serde_json::<IgnoredAny>(json).map(|(_, length)| length);
        assert_alike(bytes, Json::length(bytes), expected);
    }
}

/// JSON of which much is unusual.
fn document() -> impl Strategy<Value = String> {
    let space = || select(vec!["", "", "", "", " ", "\n", "\t\r\n ", "  "]);
    let number = prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:e}")),
        any::<f32>().prop_map(|number| number.to_string()),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?",
        (0..1000u32, 0..12).prop_map(|(number, digits)| format!("{}", f64::from(number) / 10f64.powi(digits))),
        select(vec![
            "0",
            "-0",
            "-0.0",
            "1e400",
            "-1e400",
            "1e-400",
            "0e999999999999",
            "1e99999999999",
            "1e-99999999999",
            "1e+2147483648",
            "18446744073709551615",
            "18446744073709551616",
            "9223372036854775807",
            "-9223372036854775808",
            "-9223372036854775809",
            "-18446744073709551615",
            "1e22",
            "9007199254740993",
            "9007199254740993.0",
            "0.1",
            "123456789.123456789",
            "16777217.0",
            "3.4028236e38",
            "255",
            "256",
        ])
        .prop_map(str::to_owned),
    ];
    let character = prop_oneof![
        8 => "[a-zA-Z ]{1,9}",
        1 => "[a-z]{50,90}",
        2 => select(vec![
            "é", "日本", "😀", "\\n", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\r", "\\t", "\\u00e9", "\\uD83d\\ude00",
            "\\u0000", "\\ud800", "\\udc00", "\\ud800x", "\\ud800\\n", "\\ud800\\ud800", "\\uZZZZ", "\\x", "\\u12",
            "\u{7f}", "\u{1}", "\n", "AAH/",
        ])
        .prop_map(str::to_owned),
    ];
    let text = prop::collection::vec(character, 0..6).prop_map(|parts| format!("\"{}\"", parts.concat()));
    let words = select(vec!["null", "true", "false", "\"AAH/\"", "\"Plain\"", "[]", "{}", "nul", "[", "{", "NaN"]);
    let key = prop_oneof![
        select(vec![
            "id", "text", "small", "number", "single", "is_set", "list", "map", "kind", "bytes", "unit", "wide", "raw",
            "nested", "One", "Two", "Named", "Unit", "field", "1", "-1", "true", "1.5", "é", "\\u0069d", "Plain",
        ])
        .prop_map(|key| format!("\"{key}\"")),
        text.clone(),
    ];
    let leaf = prop_oneof![3 => number, 3 => text, 2 => words.prop_map(str::to_owned)];
    let leaf = (space(), leaf, space()).prop_map(|(before, leaf, behind)| format!("{before}{leaf}{behind}"));
    leaf.prop_recursive(4, 40, 8, move |inner| {
        let entry = (space(), key.clone(), space(), inner.clone());
        let entry = entry.prop_map(|(before, key, behind, value)| format!("{before}{key}{behind}:{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..8).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::vec(entry, 0..8).prop_map(|entries| format!("{{{}}}", entries.join(","))),
        ]
    })
}

/// A record as sources send it.
fn record() -> impl Strategy<Value = String> {
    let values =
        (any::<u64>(), ".{0,70}", any::<Option<u8>>(), any::<f64>(), any::<f32>(), any::<bool>(), any::<i128>());
    let kind = select(vec![r#""Plain""#, r#"{"One":"x"}"#, r#"{"Two":[1,true]}"#, r#"{"Named":{"field":7}}"#]);
    (values, kind, prop::collection::vec(document(), 1..3)).prop_map(
        |((id, text, small, number, single, is_set, wide), kind, more)| {
            let json = |value: Value| value.to_string();
            let (text, small, number, single) =
                (json(text.into()), json(small.into()), json(number.into()), json(single.into()));
            format!(
                r#"{{"id":{id},"text":{text},"small":{small}, "number":{number},"single":{single},"is_set":{is_set},
                "list":[[1,"x"],[-2,"é"]],"map":{{"-5":{kind}}},"kind":{kind},"bytes":"AAH/","unit":null,"wide":{wide},
                "raw":{more},"more":{more}}}"#,
                more = more.join(","),
            )
        },
    )
}

/// Documents, some with a few bytes changed, removed or inserted.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), select(b"\"\\{}[]:,-+.eE0123 \nntfu\x00\x80".to_vec())];
    let damage = prop::collection::vec((any::<Index>(), byte, 0..4u8), 0..3);
    (prop_oneof![2 => document(), 1 => record()], damage).prop_map(|(json, damage)| {
        let mut bytes = json.into_bytes();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                _ if at == bytes.len() => {}
                2 => bytes[at] = byte,
                _ => {
                    bytes.remove(at);
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_serde_json_reads_is_read_alike(bytes in nearly_json()) {
        check_all(&bytes);
    }
}

#[test]
fn each_beginning_of_a_document_is_refused_alike() {
    let json = "{\"id\" : 10,\n\"text\":\"a\\u00e9\\ud83d\\ude00é\",\"small\":null,\"number\":-1.5e+3,\"single\":0.5,\
        \"is_set\":true,\"list\":[[1,\"x\"] , [2,\"y\"]],\"map\":{\"1\":\"Plain\"},\"kind\":{\"Two\":[1,false]},\
        \"bytes\":\"AAH/\",\"unit\":null,\"wide\":-170141183460469231731687303715884105728,\"raw\":[{}, \"\\n\"],\
        \"more\":{\"a\":[[],[{\"b\":\"c\"}]]},\"nested\":null}";
    check::<Record>(json.as_bytes());
    assert!(by_serde_json::<Record>(json).is_ok());
    for end in (0..json.len()).filter(|end| json.is_char_boundary(*end)) {
        check_all(&json.as_bytes()[..end]);
        for more in ["x", "\"", ",", "}", "]", "\n", "\u{1}", ":"] {
            check_all(&[&json.as_bytes()[..end], more.as_bytes()].concat());
        }
    }
}

#[test]
fn a_text_of_any_length_is_read_alike() {
    for length in (0..140).chain([1000, 70_000]) {
        let plain: String = "x".repeat(length);
        for insert in ["", "é", "\\n", "\\\\", "\n", "\u{1}", "😀", "\\ud800"] {
            for place in [0, length / 2, length] {
                let (before, behind) = plain.split_at(place);
                for more in ["", " ,\"more\"", "\n"] {
                    let json = format!("\"{before}{insert}{behind}\"{more}");
                    check::<String>(json.as_bytes());
                    check::<IgnoredAny>(json.as_bytes());
                    check::<Box<RawValue>>(json.as_bytes());
                    check::<u8>(json.as_bytes());
                    check::<String>(&json.as_bytes()[..json.len() - 1]);
                    check::<Value>(format!("[{json}]").as_bytes());
                }
            }
        }
    }
}

#[test]
fn bytes_that_are_no_utf8_are_refused_wherever_they_are() {
    for length in [0, 1, 7, 8, 20, 63, 64, 65, 200] {
        for bytes in [&b"\xff"[..], b"\xed\xa0\x80", b"\xc3", b"\\n\xff", b"\xff\\n"] {
            let json = [b"{\"text\":\"", &*vec![b'x'; length], bytes, b"\",\"id\":0}"].concat();
            check_all(&json);
            assert!(Json::read(&json, PhantomData::<Few>).is_err());
            assert!(Json::read(&json, PhantomData::<IgnoredAny>).is_err());
            assert!(Json::length(&json).is_err());
        }
    }
}

#[test]
fn values_are_in_each_other_as_deep_as_serde_json_allows() {
    for depth in [126, 127, 128, 129] {
        let lists = "[".repeat(depth) + &"]".repeat(depth);
        check_all(lists.as_bytes());
        let objects = "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        check_all(objects.as_bytes());
        check::<Few>(format!("{{\"more\":{lists},\"id\":{objects},\"text\":\"\"}}").as_bytes());
    }
    let deep = vec![b'['; 1_000_000];
    assert!(Format::Json.decode::<Value>(&deep).is_err());
    assert!(Json::length(&deep).unwrap_err().is_eof());
}

/// An error within many lists and objects is looked for once, not at each of
/// their ends: each time costs as much as reading the document.
#[test]
fn a_refused_document_costs_no_more_the_deeper_its_error_is() {
    let deep = "[{\"a\":".repeat(60);
    for document in [format!("{deep}x"), format!("{deep}1"), format!("{deep}[1,"), "[".repeat(1000), deep + "\"\u{1}\""]
    {
        FAULTS.set(0);
        let refused = Format::Json.decode::<Value>(document.as_bytes()).unwrap_err();
        assert_eq!(refused.to_string(), by_serde_json::<Value>(&document).unwrap_err().to_string());
        assert_eq!(FAULTS.get(), 1, "{document}");
    }
}
