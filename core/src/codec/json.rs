//! JSON, through `serde_json`.

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed, Error as _, IgnoredAny};
use serde_json::{Deserializer, Serializer};

use super::finite::Finite;
use super::{Adapted, Codec, Error, place, plain};

/// The codec that every peer supports.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Codec for Json {
    const NAME: &'static str = "json";

    #[inline]
    fn encode<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> Result<(), Error> {
        let start = buffer.len();
        let mut serializer = Serializer::with_formatter(&mut *buffer, plain::Writer);
        Finite::<_, true>(value).serialize(&mut serializer).map_err(|error| {
            buffer.truncate(start);
            place::located(value, error)
        })
    }

    #[inline]
    fn read<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<(S::Value, usize), Error> {
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
        std::str::from_utf8(&bytes[..length]).map_err(Error::custom)?;
        Ok(length)
    }
}
