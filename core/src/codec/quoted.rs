//! A long JSON text that is a value by itself, such as an argument or a result:
//! found and checked a block at a time, and passed on without a copy.
//!
//! `serde_json` looks at eight bytes of a text at a time, and its check of UTF-8
//! that is not ASCII takes three times as long again. Texts with escapes, and
//! those within objects and lists, are left to it.

use memchr::memchr2;
use serde::de::{DeserializeSeed, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::escape::has_controls;
use super::{Adapted, Error};

/// Minimum length for this optimisation to pay off, in bytes.
const SHORTEST: usize = 64;

/// The text that a JSON document begins with, with its quotes and without
/// escapes.
#[derive(Clone, Copy)]
pub(super) struct Quoted<'a>(&'a str);

impl<'a> Quoted<'a> {
    /// Finds the text at the beginning of `bytes`; `None` if it is short, has
    /// escapes, is malformed, or no text.
    #[inline]
    pub(super) fn find(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < SHORTEST || bytes[0] != b'"' {
            return None;
        }
        let end = 1 + memchr2(b'"', b'\\', &bytes[1..])?;
        if end < SHORTEST || bytes[end] != b'"' {
            return None;
        }
        let json = &bytes[..=end];
        if has_controls(json) {
            return None;
        }
        simdutf8::basic::from_utf8(json).ok().map(Self)
    }

    /// Reads the text; returns its length as well.
    ///
    /// # Errors
    /// The text is malformed, or the value has another type.
    pub(super) fn read<S: DeserializeSeed<'a>>(self, seed: S) -> Result<(S::Value, usize), Error> {
        seed.deserialize(Adapted::new(self)).map(|value| (value, self.0.len()))
    }

    /// The deserializer that knows more than texts.
    fn parsed(self) -> serde_json::Deserializer<serde_json::de::StrRead<'a>> {
        serde_json::Deserializer::from_str(self.0)
    }
}

impl<'de> Deserializer<'de> for Quoted<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(&self.0[1..self.0.len() - 1])
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        // A `RawValue`'s name is known to `serde_json` alone.
        self.parsed().deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.parsed().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::marker::PhantomData;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::codec::{Bytes, Format};

    /// What is read of a text with more behind it, and its length.
    fn read<T: DeserializeOwned>(json: &str) -> Result<(T, usize), Error> {
        Format::Json.read((json.to_owned() + " ,\"more\"").as_bytes(), PhantomData)
    }

    fn texts() -> Vec<String> {
        let mut texts = Vec::new();
        for length in [SHORTEST - 3, SHORTEST - 2, SHORTEST - 1, SHORTEST, 200, 70_000] {
            let plain: String = "é日x"
                .chars()
                .cycle()
                .scan(0, |bytes, c| Some((*bytes, *bytes += c.len_utf8(), c)))
                .take_while(|(bytes, ..)| *bytes < length)
                .map(|(.., c)| c)
                .collect();
            for insert in ["", "\\", "\"", "\n", "\\\"", "\u{1}", "😀"] {
                for place in [0, 5, plain.len() / 5 * 5] {
                    let mut text = plain.clone();
                    let place = (0..=place.min(plain.len())).rfind(|place| plain.is_char_boundary(*place)).unwrap();
                    text.insert_str(place, insert);
                    texts.push(text);
                }
            }
        }
        texts
    }

    #[test]
    fn a_text_is_read_as_serde_json_does() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct New(String);
        for text in texts() {
            let json = serde_json::to_string(&text).unwrap();
            assert_eq!(read::<String>(&json).unwrap(), (text.clone(), json.len()));
            assert_eq!(read::<Value>(&json).unwrap().0, Value::from(&*text));
            assert_eq!(read::<Option<String>>(&json).unwrap().0.as_ref(), Some(&text));
            assert_eq!(read::<New>(&json).unwrap().0, New(text.clone()));
            assert_eq!(read::<Box<RawValue>>(&json).unwrap().0.get(), json);
            assert!(read::<BTreeMap<String, u8>>(&json).unwrap_err().is_data());
            assert!(read::<f64>(&json).unwrap_err().is_data());
            assert!(read::<char>(&json).unwrap_err().is_data());
            assert_eq!(read::<serde::de::IgnoredAny>(&json).unwrap().1, json.len());
            let mut base64 = Vec::new();
            Format::Json.encode(&mut base64, &Bytes(text.clone().into())).unwrap();
            assert_eq!(read::<Bytes>(std::str::from_utf8(&base64).unwrap()).unwrap().0.0, text.as_bytes());
        }
    }

    #[test]
    fn a_variant_may_have_a_long_name() {
        #[derive(Debug, PartialEq, Deserialize)]
        enum Variant {
            #[serde(rename = "0123456789012345678901234567890123456789012345678901234567890123456789")]
            Long,
        }
        let json = "\"0123456789012345678901234567890123456789012345678901234567890123456789\"";
        assert_eq!(read::<Variant>(json).unwrap(), (Variant::Long, json.len()));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let long = "x".repeat(SHORTEST);
        for (head, tail) in [
            ("", ""),
            ("", "\\"),
            ("", "\\\""),
            ("\\q", "\""),
            ("\\ud800", "\""),
            ("\n", "\""),
            ("\0", "\""),
            ("\\n\t", "\""),
        ] {
            let json = format!("\"{head}{long}{tail}");
            let wrong = Format::Json.read::<PhantomData<String>>(json.as_bytes(), PhantomData).unwrap_err();
            let expected = serde_json::from_str::<String>(&json).unwrap_err();
            assert_eq!(wrong.to_string(), expected.to_string(), "{json:?}");
        }
        for bytes in [&b"\xff"[..], b"\xed\xa0\x80", b"\xc3", b"\\n\xff"] {
            let json = [b"\"", long.as_bytes(), bytes, b"\""].concat();
            assert!(Format::Json.read::<PhantomData<String>>(&json, PhantomData).is_err(), "{bytes:?}");
            assert!(Format::Json.decode::<String>(&json).is_err(), "{bytes:?}");
        }
    }
}
