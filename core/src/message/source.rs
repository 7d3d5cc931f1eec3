//! The messages that a source sends: tuples and errors.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::{RowCount, format_of_rows};
use crate::codec::Format;
use crate::{Error, Result};

/// One record of a source, with its metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuple<M = Value> {
    /// The record, usually an object.
    pub message: M,
    /// Metadata of the record, such as its topic; `null` when there is none.
    #[serde(default)]
    pub meta: Value,
}

/// A message on a source's data channel.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceMessage<M = Value> {
    /// A record.
    Tuple(Tuple<M>),
    /// A failure that the source reports; it may continue afterwards.
    Error(String),
}

#[derive(Deserialize)]
#[serde(bound = "M: Deserialize<'de>", expecting = "an object with a message or an error")]
struct Wire<M> {
    #[serde(default = "nothing")]
    message: Option<M>,
    #[serde(default)]
    meta: Value,
    #[serde(default)]
    error: Option<String>,
}

fn nothing<M>() -> Option<M> {
    None
}

impl<M: serde::de::DeserializeOwned> SourceMessage<M> {
    /// Decodes a message. An error is recognised in both spellings: the Python
    /// SDK's `{"error":"text"}`, and the Go SDK's JSON string that holds such
    /// an object (fault 11).
    ///
    /// # Errors
    /// [`Error::Message`] when the message is neither a tuple nor an error.
    #[inline]
    pub fn decode(format: Format, bytes: &[u8]) -> Result<Self> {
        match bare(format, bytes) {
            Some(message) => Ok(Self::Tuple(Tuple { message, meta: Value::Null })),
            None => Self::decode_any(format, bytes),
        }
    }

    #[inline(never)]
    fn decode_any(format: Format, bytes: &[u8]) -> Result<Self> {
        let wire: Wire<M> = match format {
            Format::Json if bytes.first() == Some(&b'"') => {
                let inner: String = serde_json::from_slice(bytes).map_err(wrong)?;
                crate::json::object(inner.as_bytes()).map_err(wrong)?
            }
            Format::Json => crate::json::object(bytes).map_err(wrong)?,
            Format::MessagePack => format.decode(bytes).map_err(wrong)?,
        };
        match (wire.message, wire.error) {
            (Some(message), None) => Ok(Self::Tuple(Tuple { message, meta: wire.meta })),
            (_, Some(text)) => Ok(Self::Error(text)),
            (None, None) => Err(wrong(serde::de::Error::custom("it has neither \"message\" nor \"error\""))),
        }
    }
}

/// The record of a tuple without metadata, as [`encode_tuple`] writes it if the
/// record is an object: most messages, of which no key is then read; the record may
/// be nested one level deeper. `None` if it is another message, or wrong.
#[inline]
fn bare<M: serde::de::DeserializeOwned>(format: Format, bytes: &[u8]) -> Option<M> {
    let (begin, end): (&[u8], &[u8]) = match format {
        Format::Json => (b"{\"message\":", b",\"meta\":null}"),
        Format::MessagePack => (b"\x82\xa7message", b"\xa4meta\xc0"),
    };
    let record = bytes.strip_prefix(begin)?.strip_suffix(end)?;
    format_of_rows(record).filter(|kind| *kind == (format, RowCount::One))?;
    let (message, length) = format.read(record, std::marker::PhantomData).ok()?;
    (length == record.len()).then_some(message)
}

fn wrong(source: serde_json::Error) -> Error {
    Error::Message { what: "the source's message", source }
}

/// Encodes a tuple, and appends it to `buffer`.
///
/// # Errors
/// [`Error::Encode`] when the tuple cannot be encoded, for example because of
/// NaN or an infinity; `buffer` then keeps its former length.
#[inline]
pub fn encode_tuple(
    format: Format,
    buffer: &mut Vec<u8>,
    message: &impl Serialize,
    meta: Option<&impl Serialize>,
) -> Result<()> {
    #[derive(Serialize)]
    struct Out<'a, M, N> {
        message: &'a M,
        meta: Option<&'a N>,
    }
    format.encode(buffer, &Out { message, meta }).map_err(|source| Error::Encode { what: "the tuple", source })
}

/// Encodes a source's error.
pub fn encode_source_error(format: Format, text: &str) -> Vec<u8> {
    let mut buffer = Vec::new();
    // Encoding text cannot fail.
    let _ = format.encode(&mut buffer, &serde_json::json!({ "error": text }));
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decode(bytes: &[u8]) -> Result<SourceMessage> {
        SourceMessage::decode(Format::Json, bytes)
    }

    #[test]
    fn tuples_are_read_with_and_without_meta() {
        let tuple = |message, meta| SourceMessage::Tuple(Tuple { message, meta });
        assert_eq!(decode(br#"{"message":{"a":1},"meta":null}"#).unwrap(), tuple(json!({"a": 1}), json!(null)));
        assert_eq!(
            decode(br#"{"meta":{"topic":"t"},"message":[1]}"#).unwrap(),
            tuple(json!([1]), json!({"topic": "t"}))
        );
        assert_eq!(decode(br#"{"message":{},"more":1}"#).unwrap(), tuple(json!({}), json!(null)));
    }

    /// Where a tuple without metadata is not as usual, it is read as any other.
    #[test]
    fn a_message_is_the_same_whichever_way_it_is_read() {
        for record in [
            "1",
            "{}",
            "[1,2]",
            "\"a\"",
            "null",
            " null",
            " {}",
            "{\"a\":null}",
            "1,2",
            "1,\"message\":2",
            "",
            " 1 ",
            "{",
            "\"\\\"\"",
            "7e",
        ] {
            for (begin, end) in [
                ("{\"message\":", ",\"meta\":null}"),
                ("{\"message\":", "}"),
                (" {\"message\" :", ", \"meta\":null}"),
                ("{\"message\":", ",\"meta\":null,\"more\":1}"),
                ("{\"message\":", ",\"meta\":null}}"),
                ("{\"meta\":null,\"message\":", "}"),
            ] {
                let bytes = [begin, record, end].concat();
                let read = |decode: fn(Format, &[u8]) -> Result<SourceMessage>| {
                    decode(Format::Json, bytes.as_bytes()).map_err(|error| crate::Chain(&error).to_string())
                };
                assert_eq!(read(SourceMessage::decode), read(SourceMessage::decode_any), "{bytes}");
                let Ok(value) = serde_json::from_str::<Value>(&bytes) else { continue };
                let mut packed = Vec::new();
                Format::MessagePack.encode(&mut packed, &value).unwrap();
                let read = |decode: fn(Format, &[u8]) -> Result<SourceMessage>| {
                    decode(Format::MessagePack, &packed).map_err(|error| crate::Chain(&error).to_string())
                };
                assert_eq!(read(SourceMessage::decode), read(SourceMessage::decode_any), "{bytes}");
            }
        }
        let mut usual = Vec::new();
        for format in [Format::Json, Format::MessagePack] {
            usual.clear();
            encode_tuple(format, &mut usual, &json!({ "a": [1] }), None::<&()>).unwrap();
            assert_eq!(bare::<Value>(format, &usual), Some(json!({ "a": [1] })));
        }
    }

    #[test]
    fn both_spellings_of_an_error_are_errors() {
        let expected = SourceMessage::Error("no \"disk\"".into());
        let python = encode_source_error(Format::Json, "no \"disk\"");
        let go = serde_json::to_vec(&String::from_utf8(python.clone()).unwrap()).unwrap();
        assert_eq!(decode(&python).unwrap(), expected);
        assert_eq!(decode(&go).unwrap(), expected);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bytes in
            [&b""[..], b"{}", b"[]", b"null", b"[{\"a\":1}]", b"\"[{}]\"", b"\"text\"", b"{\"message\":", b"\xff"]
        {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_tuple_survives_the_wire() {
        for format in [Format::Json, Format::MessagePack] {
            let mut buffer = Vec::new();
            encode_tuple(format, &mut buffer, &json!({"name": "x"}), Some(&json!({"k": [1, 2]}))).unwrap();
            let SourceMessage::<Value>::Tuple(tuple) = SourceMessage::decode(format, &buffer).unwrap() else {
                panic!("an error")
            };
            assert_eq!((tuple.message, tuple.meta), (json!({"name": "x"}), json!({"k": [1, 2]})));
            let error = encode_source_error(format, "no");
            assert_eq!(SourceMessage::<Value>::decode(format, &error).unwrap(), SourceMessage::Error("no".into()));
        }
    }

    #[test]
    fn a_failed_encoding_leaves_the_buffer_as_it_was() {
        let mut buffer = b"before".to_vec();
        let keys = std::collections::HashMap::from([(vec![1u8], 2)]);
        assert!(encode_tuple(Format::Json, &mut buffer, &keys, None::<&()>).is_err());
        assert!(encode_tuple(Format::Json, &mut buffer, &[f64::NAN], None::<&()>).is_err());
        assert_eq!(buffer, b"before");
    }
}
