//! MessagePack, through `rmp-serde`: structs are maps with field names, and
//! types with a human-readable form use it here too, as in JSON.

use rmp::Marker;
use rmp_serde::{Deserializer, Serializer};
use serde::Serialize;
use serde::de::{DeserializeSeed, Error as _};

use super::finite::Finite;
use super::{Adapted, Codec, Error, place};

/// Maximum nesting depth: that of `serde_json`.
const MAX_DEPTH: usize = 128;

/// The codec that only peers of this project support.
#[derive(Clone, Copy, Debug)]
pub struct MessagePack;

impl Codec for MessagePack {
    const NAME: &'static str = "messagepack";

    #[inline]
    fn encode<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> Result<(), Error> {
        let start = buffer.len();
        let mut serializer = Serializer::new(&mut *buffer).with_struct_map().with_human_readable();
        Finite::<_, false>(value).serialize(&mut serializer).map_err(|error| {
            buffer.truncate(start);
            place::located(value, Error::custom(error))
        })
    }

    #[inline]
    fn read<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<(S::Value, usize), Error> {
        let length = Self::length(bytes)?;
        let value = &bytes[..length];
        let mut deserializer = Deserializer::from_read_ref(value).with_human_readable();
        deserializer.set_max_depth(MAX_DEPTH);
        Ok((seed.deserialize(Adapted::new(&mut deserializer)).map_err(Error::custom)?, length))
    }

    /// Looks at the markers only: nested values need neither stack nor memory.
    #[inline]
    fn length(bytes: &[u8]) -> Result<usize, Error> {
        let mut at = 0;
        // The number of values still to skip.
        let mut left = 1u64;
        while left > 0 {
            left -= 1;
            let marker = Marker::from_u8(*bytes.get(at).ok_or_else(ends_early)?);
            at += 1;
            // Wider than a 32-bit machine's sizes, which a claim could overflow.
            let mut number = |width: usize| -> Result<u64, Error> {
                let digits = bytes.get(at..at + width).ok_or_else(ends_early)?;
                at += width;
                Ok(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
            };
            let (data, values) = match marker {
                Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => (0, 0),
                Marker::U8 | Marker::I8 => (1, 0),
                Marker::U16 | Marker::I16 | Marker::FixExt1 => (2, 0),
                Marker::FixExt2 => (3, 0),
                Marker::U32 | Marker::I32 | Marker::F32 => (4, 0),
                Marker::FixExt4 => (5, 0),
                Marker::U64 | Marker::I64 | Marker::F64 => (8, 0),
                Marker::FixExt8 => (9, 0),
                Marker::FixExt16 => (17, 0),
                Marker::FixStr(length) => (length.into(), 0),
                Marker::Str8 | Marker::Bin8 => (number(1)?, 0),
                Marker::Str16 | Marker::Bin16 => (number(2)?, 0),
                Marker::Str32 | Marker::Bin32 => (number(4)?, 0),
                Marker::Ext8 => (number(1)? + 1, 0),
                Marker::Ext16 => (number(2)? + 1, 0),
                Marker::Ext32 => (number(4)? + 1, 0),
                Marker::FixArray(count) => (0, count.into()),
                Marker::Array16 => (0, number(2)?),
                Marker::Array32 => (0, number(4)?),
                Marker::FixMap(count) => (0, 2 * u64::from(count)),
                Marker::Map16 => (0, 2 * number(2)?),
                Marker::Map32 => (0, 2 * number(4)?),
                Marker::Reserved => return Err(Error::custom("0xc1 is not valid MessagePack")),
            };
            left += values;
            // Each value has at least one byte.
            if data + left > (bytes.len() - at) as u64 {
                return Err(ends_early());
            }
            at += data as usize;
        }
        Ok(at)
    }
}

fn ends_early() -> Error {
    Error::custom("unexpected end of a MessagePack value")
}
