//! JSON, through `serde_json`.

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed, Error as _, IgnoredAny};
use serde_json::{Deserializer, Serializer};

use super::finite::Finite;
use super::quoted::Quoted;
use super::{Adapted, Codec, Error, escape, place};

/// The codec that every peer supports.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Codec for Json {
    const NAME: &'static str = "json";

    #[inline]
    fn encode<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> Result<(), Error> {
        let start = buffer.len();
        let mut serializer = Serializer::with_formatter(&mut *buffer, escape::Writer);
        Finite::<_, true>(value).serialize(&mut serializer).map_err(|error| {
            buffer.truncate(start);
            place::located(value, error)
        })
    }

    #[inline]
    fn read<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<(S::Value, usize), Error> {
        if let Some(text) = Quoted::find(bytes) {
            return text.read(seed);
        }
        let mut deserializer = Deserializer::from_slice(bytes);
        let value = seed.deserialize(Adapted::new(&mut deserializer))?;
        // The rest is not read: only the position at which it begins is needed.
        Ok((value, deserializer.into_iter::<IgnoredAny>().byte_offset()))
    }

    fn length(bytes: &[u8]) -> Result<usize, Error> {
        let mut deserializer = Deserializer::from_slice(bytes);
        IgnoredAny::deserialize(&mut deserializer)?;
        let length = deserializer.into_iter::<IgnoredAny>().byte_offset();
        // Skipped values are not checked for valid UTF-8 by `serde_json`.
        match simdutf8::basic::from_utf8(&bytes[..length]) {
            Ok(_) => Ok(length),
            Err(_) => Err(not_utf8(&bytes[..length])),
        }
    }
}

/// Decodes `bytes` as exactly one value: see
/// [`Format::decode_with`](super::Format::decode_with).
#[inline]
pub(super) fn decode<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<S::Value, Error> {
    // Checked at once, and not text by text.
    let json = simdutf8::basic::from_utf8(bytes).map_err(|_| not_utf8(bytes))?;
    let mut deserializer = Deserializer::from_str(json);
    let value = seed.deserialize(Adapted::new(&mut deserializer))?;
    deserializer.end().map(|()| value)
}

/// The error for JSON that is not UTF-8, with its place.
#[cold]
fn not_utf8(bytes: &[u8]) -> Error {
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let before = &bytes[..valid];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    Error::custom(format_args!("invalid unicode code point at line {line} column {column}"))
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::*;

    #[test]
    fn the_place_of_a_byte_that_is_not_utf8_is_told() {
        for json in [&b"{\"a\":\n \"x\xff\"}"[..], b"\xff", b"\"\xc3\"", b"[1,\n\n\"\xed\xa0\x80\"]"] {
            let wrong = decode(json, PhantomData::<serde_json::Value>).unwrap_err();
            let skipped = Json::length(json).unwrap_err();
            let expected = serde_json::from_slice::<serde_json::Value>(json).unwrap_err();
            assert_eq!(wrong.line(), expected.line(), "{wrong}");
            assert!(wrong.to_string().starts_with("invalid unicode code point at line "), "{wrong}");
            assert!(json == b"\xff" || wrong.to_string() == skipped.to_string(), "{skipped}");
        }
    }
}
