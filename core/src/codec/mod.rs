//! How the values in a message are written: as JSON, which every peer speaks,
//! or as MessagePack, where both ends are ours and have agreed on it.
//!
//! Both carry the same messages, and the same values. Bytes are written as
//! base64 text in JSON and as bytes in MessagePack; under either codec a reader
//! gets them in the form that [it asks for](Adapted). An `f32` keeps its 32 bits
//! in MessagePack, and its shortest decimal form in JSON. NaN and the infinities
//! are an error in both, and so are nesting deeper than 127, integers outside
//! of `i64` and `u64`, and a map's key that is no text, number, bool or bytes.

mod adapt;
mod bytes;
mod finite;
mod json;
mod key;
mod messagepack;
mod place;
mod plain;
mod reader;

pub use adapt::Adapted;
pub use bytes::Bytes;
pub use json::Json;
pub use messagepack::MessagePack;
pub use reader::{Array, Reader};

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed, Error as _};

/// Why a value cannot be written or read: `serde`'s words, whichever the codec.
pub type Error = serde_json::Error;

/// A way to write values.
pub trait Codec {
    /// Its name in control messages and handshakes.
    const NAME: &'static str;

    /// Appends a value to `buffer`, which is as long as it was when that fails.
    ///
    /// # Errors
    /// It cannot be written: a number that is not finite, a map's key that is
    /// no text, or its own reason.
    fn encode<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> Result<(), Error>;

    /// Reads the value that `bytes` begin with; how long it is, too.
    ///
    /// # Errors
    /// They begin with none, or with another type.
    fn read<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<(S::Value, usize), Error>;

    /// How long the value is that `bytes` begin with.
    ///
    /// # Errors
    /// They begin with none.
    fn length(bytes: &[u8]) -> Result<usize, Error>;
}

/// The codec of a channel, chosen when its symbol is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// [`Json`].
    #[default]
    Json,
    /// [`MessagePack`].
    MessagePack,
}

impl Format {
    /// Its name in control messages, handshakes and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => Json::NAME,
            Self::MessagePack => MessagePack::NAME,
        }
    }

    /// The format of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Json, Self::MessagePack].into_iter().find(|format| format.name() == name)
    }

    /// As [`Codec::encode`].
    ///
    /// # Errors
    /// As [`Codec::encode`].
    #[inline]
    pub fn encode<T: Serialize + ?Sized>(self, buffer: &mut Vec<u8>, value: &T) -> Result<(), Error> {
        match self {
            Self::Json => Json::encode(buffer, value),
            Self::MessagePack => MessagePack::encode(buffer, value),
        }
    }

    /// As [`Codec::read`].
    ///
    /// # Errors
    /// As [`Codec::read`].
    #[inline]
    pub fn read<'a, S: DeserializeSeed<'a>>(self, bytes: &'a [u8], seed: S) -> Result<(S::Value, usize), Error> {
        match self {
            Self::Json => Json::read(bytes, seed),
            Self::MessagePack => MessagePack::read(bytes, seed),
        }
    }

    /// As [`Codec::length`].
    ///
    /// # Errors
    /// As [`Codec::length`].
    #[inline]
    pub fn length(self, bytes: &[u8]) -> Result<usize, Error> {
        match self {
            Self::Json => Json::length(bytes),
            Self::MessagePack => MessagePack::length(bytes),
        }
    }

    /// Reads `bytes`, which are one value.
    ///
    /// # Errors
    /// They are none, another type, or more than one.
    #[inline]
    pub fn decode<'a, T: Deserialize<'a>>(self, bytes: &'a [u8]) -> Result<T, Error> {
        match self {
            Self::Json => {
                let mut deserializer = serde_json::Deserializer::from_slice(bytes);
                let value = T::deserialize(Adapted::new(&mut deserializer))?;
                deserializer.end().map(|()| value)
            }
            Self::MessagePack => match self.read(bytes, std::marker::PhantomData)? {
                (value, length) if length == bytes.len() => Ok(value),
                _ => Err(Error::custom("trailing bytes")),
            },
        }
    }
}

#[cfg(test)]
mod tests;
