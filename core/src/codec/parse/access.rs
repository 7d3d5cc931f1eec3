//! What a visitor of lists, objects and variants reads from.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::super::Error;
use super::{Parser, RAW};

/// The values of a list.
pub(super) struct Values<'a, 'de> {
    parser: &'a mut Parser<'de>,
    is_first: bool,
}

impl<'a, 'de> Values<'a, 'de> {
    #[inline]
    pub(super) fn new(parser: &'a mut Parser<'de>) -> Self {
        Self { parser, is_first: true }
    }

    #[inline]
    fn has_next(&mut self) -> Result<bool, Error> {
        let parser = &mut *self.parser;
        let is_first = std::mem::replace(&mut self.is_first, false);
        match parser.token() {
            Some(b']') => Ok(false),
            Some(_) if is_first => Ok(true),
            Some(b',') => {
                parser.at += 1;
                match parser.value()? {
                    b']' => Err(parser.fault("trailing comma")),
                    _ => Ok(true),
                }
            }
            Some(_) => Err(parser.fault("expected `,` or `]`")),
            None => Err(parser.fault("EOF while parsing a list")),
        }
    }
}

impl<'de> SeqAccess<'de> for Values<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.has_next()? { seed.deserialize(&mut *self.parser).map(Some) } else { Ok(None) }
    }
}

/// The entries of an object.
pub(super) struct Entries<'a, 'de> {
    parser: &'a mut Parser<'de>,
    is_first: bool,
}

impl<'a, 'de> Entries<'a, 'de> {
    #[inline]
    pub(super) fn new(parser: &'a mut Parser<'de>) -> Self {
        Self { parser, is_first: true }
    }

    #[inline]
    fn has_next(&mut self) -> Result<bool, Error> {
        let parser = &mut *self.parser;
        // As nearly all keys but the first begin.
        if !self.is_first && parser.bytes.get(parser.at..).is_some_and(|rest| rest.starts_with(b",\"")) {
            parser.at += 1;
            return Ok(true);
        }
        self.has_unusual()
    }

    #[inline(never)]
    fn has_unusual(&mut self) -> Result<bool, Error> {
        let parser = &mut *self.parser;
        let is_first = std::mem::replace(&mut self.is_first, false);
        match parser.token() {
            Some(b'}') => Ok(false),
            Some(b'"') if is_first => Ok(true),
            Some(_) if is_first => Err(parser.fault("key must be a string")),
            Some(b',') => {
                parser.at += 1;
                match parser.value()? {
                    b'"' => Ok(true),
                    b'}' => Err(parser.fault("trailing comma")),
                    _ => Err(parser.fault("key must be a string")),
                }
            }
            Some(_) => Err(parser.fault("expected `,` or `}`")),
            None => Err(parser.fault("EOF while parsing an object")),
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if self.has_next()? { seed.deserialize(Key(self.parser)).map(Some) } else { Ok(None) }
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        self.parser.colon()?;
        seed.deserialize(&mut *self.parser)
    }
}

/// A key, whose quote follows.
pub(super) struct Key<'a, 'de>(&'a mut Parser<'de>);

impl<'de> Deserializer<'de> for Key<'_, 'de> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.text::<V, true>(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match name {
            RAW => self.0.deserialize_newtype_struct(name, visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant of an enum: behind its name, or within an object's braces.
pub(super) struct Variant<'a, 'de> {
    pub(super) parser: &'a mut Parser<'de>,
    pub(super) has_value: bool,
}

impl Variant<'_, '_> {
    fn check(&self, what: &'static str) -> Result<(), Error> {
        if self.has_value { Ok(()) } else { Err(Error::invalid_type(Unexpected::UnitVariant, &what)) }
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        if !self.has_value {
            return Ok((seed.deserialize(&mut *self.parser)?, self));
        }
        match self.parser.token() {
            Some(b'"') => {}
            Some(b'}') => return Err(self.parser.fault("expected value")),
            Some(_) => return Err(self.parser.fault("key must be a string")),
            None => return Err(self.parser.fault("EOF while parsing an object")),
        }
        let name = seed.deserialize(Key(self.parser)).map_err(|error| self.parser.placed(error))?;
        self.parser.colon()?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        if self.has_value { Deserialize::deserialize(self.parser) } else { Ok(()) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.check("newtype variant")?;
        seed.deserialize(self.parser)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.check("tuple variant")?;
        self.parser.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.check("struct variant")?;
        self.parser.deserialize_struct("", fields, visitor)
    }
}

/// A value as it is, in the form of `serde_json`'s `RawValue`: an object of one
/// key and the JSON.
pub(super) struct RawText<'de>(Option<&'de str>);

impl<'de> RawText<'de> {
    pub(super) fn read(parser: &mut Parser<'de>) -> Result<Self, Error> {
        parser.token();
        parser.raw().map(|json| Self(Some(json)))
    }
}

impl<'de> MapAccess<'de> for RawText<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.0.map(|_| seed.deserialize(BorrowedStrDeserializer::new(RAW))).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(BorrowedStrDeserializer::new(self.0.take().unwrap_or_default()))
    }
}
