//! Refuses values that one codec can encode and the other cannot.
//!
//! `serde_json` writes NaN and the infinities as `null`: a wrong value without
//! an error (fault 17). Here they are an error in both codecs. In JSON, bytes
//! are written as text, and long text is escaped in [blocks](escape).

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::bytes::text;
use super::escape;
use super::key::Key;
use super::number::{check, too_large};

/// A value whose numbers are checked while it is encoded; with `TEXT`, as text
/// for [`escape::Writer`].
pub(super) struct Finite<'a, T: ?Sized, const TEXT: bool>(pub(super) &'a T);

impl<T: Serialize + ?Sized, const TEXT: bool> Serialize for Finite<'_, T, TEXT> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(FiniteSerializer::<_, TEXT>(serializer))
    }
}

/// A serializer that passes everything on except numbers that are not finite.
struct FiniteSerializer<S, const TEXT: bool>(S);

/// The common beginning of the names of `serde_json`'s types whose content is
/// JSON text.
const JSON_TEXT: &str = "$serde_json::private::";

/// The name of the one that holds any value.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

macro_rules! pass_on {
    ($($method:ident($($arg:ident: $type:ty),*);)*) => {
        $(#[inline]
        fn $method(self $(, $arg: $type)*) -> Result<S::Ok, S::Error> {
            self.0.$method($($arg),*)
        })*
    };
}

macro_rules! open_compound {
    ($($method:ident($($arg:ident: $type:ty),*) -> $compound:ident;)*) => {
        $(
            type $compound = FiniteSerializer<S::$compound, TEXT>;
            fn $method(self $(, $arg: $type)*) -> Result<Self::$compound, S::Error> {
                self.0.$method($($arg),*).map(FiniteSerializer)
            }
        )*
    };
}

impl<S: Serializer, const TEXT: bool> Serializer for FiniteSerializer<S, TEXT> {
    type Ok = S::Ok;
    type Error = S::Error;

    pass_on! {
        serialize_bool(v: bool); serialize_char(v: char);
        serialize_i8(v: i8); serialize_i16(v: i16); serialize_i32(v: i32); serialize_i64(v: i64);
        serialize_u8(v: u8); serialize_u16(v: u16); serialize_u32(v: u32); serialize_u64(v: u64);
        serialize_none(); serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    open_compound! {
        serialize_seq(len: Option<usize>) -> SerializeSeq;
        serialize_tuple(len: usize) -> SerializeTuple;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct;
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeTupleVariant;
        serialize_map(len: Option<usize>) -> SerializeMap;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeStructVariant;
    }

    type SerializeStruct = Fields<S::SerializeStruct, TEXT>;

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        if !TEXT && name == RAW_VALUE {
            return Err(S::Error::custom("a RawValue is JSON text, and cannot be part of MessagePack: use a Value"));
        }
        let is_json = name.starts_with(JSON_TEXT);
        self.0.serialize_struct(name, len).map(|fields| Fields { fields, is_json })
    }

    #[inline]
    fn serialize_str(self, v: &str) -> Result<S::Ok, S::Error> {
        if TEXT && escape::is_long(v) {
            escape::leave(v);
            return self.0.serialize_str("");
        }
        self.0.serialize_str(v)
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<S::Ok, S::Error> {
        if TEXT { self.serialize_str(&text(v)) } else { self.0.serialize_bytes(v) }
    }

    fn serialize_i128(self, v: i128) -> Result<S::Ok, S::Error> {
        match (i64::try_from(v), u64::try_from(v)) {
            (Ok(v), _) => self.0.serialize_i64(v),
            (_, Ok(v)) => self.0.serialize_u64(v),
            _ => Err(too_large(v)),
        }
    }

    fn serialize_u128(self, v: u128) -> Result<S::Ok, S::Error> {
        let v = u64::try_from(v).map_err(|_| too_large(v))?;
        self.0.serialize_u64(v)
    }

    fn serialize_f32(self, v: f32) -> Result<S::Ok, S::Error> {
        check(v.into())?;
        self.0.serialize_f32(v)
    }

    fn serialize_f64(self, v: f64) -> Result<S::Ok, S::Error> {
        check(v)?;
        self.0.serialize_f64(v)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Finite::<_, TEXT>(value))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Finite::<_, TEXT>(value))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_variant(name, index, variant, &Finite::<_, TEXT>(value))
    }

    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! elements {
    ($($trait:ident: $method:ident;)*) => {
        $(impl<S: $trait, const TEXT: bool> $trait for FiniteSerializer<S, TEXT> {
            type Ok = S::Ok;
            type Error = S::Error;
            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.0.$method(&Finite::<_, TEXT>(value))
            }
            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}

elements! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

/// The serializer of a struct's fields.
struct Fields<S, const TEXT: bool> {
    fields: S,
    /// Whether the struct is one field with JSON text.
    is_json: bool,
}

impl<S: SerializeStruct, const TEXT: bool> SerializeStruct for Fields<S, TEXT> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
        if self.is_json {
            return self.fields.serialize_field(key, value);
        }
        self.fields.serialize_field(key, &Finite::<_, TEXT>(value))
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
        self.fields.skip_field(key)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.fields.end()
    }
}

impl<S: SerializeStructVariant, const TEXT: bool> SerializeStructVariant for FiniteSerializer<S, TEXT> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
        self.0.serialize_field(key, &Finite::<_, TEXT>(value))
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
        self.0.skip_field(key)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

impl<S: SerializeMap, const TEXT: bool> SerializeMap for FiniteSerializer<S, TEXT> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        if TEXT {
            self.0.serialize_key(&Finite::<_, TEXT>(key))
        } else {
            self.0.serialize_key(&Finite::<_, TEXT>(&Key(key)))
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_value(&Finite::<_, TEXT>(value))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::{Codec, Json};
    use serde::Serialize;
    use serde_json::json;
    use serde_json::value::RawValue;

    #[derive(Serialize)]
    enum Shape {
        Unit,
        Newtype(f64),
        Tuple(f32, u8),
        Struct { a: Option<f64>, b: Vec<(u8, String)> },
    }

    fn write(value: &(impl Serialize + ?Sized)) -> Result<String, serde_json::Error> {
        let mut buffer = Vec::new();
        Json::encode(&mut buffer, value).map(|()| String::from_utf8(buffer).unwrap())
    }

    #[test]
    fn what_json_holds_is_written_as_ever() {
        let raw = RawValue::from_string("{\"x\" : 1.50}".into()).unwrap();
        let shapes = [
            Shape::Unit,
            Shape::Newtype(1.5),
            Shape::Tuple(0.5, 2),
            Shape::Struct { a: Some(1e300), b: vec![(1, "é\n".into())] },
        ];
        assert_eq!(write(&shapes).unwrap(), serde_json::to_string(&shapes).unwrap());
        let value = json!({"a": [null, true, -1, 2.5, "t", {}], "b": {"c": u64::MAX}});
        assert_eq!(write(&value).unwrap(), value.to_string());
        assert_eq!(write(&*raw).unwrap(), raw.get());
        assert_eq!(write(&None::<f64>).unwrap(), "null");
    }

    #[test]
    fn long_texts_are_written_as_short_ones_are_wherever_they_stand() {
        #[derive(Serialize)]
        #[serde(tag = "kind")]
        enum Tagged {
            One { text: String },
        }
        #[derive(Serialize)]
        struct Flat {
            #[serde(flatten)]
            map: std::collections::BTreeMap<String, String>,
            raw: Box<RawValue>,
            newtype: Shape,
        }
        for text in ["x".repeat(100), "é\"\n".repeat(30), "x".repeat(100_000)] {
            let raw = serde_json::to_string(&[&text]).unwrap();
            let flat = Flat {
                map: [(text.clone(), text.clone())].into(),
                raw: RawValue::from_string(raw).unwrap(),
                newtype: Shape::Struct { a: None, b: vec![(1, text.clone())] },
            };
            let all = (&text, Tagged::One { text: text.clone() }, flat, json!({ &text: [&text, "short"] }));
            assert_eq!(write(&all).unwrap(), serde_json::to_string(&all).unwrap());
        }
    }

    #[test]
    fn what_it_does_not_hold_is_an_error_wherever_it_stands() {
        let error = write(&f64::NAN).unwrap_err().to_string();
        assert_eq!(error, "NaN is not a number that a message can hold");
        assert!(write(&[1.0, f64::INFINITY]).is_err());
        assert!(write(&(1, f32::NEG_INFINITY)).is_err());
        assert!(write(&std::collections::BTreeMap::from([("k", f64::NAN)])).is_err());
        assert!(write(&Shape::Newtype(f64::NAN)).is_err());
        assert!(write(&Shape::Tuple(f32::NAN, 0)).is_err());
        assert!(write(&Shape::Struct { a: Some(f64::NAN), b: Vec::new() }).is_err());
    }
}
