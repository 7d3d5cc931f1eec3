//! Reading JSON from a slice: what `serde_json` reads and refuses, in three fifths
//! of the time. Every record and every argument in JSON comes through here.
//!
//! The errors have the words and the places of `serde_json`. Always within
//! [`Adapted`](super::Adapted), which asks for bytes, lists and numeric keys as
//! values of any type.

mod access;
mod fault;
mod number;
mod skip;
mod text;

use serde::de::{Deserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::Error;
pub(super) use fault::not_utf8;

use access::{Entries, RawText, Values, Variant};

/// Maximum nesting depth.
const MAX_DEPTH: u8 = 128;

/// The name by which a `RawValue` asks for JSON as it is.
const RAW: &str = "$serde_json::private::RawValue";

/// A deserializer of the value at the beginning of a slice.
pub(super) struct Parser<'de> {
    bytes: &'de [u8],
    /// The number of bytes that have been read.
    at: usize,
    /// How many more values may be in each other.
    depth: u8,
    /// The last text with escapes, without them.
    unescaped: Vec<u8>,
}

impl<'de> Parser<'de> {
    #[inline]
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Self { bytes, at: 0, depth: MAX_DEPTH, unescaped: Vec::new() }
    }

    /// The number of bytes that have been read.
    #[inline]
    pub(super) fn length(&self) -> usize {
        self.at
    }

    /// Checks that nothing follows but white space.
    #[inline]
    pub(super) fn end(&mut self) -> Result<(), Error> {
        match self.token() {
            None => Ok(()),
            Some(_) => Err(self.fault("trailing characters")),
        }
    }

    /// The next byte.
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no white space, which is skipped.
    #[inline]
    fn token(&mut self) -> Option<u8> {
        match self.peek() {
            Some(byte) if byte > b' ' => Some(byte),
            _ => self.skip_space(),
        }
    }

    #[inline(never)]
    fn skip_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    /// The first byte of the value that follows.
    #[inline]
    fn value(&mut self) -> Result<u8, Error> {
        self.token().ok_or_else(|| self.fault("EOF while parsing a value"))
    }

    /// Reads `null`, `true` or `false`, whose first letter follows.
    #[inline]
    fn word(&mut self, word: &str) -> Result<(), Error> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.no_word(word));
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads a value.
    #[inline]
    fn any<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let read = match self.value()? {
            b'"' => self.text::<V, false>(visitor),
            b'-' | b'0'..=b'9' => self.number(false)?.visit(visitor),
            b'{' => self.map(visitor),
            b'[' => self.list(visitor),
            b't' => {
                self.word("true")?;
                visitor.visit_bool(true)
            }
            b'f' => {
                self.word("false")?;
                visitor.visit_bool(false)
            }
            b'n' => {
                self.word("null")?;
                visitor.visit_unit()
            }
            _ => Err(self.fault("expected value")),
        };
        read.map_err(|error| self.placed(error))
    }

    /// Visits the text whose quote follows.
    #[inline]
    fn text<V: Visitor<'de>, const KEY: bool>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.characters::<KEY>()? {
            Some(text) => visitor.visit_borrowed_str(text),
            None => visitor.visit_str(self.unescaped()?),
        }
    }

    /// Visits the list whose bracket follows.
    #[inline]
    fn list<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let read = self.inside(|parser| visitor.visit_seq(Values::new(parser)))?;
        self.ended(read, Self::end_of_list)
    }

    /// Visits the object whose brace follows.
    #[inline]
    fn map<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let read = self.inside(|parser| visitor.visit_map(Entries::new(parser)))?;
        self.ended(read, Self::end_of_object)
    }

    /// Reads the end of a list or an object. The place of a visitor's error is
    /// behind it; behind an error that has its place, nothing is looked for, at
    /// whatever depth that is.
    #[inline]
    fn ended<T>(
        &mut self,
        read: Result<T, Error>,
        end: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<T, Error> {
        match read {
            Err(error) if error.line() != 0 => Err(error),
            read => {
                let end = end(self);
                read.and_then(|read| end.map(|()| read))
            }
        }
    }

    /// Reads what is between brackets or braces, the first of which follows.
    #[inline]
    fn inside<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Result<T, Error> {
        let Some(left @ 1..) = self.depth.checked_sub(1) else {
            return Err(self.fault("recursion limit exceeded"));
        };
        self.depth = left;
        self.at += 1;
        let read = read(self);
        self.depth += 1;
        Ok(read)
    }

    #[inline]
    fn end_of_list(&mut self) -> Result<(), Error> {
        match self.token() {
            Some(b']') => {
                self.at += 1;
                Ok(())
            }
            Some(b',') => {
                self.at += 1;
                match self.token() {
                    Some(b']') => Err(self.fault("trailing comma")),
                    _ => Err(self.fault("trailing characters")),
                }
            }
            Some(_) => Err(self.fault("trailing characters")),
            None => Err(self.fault("EOF while parsing a list")),
        }
    }

    #[inline]
    fn end_of_object(&mut self) -> Result<(), Error> {
        match self.token() {
            Some(b'}') => {
                self.at += 1;
                Ok(())
            }
            Some(b',') => Err(self.fault("trailing comma")),
            Some(_) => Err(self.fault("trailing characters")),
            None => Err(self.fault("EOF while parsing an object")),
        }
    }

    #[inline]
    fn colon(&mut self) -> Result<(), Error> {
        match self.token() {
            Some(b':') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.fault("expected `:`")),
            None => Err(self.fault("EOF while parsing an object")),
        }
    }
}

macro_rules! values {
    ($($method:ident($($type:ty),*) |$parser:ident, $visitor:ident| { $($first:pat => $read:expr,)* })*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $(_: $type,)* $visitor: V) -> Result<V::Value, Error> {
            let $parser = self;
            let read = match $parser.value()? {
                $($first => $read,)*
                _ => return Err($parser.wrong(&$visitor)),
            };
            read.map_err(|error| $parser.placed(error))
        })*
    };
}

macro_rules! numbers {
    ($($method:ident: $single:literal;)*) => {
        values! {
            $($method() |parser, visitor| { b'-' | b'0'..=b'9' => parser.number($single)?.visit(visitor), })*
        }
    };
}

impl<'de> Deserializer<'de> for &mut Parser<'de> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.any(visitor)
    }

    numbers! {
        deserialize_i8: false; deserialize_i16: false; deserialize_i32: false; deserialize_i64: false;
        deserialize_u8: false; deserialize_u16: false; deserialize_u32: false; deserialize_u64: false;
        deserialize_f32: true; deserialize_f64: false;
    }

    values! {
        deserialize_bool() |parser, visitor| {
            b't' => parser.word("true").and_then(|()| visitor.visit_bool(true)),
            b'f' => parser.word("false").and_then(|()| visitor.visit_bool(false)),
        }
        deserialize_str() |parser, visitor| { b'"' => parser.text::<V, false>(visitor), }
        deserialize_unit() |parser, visitor| { b'n' => parser.word("null").and_then(|()| visitor.visit_unit()), }
        deserialize_seq() |parser, visitor| { b'[' => parser.list(visitor), }
        deserialize_map() |parser, visitor| { b'{' => parser.map(visitor), }
        deserialize_struct(&'static str, &'static [&'static str]) |parser, visitor| {
            b'{' => parser.map(visitor),
            b'[' => parser.list(visitor),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let digits = self.wide(true)?;
        let number = digits.parse().map_err(|_| self.fault_behind("number out of range"))?;
        visitor.visit_i128(number).map_err(|error| self.placed(error))
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let digits = self.wide(false)?;
        let number = digits.parse().map_err(|_| self.fault_behind("number out of range"))?;
        visitor.visit_u128(number).map_err(|error| self.placed(error))
    }

    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'n') => {
                self.word("null")?;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match name {
            RAW => visitor.visit_map(RawText::read(self)?),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    /// A variant is its name, or an object of its name and its value.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value()? {
            b'"' => visitor.visit_enum(Variant { parser: self, has_value: false }),
            b'{' => {
                let read = self.inside(|parser| visitor.visit_enum(Variant { parser, has_value: true }))??;
                match self.token() {
                    Some(b'}') => {
                        self.at += 1;
                        Ok(read)
                    }
                    Some(_) => Err(self.fault_behind("expected value")),
                    None => Err(self.fault_behind("EOF while parsing an object")),
                }
            }
            _ => Err(self.fault("expected value")),
        }
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.raw()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bytes byte_buf tuple tuple_struct
    }
}

#[cfg(test)]
mod tests;
