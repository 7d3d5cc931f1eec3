//! Adapts bytes and map keys to the form that the reader asks for, in both
//! codecs.
//!
//! Bytes are encoded as bytes in MessagePack and as base64 text in JSON. The
//! form that a reader gets depends only on its type: a `Value`, a `String` or
//! any other type that accepts anything gets base64 text; a type that asks for
//! bytes ([`Bytes`](super::Bytes), `serde_bytes`, `bytes::Bytes`, `Vec<u8>`,
//! `[u8; N]`) gets bytes, from base64 text too. Likewise, map keys are text for
//! readers that accept anything, and numbers for readers that ask for numbers.
//!
//! Every deserializer of the codecs is wrapped in [`Adapted`], and so is
//! everything that it hands out. A value without bytes is passed on unchanged.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::bytes::{Bytes, text};

/// A deserializer, seed or access that gives its reader bytes in the form that
/// it asks for; with `KEY`, for a map's key.
#[derive(Debug)]
pub struct Adapted<T, const KEY: bool = false>(T);

impl<T> Adapted<T> {
    /// Wraps a deserializer of values that a [`Codec`](super::Codec) has
    /// encoded.
    pub fn new(inner: T) -> Self {
        Self(inner)
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            if KEY { self.0.deserialize_any(NumberKey(visitor)) } else { self.0.$method(visitor) }
        })*
    };
}

macro_rules! forms {
    ($($method:ident($($arg:ident: $type:ty),*): $visitor:expr, $inner:ident;)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            $(let _ = $arg;)*
            self.0.$inner($visitor(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>, const KEY: bool> Deserializer<'de> for Adapted<D, KEY> {
    type Error = D::Error;

    numbers! {
        deserialize_bool
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    // Lists and structs are requested with `deserialize_any`, since a codec may
    // turn bytes into a list when asked for one.
    forms! {
        deserialize_any(): Any::<V, KEY>, deserialize_any;
        deserialize_char(): Any::<V, KEY>, deserialize_char;
        deserialize_str(): Any::<V, KEY>, deserialize_str;
        deserialize_string(): Any::<V, KEY>, deserialize_string;
        deserialize_identifier(): Any::<V, KEY>, deserialize_identifier;
        deserialize_option(): Inside::<V, KEY>, deserialize_option;
        deserialize_unit(): Any::<V, KEY>, deserialize_unit;
        deserialize_map(): Any::<V, KEY>, deserialize_map;
        deserialize_bytes(): AsBytes, deserialize_any;
        deserialize_byte_buf(): AsBytes, deserialize_any;
        deserialize_seq(): AsList, deserialize_any;
        deserialize_tuple(len: usize): AsList, deserialize_any;
        deserialize_tuple_struct(name: &'static str, len: usize): AsList, deserialize_any;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]): Any::<V, KEY>, deserialize_any;
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, Any::<V, KEY>(visitor))
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        if name == Bytes::NEWTYPE {
            return self.deserialize_byte_buf(visitor);
        }
        self.0.deserialize_newtype_struct(name, Inside::<V, KEY>(visitor))
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Any::<V, KEY>(visitor))
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_ignored_any(visitor)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

impl<'de, S: DeserializeSeed<'de>, const KEY: bool> DeserializeSeed<'de> for Adapted<S, KEY> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Adapted::<D, KEY>(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Adapted<A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.0.next_element_seed(Adapted::<T, false>(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Adapted<A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(Adapted::<K, true>(seed))
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.0.next_value_seed(Adapted::<T, false>(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Adapted<A> {
    type Error = A::Error;
    type Variant = Adapted<A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(Adapted::<S, false>(seed)).map(|(value, variant)| (value, Adapted(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Adapted<A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.0.newtype_variant_seed(Adapted::<T, false>(seed))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Any::<V, false>(visitor))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Any::<V, false>(visitor))
    }
}

/// A visitor that passes everything on, bytes as text; in a key, numbers as
/// text too.
struct Any<V, const KEY: bool>(V);

/// A visitor that passes everything on, without adapting the content of a
/// newtype or an option.
struct Inside<V, const KEY: bool>(V);

/// A visitor of bytes that also accepts base64 text.
struct AsBytes<V>(V);

/// A visitor of lists that also accepts bytes or base64 text as a list of `u8`.
struct AsList<V>(V);

/// A visitor of numbers and bools that also accepts text that spells one.
struct NumberKey<V>(V);

macro_rules! visit {
    ($($method:ident($type:ty);)*) => {
        $(#[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$method(value)
        })*
    };
}

/// The methods that all visitors pass on unchanged.
macro_rules! visit_rest {
    () => {
        type Value = V::Value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.expecting(f)
        }

        visit! { visit_char(char); }

        #[inline]
        fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
            self.0.visit_unit()
        }

        #[inline]
        fn visit_none<E: Error>(self) -> Result<V::Value, E> {
            self.0.visit_none()
        }

        #[inline]
        fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
            self.0.visit_map(Adapted(access))
        }

        #[inline]
        fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
            self.0.visit_enum(Adapted(access))
        }
    };
}

macro_rules! visit_numbers {
    () => {
        visit! {
            visit_bool(bool);
            visit_i8(i8); visit_i16(i16); visit_i32(i32); visit_i64(i64); visit_i128(i128);
            visit_u8(u8); visit_u16(u16); visit_u32(u32); visit_u64(u64); visit_u128(u128);
            visit_f32(f32); visit_f64(f64);
        }
    };
}

macro_rules! visit_list {
    () => {
        #[inline]
        fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
            self.0.visit_seq(Adapted(access))
        }
    };
}

/// The methods that pass on text unchanged, and bytes as text.
macro_rules! visit_text {
    () => {
        visit! { visit_str(&str); visit_borrowed_str(&'de str); visit_string(String); }

        fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<V::Value, E> {
            self.0.visit_string(text(value))
        }
    };
}

macro_rules! number_or_text {
    ($($method:ident($type:ty);)*) => {
        $(#[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            if KEY { self.0.visit_string(spelled(value)?) } else { self.0.$method(value) }
        })*
    };
}

/// The key as JSON spells it.
fn spelled<E: Error>(value: impl serde::Serialize) -> Result<String, E> {
    serde_json::to_string(&value).map_err(E::custom)
}

impl<'de, V: Visitor<'de>, const KEY: bool> Visitor<'de> for Any<V, KEY> {
    visit_rest! {}
    visit_list! {}
    visit_text! {}

    number_or_text! {
        visit_bool(bool);
        visit_i8(i8); visit_i16(i16); visit_i32(i32); visit_i64(i64); visit_i128(i128);
        visit_u8(u8); visit_u16(u16); visit_u32(u32); visit_u64(u64); visit_u128(u128);
        visit_f32(f32); visit_f64(f64);
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Adapted::<D, KEY>(deserializer))
    }

    /// An extension type of MessagePack: a list of the type's number and its
    /// bytes.
    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, V: Visitor<'de>, const KEY: bool> Visitor<'de> for Inside<V, KEY> {
    visit_rest! {}
    visit_numbers! {}
    visit_list! {}
    visit_text! {}

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Adapted::<D, KEY>(deserializer))
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Adapted::<D, KEY>(deserializer))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for AsBytes<V> {
    visit_rest! {}
    visit_numbers! {}
    visit_list! {}
    visit! { visit_bytes(&[u8]); visit_borrowed_bytes(&'de [u8]); visit_byte_buf(Vec<u8>); }

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        match STANDARD.decode(value) {
            Ok(bytes) => self.0.visit_byte_buf(bytes),
            Err(error) => Err(E::custom(format_args!("expected bytes, got text that is not base64: {error}"))),
        }
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for AsList<V> {
    visit_rest! {}
    visit_numbers! {}
    visit_list! {}

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<V::Value, E> {
        let mut list = List { rest: value.iter(), is_empty: value.is_empty(), error: PhantomData };
        let read = self.0.visit_seq(&mut list)?;
        match list.rest.len() {
            0 => Ok(read),
            left => Err(E::invalid_length(value.len(), &Fewer(value.len() - left))),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        match STANDARD.decode(value) {
            Ok(bytes) => self.visit_bytes(&bytes),
            Err(_) => Err(E::invalid_type(Unexpected::Str(value), &self)),
        }
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for NumberKey<V> {
    visit_rest! {}
    visit_numbers! {}
    visit_list! {}

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        match serde_json::from_str(value) {
            Ok(number @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
                number.deserialize_any(self.0).map_err(E::custom)
            }
            _ => Err(E::invalid_type(Unexpected::Str(value), &self)),
        }
    }
}

/// Bytes as a list of `u8`. Bytes are not a list of any other number type.
struct List<'a, E> {
    rest: std::slice::Iter<'a, u8>,
    /// Whether the list is empty: then it is not known yet whether its elements
    /// should be `u8`.
    is_empty: bool,
    error: PhantomData<E>,
}

impl<'de, E: Error> SeqAccess<'de> for List<'_, E> {
    type Error = E;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, E> {
        let is_asked = Cell::new(false);
        let byte = self.rest.next().copied();
        if byte.is_none() && !self.is_empty {
            return Ok(None);
        }
        match seed.deserialize(Byte { byte, is_asked: &is_asked, error: PhantomData }) {
            Ok(element) => Ok(byte.map(|_| element)),
            Err(_) if byte.is_none() && is_asked.get() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The number of bytes read from a longer list.
struct Fewer(usize);

impl Expected for Fewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// One element of a list of bytes, or the requested element type of an empty
/// one.
struct Byte<'a, E> {
    byte: Option<u8>,
    /// Whether a `u8` was requested.
    is_asked: &'a Cell<bool>,
    error: PhantomData<E>,
}

impl<'de, E: Error> Deserializer<'de> for Byte<'_, E> {
    type Error = E;

    #[inline]
    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        self.is_asked.set(true);
        match self.byte {
            Some(byte) => visitor.visit_u8(byte),
            None => Err(E::custom("there are no bytes")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_unit()
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        Err(E::invalid_type(Unexpected::Other("bytes, or base64 text"), &visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier
    }
}
