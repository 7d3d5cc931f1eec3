//! A decoder of an encoded array's values, one after the other, each as its own
//! type.

use std::marker::PhantomData;

use rmp::Marker;
use serde::de::{Deserialize, DeserializeSeed, Error as _};

use super::{Error, Format};

/// A decoder of consecutive values.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    format: Format,
    rest: &'a [u8],
}

/// An array that a [`Reader`] has entered.
#[derive(Clone, Debug)]
pub struct Array {
    /// The number of remaining elements; unused in JSON, which does not state
    /// it.
    left: u32,
    is_first: bool,
}

impl<'a> Reader<'a> {
    /// Creates a reader of `bytes`.
    pub fn new(format: Format, bytes: &'a [u8]) -> Self {
        Self { format, rest: bytes }
    }

    /// The format of the values.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The bytes that have not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Enters an array.
    ///
    /// # Errors
    /// No array follows.
    #[inline]
    pub fn array(&mut self) -> Result<Array, Error> {
        let left = match self.format {
            Format::Json => {
                self.skip_space();
                self.rest = self.rest.strip_prefix(b"[").ok_or_else(no_array)?;
                0
            }
            Format::MessagePack => self.array_length()?,
        };
        Ok(Array { left, is_first: true })
    }

    /// Moves to the next element; returns false at the end of the array, which
    /// has then been left.
    ///
    /// # Errors
    /// Neither an element nor the array's end follows.
    #[inline]
    pub fn has_next(&mut self, array: &mut Array) -> Result<bool, Error> {
        let is_first = std::mem::replace(&mut array.is_first, false);
        if self.format == Format::MessagePack {
            let Some(left) = array.left.checked_sub(1) else { return Ok(false) };
            array.left = left;
            return Ok(true);
        }
        self.skip_space();
        match self.rest {
            [b']', rest @ ..] => {
                self.rest = rest;
                Ok(false)
            }
            [b',', rest @ ..] if !is_first => {
                self.rest = rest;
                Ok(true)
            }
            [_, ..] if is_first => Ok(true),
            _ => Err(Error::custom("expected `,` or `]`")),
        }
    }

    /// Decodes the next value.
    ///
    /// # Errors
    /// No value follows, or one of another type.
    #[inline]
    pub fn value<T: Deserialize<'a>>(&mut self) -> Result<T, Error> {
        self.seed(PhantomData)
    }

    /// Decodes the next value with a seed.
    ///
    /// # Errors
    /// As [`Reader::value`].
    #[inline]
    pub fn seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (value, length) = self.format.read(self.rest, seed)?;
        self.rest = &self.rest[length..];
        Ok(value)
    }

    /// Skips the next value, and returns its encoded form.
    ///
    /// # Errors
    /// No value follows.
    #[inline]
    pub fn raw(&mut self) -> Result<&'a [u8], Error> {
        self.skip_space();
        let length = self.format.length(self.rest)?;
        let (value, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(value)
    }

    /// Skips exactly these bytes, if they follow.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> bool {
        self.rest.strip_prefix(bytes).inspect(|rest| self.rest = rest).is_some()
    }

    /// Enters a MessagePack map; returns its number of keys.
    pub(crate) fn map_length(&mut self) -> Result<u32, Error> {
        match self.marker()? {
            Marker::FixMap(count) => Ok(count.into()),
            Marker::Map16 => Ok(u32::from(u16::from_be_bytes(self.digits()?))),
            Marker::Map32 => Ok(u32::from_be_bytes(self.digits()?)),
            _ => Err(Error::custom("expected a map")),
        }
    }

    fn array_length(&mut self) -> Result<u32, Error> {
        match self.marker()? {
            Marker::FixArray(count) => Ok(count.into()),
            Marker::Array16 => Ok(u32::from(u16::from_be_bytes(self.digits()?))),
            Marker::Array32 => Ok(u32::from_be_bytes(self.digits()?)),
            _ => Err(no_array()),
        }
    }

    fn marker(&mut self) -> Result<Marker, Error> {
        self.digits::<1>().map(|[marker]| Marker::from_u8(marker))
    }

    fn digits<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (digits, rest) =
            self.rest.split_first_chunk().ok_or_else(|| Error::custom("unexpected end of a MessagePack value"))?;
        self.rest = rest;
        Ok(*digits)
    }

    #[inline]
    fn skip_space(&mut self) {
        if self.format == Format::Json {
            while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
                self.rest = rest;
            }
        }
    }
}

fn no_array() -> Error {
    Error::custom("expected an array")
}
