//! The codecs of values in messages: JSON, which every peer supports, and
//! MessagePack, if host and plugin are both of this project and have agreed on
//! it.
//!
//! Both codecs carry the same messages and the same values. Bytes are base64
//! text in JSON and bytes in MessagePack; with either codec a reader gets the
//! form that [it asks for](Adapted). An `f32` keeps its 32 bits in MessagePack,
//! and its shortest decimal form in JSON. Both codecs refuse NaN and the
//! infinities, nesting deeper than 127, integers outside `i64` and `u64`, and
//! map keys other than text, numbers, bools and bytes.

mod adapt;
mod bytes;
mod escape;
mod finite;
mod json;
mod key;
mod messagepack;
mod number;
mod parse;
mod place;
mod plain;
mod reader;
mod unpack;
mod utf8;

pub use adapt::Adapted;
pub use bytes::Bytes;
pub use json::Json;
pub use messagepack::MessagePack;
pub use reader::{Array, Reader};

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed, Error as _};

/// The reason why a value cannot be encoded or decoded, in `serde`'s words for
/// both codecs.
pub type Error = serde_json::Error;

/// A codec of values.
pub trait Codec {
    /// The codec's name in control messages and handshakes.
    const NAME: &'static str;

    /// Appends a value to `buffer`; on an error, `buffer` keeps its former
    /// length.
    ///
    /// # Errors
    /// The value cannot be encoded: a number that is not finite, a map key
    /// without a text form, or an error of the value's own.
    fn encode<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> Result<(), Error>;

    /// Decodes the value at the beginning of `bytes`; returns its length as
    /// well.
    ///
    /// # Errors
    /// `bytes` do not begin with a value, or begin with one of another type.
    fn read<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<(S::Value, usize), Error>;

    /// The length of the value at the beginning of `bytes`.
    ///
    /// # Errors
    /// `bytes` do not begin with a value.
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
    /// The format's name in control messages, handshakes and options.
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

    /// Appends a value to `buffer`: see [`Codec::encode`].
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

    /// Decodes the value at the beginning of `bytes`: see [`Codec::read`].
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

    /// The length of the value at the beginning of `bytes`: see
    /// [`Codec::length`].
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

    /// Decodes `bytes` as exactly one value.
    ///
    /// # Errors
    /// `bytes` are no value, a value of another type, or more than one.
    #[inline]
    pub fn decode<'a, T: Deserialize<'a>>(self, bytes: &'a [u8]) -> Result<T, Error> {
        self.decode_with(bytes, std::marker::PhantomData)
    }

    /// Decodes `bytes` as exactly one value, with a seed.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    #[inline]
    pub fn decode_with<'a, S: DeserializeSeed<'a>>(self, bytes: &'a [u8], seed: S) -> Result<S::Value, Error> {
        match self {
            Self::Json => json::decode(bytes, seed),
            Self::MessagePack => match self.read(bytes, seed)? {
                (value, length) if length == bytes.len() => Ok(value),
                _ => Err(Error::custom("trailing bytes")),
            },
        }
    }
}

#[cfg(test)]
mod tests;
