//! What a source sends: tuples and errors.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::finite::Finite;
use crate::{Error, Result};

/// One record of a source, and what is known about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuple<M = Value> {
    /// The record, normally an object.
    pub message: M,
    /// Facts about the record, such as its topic; `null` when there are none.
    #[serde(default)]
    pub meta: Value,
}

/// A message on a source's data channel.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceMessage<M = Value> {
    /// A record.
    Tuple(Tuple<M>),
    /// The source's report of a failure; it may go on after it.
    Error(String),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default, borrow)]
    message: Option<&'a RawValue>,
    #[serde(default)]
    meta: Value,
    #[serde(default)]
    error: Option<String>,
}

impl<M: serde::de::DeserializeOwned> SourceMessage<M> {
    /// Reads a message. An error is known in both spellings: the Python SDK's
    /// `{"error":"text"}`, and the Go SDK's JSON string that holds such an
    /// object (fault 11).
    ///
    /// # Errors
    /// [`Error::Message`] when it is neither a tuple nor an error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.first() == Some(&b'"') {
            let inner: String = serde_json::from_slice(bytes).map_err(wrong)?;
            return Self::decode_object(inner.as_bytes());
        }
        Self::decode_object(bytes)
    }

    fn decode_object(bytes: &[u8]) -> Result<Self> {
        let wire: Wire<'_> = crate::json::object(bytes).map_err(wrong)?;
        match (wire.message, wire.error) {
            (Some(message), None) => {
                let message = serde_json::from_str(message.get()).map_err(wrong)?;
                Ok(Self::Tuple(Tuple { message, meta: wire.meta }))
            }
            (_, Some(text)) => Ok(Self::Error(text)),
            (None, None) => Err(wrong(serde::de::Error::custom("it has neither \"message\" nor \"error\""))),
        }
    }
}

fn wrong(source: serde_json::Error) -> Error {
    Error::Message { what: "the source's message", source }
}

/// Writes a tuple as it stands on the wire, after what `buffer` holds.
///
/// # Errors
/// [`Error::Encode`] when the message cannot be written as JSON, NaN and the
/// infinities among such; `buffer` is then as long as it was.
pub fn encode_tuple(buffer: &mut Vec<u8>, message: &impl Serialize, meta: Option<&impl Serialize>) -> Result<()> {
    #[derive(Serialize)]
    struct Out<'a, M, N> {
        message: &'a M,
        meta: Option<&'a N>,
    }
    let start = buffer.len();
    serde_json::to_writer(&mut *buffer, &Finite(&Out { message, meta })).map_err(|source| {
        buffer.truncate(start);
        Error::Encode { what: "the tuple", source }
    })
}

/// A source's error as it stands on the wire.
pub fn encode_source_error(text: &str) -> Vec<u8> {
    serde_json::json!({ "error": text }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decode(bytes: &[u8]) -> Result<SourceMessage> {
        SourceMessage::decode(bytes)
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

    #[test]
    fn both_spellings_of_an_error_are_errors() {
        let expected = SourceMessage::Error("no \"disk\"".into());
        let python = encode_source_error("no \"disk\"");
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
        let mut buffer = Vec::new();
        encode_tuple(&mut buffer, &json!({"name": "x"}), Some(&json!({"k": [1, 2]}))).unwrap();
        let SourceMessage::Tuple(tuple) = decode(&buffer).unwrap() else { panic!("an error") };
        assert_eq!((tuple.message, tuple.meta), (json!({"name": "x"}), json!({"k": [1, 2]})));
    }

    #[test]
    fn a_failed_encoding_leaves_the_buffer_as_it_was() {
        let mut buffer = b"before".to_vec();
        let keys = std::collections::HashMap::from([(vec![1u8], 2)]);
        assert!(encode_tuple(&mut buffer, &keys, None::<&()>).is_err());
        assert!(encode_tuple(&mut buffer, &[f64::NAN], None::<&()>).is_err());
        assert_eq!(buffer, b"before");
    }
}
