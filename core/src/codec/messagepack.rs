//! MessagePack, written by `rmp-serde`: structs are maps with field names, and
//! types with a human-readable form use it here too, as in JSON.

use rmp_serde::Serializer;
use serde::Serialize;
use serde::de::{DeserializeSeed, Error as _};

use super::finite::Finite;
use super::unpack::Unpacker;
use super::{Adapted, Codec, Error, place};

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
        let mut unpacker = Unpacker::new(bytes);
        let value = seed.deserialize(Adapted::new(&mut unpacker))?;
        Ok((value, bytes.len() - unpacker.rest().len()))
    }

    /// Looks at the markers only: nested values need neither stack nor memory.
    #[inline]
    fn length(bytes: &[u8]) -> Result<usize, Error> {
        let mut at = 0;
        // The number of values still to skip.
        let mut left = 1u64;
        while left > 0 {
            left -= 1;
            let marker = *bytes.get(at).ok_or_else(ends_early)?;
            at += 1;
            let fixed = FIXED[usize::from(marker)];
            if fixed != OTHER {
                at += usize::from(fixed);
                continue;
            }
            // Wider than a 32-bit machine's sizes, which a claim could overflow.
            let (data, values) = match marker {
                0x80..=0x8f => (0, 2 * u64::from(marker & 0xf)),
                0x90..=0x9f => (0, u64::from(marker & 0xf)),
                0xc4 | 0xd9 => (number::<1>(bytes, &mut at)?, 0),
                0xc5 | 0xda => (number::<2>(bytes, &mut at)?, 0),
                0xc6 | 0xdb => (number::<4>(bytes, &mut at)?, 0),
                0xc7 => (number::<1>(bytes, &mut at)? + 1, 0),
                0xc8 => (number::<2>(bytes, &mut at)? + 1, 0),
                0xc9 => (number::<4>(bytes, &mut at)? + 1, 0),
                0xdc => (0, number::<2>(bytes, &mut at)?),
                0xdd => (0, number::<4>(bytes, &mut at)?),
                0xde => (0, 2 * number::<2>(bytes, &mut at)?),
                0xdf => (0, 2 * number::<4>(bytes, &mut at)?),
                _ => return Err(Error::custom("0xc1 is not valid MessagePack")),
            };
            left += values;
            // Each value has at least one byte.
            if data + left > (bytes.len() - at) as u64 {
                return Err(ends_early());
            }
            at += data as usize;
        }
        // The last value's bytes are not there.
        if at > bytes.len() {
            return Err(ends_early());
        }
        Ok(at)
    }
}

/// The number of bytes behind a marker, where it says that alone; otherwise
/// [`OTHER`].
const FIXED: [u8; 256] = {
    let mut lengths = [0; 256];
    let mut marker = 0;
    while marker < 256 {
        lengths[marker] = match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => 0,
            // A short text.
            0xa0..=0xbf => (marker & 0x1f) as u8,
            0xcc | 0xd0 => 1,
            0xcd | 0xd1 => 2,
            0xca | 0xce | 0xd2 => 4,
            0xcb | 0xcf | 0xd3 => 8,
            // An extension type's number, and 1, 2, 4, 8 or 16 bytes.
            0xd4..=0xd8 => 1 + (1 << (marker - 0xd4)),
            _ => OTHER,
        };
        marker += 1;
    }
    lengths
};

const OTHER: u8 = u8::MAX;

/// Reads a length of this many digits.
#[inline]
fn number<const N: usize>(bytes: &[u8], at: &mut usize) -> Result<u64, Error> {
    let digits: &[u8; N] = bytes[*at..].first_chunk().ok_or_else(ends_early)?;
    *at += N;
    Ok(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
}

#[cold]
pub(super) fn ends_early() -> Error {
    Error::custom("unexpected end of a MessagePack value")
}
