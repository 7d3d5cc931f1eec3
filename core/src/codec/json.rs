//! JSON: written through `serde_json`, read by a parser of our own.

use serde::Serialize;
use serde::de::DeserializeSeed;
use serde_json::Serializer;

use super::finite::Finite;
use super::parse::{Parser, not_utf8};
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
        let mut parser = Parser::new(bytes);
        let value = seed.deserialize(Adapted::new(&mut parser))?;
        Ok((value, parser.length()))
    }

    fn length(bytes: &[u8]) -> Result<usize, Error> {
        let mut parser = Parser::new(bytes);
        parser.raw()?;
        Ok(parser.length())
    }
}

/// Decodes `bytes` as exactly one value: see
/// [`Format::decode_with`](super::Format::decode_with).
#[inline]
pub(super) fn decode<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<S::Value, Error> {
    let mut parser = Parser::new(bytes);
    let read = seed.deserialize(Adapted::new(&mut parser));
    read.and_then(|value| parser.end().map(|()| value)).map_err(|error| of_utf8(bytes, error))
}

/// The error, unless the bytes are not UTF-8, which is said before all else.
#[cold]
fn of_utf8(bytes: &[u8], error: Error) -> Error {
    if simdutf8::basic::from_utf8(bytes).is_ok() { error } else { not_utf8(bytes, 0) }
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
