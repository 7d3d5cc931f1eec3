//! Values that are only passed on, as text.

use std::fmt;

use ekuiper_core::codec::Reader;
use ekuiper_host::{CodecError, Format};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A value as JSON text: the bytes that came, if they are JSON. No tree of
/// values is built of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JsonText(String);

impl JsonText {
    /// Returns the text, with its line endings.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name by which `serde_json` is asked for the text of a value.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(RAW_VALUE, Text)
    }
}

/// Visits the text of a JSON value, and any value of another codec.
struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = JsonText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    /// JSON: a map of one key, whose value is the text.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonText, A::Error> {
        match map.next_entry::<IgnoredAny, String>()? {
            Some((_, text)) => Ok(JsonText(text)),
            None => Err(A::Error::custom("there is no value")),
        }
    }

    /// MessagePack.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<JsonText, D::Error> {
        let mut text = Vec::with_capacity(256);
        Transcoded(&mut text).deserialize(deserializer)?;
        String::from_utf8(text).map(JsonText).map_err(D::Error::custom)
    }
}

/// Appends an encoded value to `line` as JSON text in one line, as
/// [`write_unchanged`] and [`write_line`] do.
///
/// # Errors
/// As [`write_unchanged`].
pub(crate) fn write(format: Format, value: &[u8], line: &mut Vec<u8>) -> Result<(), CodecError> {
    if format == Format::Json {
        write_line(value, line);
        return Ok(());
    }
    write_unchanged(format, value, line)
}

/// Appends an encoded value to `text` as JSON text: the bytes that came, if they
/// are JSON. On an error, `text` may have a part of the value.
///
/// # Errors
/// The value cannot be read. JSON is taken to be JSON.
pub(crate) fn write_unchanged(format: Format, value: &[u8], text: &mut Vec<u8>) -> Result<(), CodecError> {
    if format != Format::Json {
        return Reader::new(format, value).seed(Transcoded(text));
    }
    text.extend_from_slice(value);
    Ok(())
}

/// Appends JSON text to `line`, in one line: a line ending between tokens is a
/// space.
pub(crate) fn write_line(text: &[u8], line: &mut Vec<u8>) {
    let start = line.len();
    line.extend_from_slice(text);
    // JSON has no line ending within a token.
    if memchr::memchr2(b'\n', b'\r', text).is_some() {
        line[start..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
}

/// Writes any value as JSON text.
struct Transcoded<'l>(&'l mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Transcoded<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        serde_transcode::transcode(deserializer, &mut serde_json::Serializer::new(self.0)).map_err(D::Error::custom)
    }
}

/// The text in one line: a line ending between its tokens is a space.
impl fmt::Display for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // JSON has no line ending within a token.
        match self.as_str().contains(['\r', '\n']) {
            false => f.write_str(&self.0),
            true => f.write_str(&self.0.replace(['\r', '\n'], " ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_core::message::SourceMessage;
    use ekuiper_host::{Bytes, Format, Tuple};
    use serde::Serialize;
    use serde_json::{Value, json};

    #[test]
    fn the_text_is_that_of_the_value_in_both_codecs() {
        #[derive(Serialize)]
        struct Row {
            bytes: Bytes,
            number: u64,
            map: std::collections::BTreeMap<u8, f64>,
        }
        let row = Row { bytes: Bytes::from(vec![0, 255]), number: u64::MAX, map: [(3, 1.0)].into() };
        for format in [Format::Json, Format::MessagePack] {
            for value in [json!({"b": [1, -2.5, "ü\n\u{1}", null, true], "a": {}}), json!("x"), json!(1e300), json!([])]
            {
                let mut encoded = Vec::new();
                format.encode(&mut encoded, &value).unwrap();
                let text: JsonText = format.decode(&encoded).unwrap();
                assert_eq!(text.to_string(), value.to_string());
            }
            let mut encoded = Vec::new();
            format.encode(&mut encoded, &row).unwrap();
            let text: JsonText = format.decode(&encoded).unwrap();
            let value: Value = format.decode(&encoded).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text.to_string()).unwrap(), value);
            assert_eq!(text.to_string(), r#"{"bytes":"AP8=","number":18446744073709551615,"map":{"3":1.0}}"#);
        }
    }

    /// As the message of a source's tuple.
    fn message(text: impl AsRef<[u8]>) -> Option<JsonText> {
        match SourceMessage::decode(Format::Json, &[b"{\"message\":", text.as_ref(), b"}"].concat()).ok()? {
            SourceMessage::Tuple(Tuple { message, .. }) => Some(message),
            SourceMessage::Error(error) => panic!("{error}"),
        }
    }

    #[test]
    fn json_stays_the_bytes_that_came() {
        for text in [
            r#"{"z":1.0,"a":1e400,"a":-0,"n":123456789012345678901234567890,"\u0061":"\/\u00fc"}"#,
            r#"{ "a" : [ 1 ,2 ] }"#,
            "[null]",
            r#""\ud83d\ude00""#,
        ] {
            assert_eq!(message(text).unwrap().as_str(), text);
        }
        let pretty = "{\r\n\t\"a\": \"\\n\"\n}";
        let row = message(pretty).unwrap();
        assert_eq!((row.as_str(), row.to_string().as_str()), (pretty, "{  \t\"a\": \"\\n\" }"));
        for text in ["", "{", r#"{"a":01}"#, "NaN", "\"\n\"", "{} {}"] {
            assert_eq!(message(text), None, "{text}");
        }
        assert_eq!(message(b"\"\xff\""), None);
    }
}
