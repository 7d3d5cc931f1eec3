//! A source's tuple whose record is not decoded: the bytes that came.

use std::ops::Range;

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;

use super::columns::is_columns;
use crate::codec::{Error, Format, Reader};

/// The message of a source, and where the record and its metadata are in it.
/// Nothing is decoded; JSON is checked to be JSON.
///
/// One value takes message after message, and keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct RawTuple {
    bytes: Vec<u8>,
    format: Format,
    message: Range<usize>,
    meta: Option<Range<usize>>,
}

/// The parts of a message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    message: Option<Range<usize>>,
    meta: Option<Range<usize>>,
    error: Option<String>,
}

impl RawTuple {
    /// Creates a tuple without a record.
    pub fn new() -> Self {
        Self::default()
    }

    /// The format of the record and its metadata.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The record, encoded.
    pub fn message(&self) -> &[u8] {
        self.bytes.get(self.message.clone()).unwrap_or_default()
    }

    /// The message if it is columns, an Arrow IPC stream, and no tuple: then it
    /// is also [`message`](Self::message), and [`format`](Self::format) has no
    /// meaning.
    pub fn columns(&self) -> Option<&[u8]> {
        Some(self.message()).filter(|message| is_columns(message))
    }

    /// The record's metadata, encoded; `None` when there is none.
    pub fn meta(&self) -> Option<&[u8]> {
        self.bytes.get(self.meta.clone()?)
    }

    /// The buffer for the next message. Until that was
    /// [found](Self::find) to be a tuple, there is no record.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        (self.message, self.meta) = (0..0, None);
        &mut self.bytes
    }

    /// Finds the record and its metadata in the message that the
    /// [buffer](Self::buffer) holds. Returns the text of an error that the
    /// source reports, in either spelling.
    ///
    /// # Errors
    /// [`Error::Message`](crate::Error::Message) when the message is neither a
    /// tuple nor an error.
    #[inline]
    pub fn find(&mut self, format: Format) -> crate::Result<Option<String>> {
        if is_columns(&self.bytes) {
            (self.message, self.meta) = (0..self.bytes.len(), None);
            return Ok(None);
        }
        let parts = match format {
            Format::Json => usual_json(&self.bytes).map_or_else(|| unusual_json(&mut self.bytes), Ok),
            Format::MessagePack => messagepack(&self.bytes),
        };
        let parts = parts.map_err(|source| crate::Error::Message { what: "the source's message", source })?;
        match parts {
            Parts { error: error @ Some(_), .. } => Ok(error),
            Parts { message: Some(message), meta, .. } => {
                (self.format, self.message, self.meta) = (format, message, meta);
                Ok(None)
            }
            Parts { message: None, .. } => {
                let source = Error::custom("it has neither \"message\" nor \"error\"");
                Err(crate::Error::Message { what: "the source's message", source })
            }
        }
    }
}

/// The parts of an object with a message and nothing else, or metadata behind
/// it, as both SDKs write it.
#[inline]
fn usual_json(bytes: &[u8]) -> Option<Parts> {
    let (message, rest) = value(bytes, after(bytes, 0, b"{")?, "message")?;
    let (meta, rest) = match after(bytes, rest, b",") {
        None => (None, rest),
        Some(rest) => value(bytes, rest, "meta").map(|(meta, rest)| (Some(meta), rest))?,
    };
    let is_all = without_space(&bytes[after(bytes, rest, b"}")?..]).is_empty();
    let is_null = |range: &Range<usize>| &bytes[range.clone()] == b"null";
    (is_all && !is_null(&message)).then(|| Parts {
        message: Some(message),
        meta: meta.filter(|meta| !is_null(meta)),
        error: None,
    })
}

/// Returns the place of the value that follows under this key, and where it
/// ends.
#[inline]
fn value(bytes: &[u8], from: usize, key: &str) -> Option<(Range<usize>, usize)> {
    let at = after(bytes, after(bytes, after(bytes, from, b"\"")?, key.as_bytes())?, b"\"")?;
    let at = after(bytes, at, b":")?;
    let mut reader = Reader::new(Format::Json, &bytes[at..]);
    let value = reader.raw().ok()?;
    let end = bytes.len() - reader.rest().len();
    Some((end - value.len()..end, end))
}

/// Returns the place behind this token, which white space may precede.
#[inline]
fn after(bytes: &[u8], from: usize, token: &[u8]) -> Option<usize> {
    let rest = without_space(&bytes[from..]);
    rest.starts_with(token).then(|| bytes.len() - rest.len() + token.len())
}

/// Returns the bytes without JSON's white space at their beginning.
#[inline]
fn without_space(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// The parts of any other message in JSON. One that is a text holds the object
/// as text, which takes its place.
#[cold]
fn unusual_json(bytes: &mut Vec<u8>) -> Result<Parts, Error> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object with a message or an error")]
    struct Object<'a> {
        #[serde(borrow, default)]
        message: Option<&'a RawValue>,
        #[serde(borrow, default)]
        meta: Option<&'a RawValue>,
        #[serde(default)]
        error: Option<String>,
    }
    if bytes.first() == Some(&b'"') {
        *bytes = serde_json::from_slice::<String>(bytes)?.into_bytes();
    }
    let Object { message, meta, error } = crate::json::object(bytes)?;
    let start = bytes.as_ptr().addr();
    let place = |value: &RawValue| {
        let from = value.get().as_ptr().addr() - start;
        from..from + value.get().len()
    };
    Ok(Parts { message: message.map(place), meta: meta.map(place), error })
}

fn messagepack(bytes: &[u8]) -> Result<Parts, Error> {
    let format = Format::MessagePack;
    if format.length(bytes)? != bytes.len() {
        return Err(Error::custom("trailing bytes"));
    }
    let mut reader = Reader::new(format, bytes);
    let mut parts = Parts::default();
    for _ in 0..reader.map_length()? {
        let key = reader.value::<&str>()?;
        let value = reader.raw()?;
        let end = bytes.len() - reader.rest().len();
        let place = (value != NIL).then_some(end - value.len()..end);
        match key {
            "message" => parts.message = place,
            "meta" => parts.meta = place,
            "error" if place.is_some() => parts.error = Some(format.decode(value)?),
            _ => {}
        }
    }
    Ok(parts)
}

/// `nil` in MessagePack.
const NIL: &[u8] = &[0xc0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{SourceMessage, encode_source_error, encode_tuple};
    use serde_json::{Value, json};

    /// What is found in a message: the record and its metadata, or an error.
    fn found(format: Format, bytes: &[u8]) -> Result<SourceMessage<String>, String> {
        let mut raw = RawTuple::new();
        raw.buffer().extend_from_slice(bytes);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match raw.find(format) {
            Ok(None) => {
                let meta = raw.meta().map_or(Value::Null, |meta| format.decode(meta).unwrap());
                let message = match format {
                    Format::Json => text(raw.message()),
                    Format::MessagePack => format.decode::<Value>(raw.message()).unwrap().to_string(),
                };
                Ok(SourceMessage::Tuple(super::super::Tuple { message, meta }))
            }
            Ok(Some(error)) => Ok(SourceMessage::Error(error)),
            Err(error) => Err(format!("{error:?}")),
        }
    }

    fn json(bytes: &[u8]) -> Result<SourceMessage<String>, String> {
        found(Format::Json, bytes)
    }

    fn tuple(message: &str, meta: Value) -> SourceMessage<String> {
        SourceMessage::Tuple(super::super::Tuple { message: message.to_owned(), meta })
    }

    #[test]
    fn the_record_is_the_bytes_that_came() {
        for (bytes, message, meta) in [
            (r#"{"message":{"b":1.0,"a":1e400,"a":"\/"},"meta":null}"#, r#"{"b":1.0,"a":1e400,"a":"\/"}"#, json!(null)),
            (r#"{"message": {"a": [1 ,2]}, "meta": {"k": 1}}"#, r#"{"a": [1 ,2]}"#, json!({"k": 1})),
            (" { \"message\" : 7 } \n", "7", json!(null)),
            (r#"{"meta":{"k":1},"message":[]}"#, "[]", json!({"k": 1})),
            (r#"{"message":"}","meta":{},"more":[{}]}"#, r#""}""#, json!({})),
            (r#"{"mess\u0061ge":1}"#, "1", json!(null)),
            (r#""{\"message\":{\"a\":1}}""#, r#"{"a":1}"#, json!(null)),
        ] {
            assert_eq!(json(bytes.as_bytes()), Ok(tuple(message, meta)), "{bytes}");
        }
    }

    /// The raw tuple and the decoded one are of one opinion.
    #[test]
    fn what_is_decoded_is_found_and_what_is_refused_is_refused() {
        for bytes in [
            &b""[..],
            b"{}",
            b"[]",
            b"null",
            b"\"text\"",
            b"[{\"message\":1}]",
            b"{\"message\":",
            b"{\"message\":1",
            b"{\"message\":1}}",
            b"{\"message\":1,}",
            b"{\"message\":1,\"meta\":}",
            b"{\"message\":null}",
            b"{\"message\":null,\"meta\":{}}",
            b"{\"message\":1,\"message\":2}",
            b"{\"message\":1,\"meta\":2,\"meta\":3}",
            b"{\"message\":01}",
            b"{\"message\":NaN}",
            b"{\"message\":\"\xff\"}",
            b"{\"message\":\"\n\"}",
            b"{\"message\":1,\"error\":\"no\"}",
            b"{\"error\":\"no\"}",
            b"\"{\\\"error\\\":\\\"no\\\"}\"",
            b"{\"message\":1,\"error\":null}",
            b"{\x0c\"message\":1}",
            b"{\"message\":1}\x0c",
            b"\xff",
        ] {
            let decoded = SourceMessage::<Value>::decode(Format::Json, bytes);
            let found = json(bytes);
            match (&decoded, &found) {
                (Ok(SourceMessage::Error(text)), Ok(SourceMessage::Error(found))) => assert_eq!(found, text),
                (Ok(SourceMessage::Tuple(decoded)), Ok(SourceMessage::Tuple(found))) => {
                    assert_eq!(serde_json::from_str::<Value>(&found.message).unwrap(), decoded.message);
                }
                (Err(_), Err(_)) => {}
                _ => panic!("{:?}: {decoded:?}, {found:?}", String::from_utf8_lossy(bytes)),
            }
        }
    }

    #[test]
    fn both_formats_are_found() {
        for format in [Format::Json, Format::MessagePack] {
            let mut bytes = Vec::new();
            encode_tuple(format, &mut bytes, &json!({"name": "x"}), Some(&json!({"k": [1]}))).unwrap();
            assert_eq!(found(format, &bytes), Ok(tuple(r#"{"name":"x"}"#, json!({"k": [1]}))));
            bytes.clear();
            encode_tuple(format, &mut bytes, &json!([1]), None::<&()>).unwrap();
            assert_eq!(found(format, &bytes), Ok(tuple("[1]", json!(null))));
            let whole = bytes.len();
            for length in 0..whole {
                assert!(found(format, &bytes[..length]).is_err(), "{length} of {whole} bytes");
            }
            bytes.push(0xc0);
            assert!(found(format, &bytes).is_err());
            assert_eq!(found(format, &encode_source_error(format, "no")), Ok(SourceMessage::Error("no".into())));
        }
        for bytes in [&[0x80u8][..], &[0x90], &[0xc0], &[0x81, 0x01, 0x02], &[0x81, 0xa3, b'x', 0xff, b'y', 0x01]] {
            assert!(found(Format::MessagePack, bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn one_tuple_takes_message_after_message() {
        let mut raw = RawTuple::new();
        for (text, message) in [("{\"message\":[1,2,3],\"meta\":{}}", "[1,2,3]"), ("{\"message\":4}", "4"), ("{}", "")]
        {
            raw.buffer().clear();
            raw.buffer().extend_from_slice(text.as_bytes());
            assert_eq!(raw.find(Format::Json).is_ok(), !message.is_empty());
            assert_eq!(raw.message(), message.as_bytes());
            assert_eq!(raw.meta().is_some(), message == "[1,2,3]");
        }
    }
}
