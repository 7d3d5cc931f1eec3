//! Finds the number that no message can hold within a value, so that an error
//! can name its path. Only a value that could not be encoded is searched:
//! others cost nothing.

use std::fmt::{self, Write as _};

use serde::ser::{
    self, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::Error;

/// Prefixes the error with the path of its cause: `rows[3].value: NaN is …`.
/// Other errors are returned unchanged.
#[cold]
pub(super) fn located<T: Serialize + ?Sized>(value: &T, error: Error) -> Error {
    let mut path = String::new();
    match value.serialize(Search { path: &mut path }) {
        Err(Stop::Found) if !path.is_empty() => <Error as ser::Error>::custom(format_args!("{path}: {error}")),
        _ => error,
    }
}

/// The reason why a search ended.
#[derive(Debug)]
enum Stop {
    /// The path is that of the cause.
    Found,
    /// The value cannot be searched to its end.
    Other,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the search is over")
    }
}

impl std::error::Error for Stop {}

impl ser::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Other
    }
}

/// A serializer that searches a value; the path is the current position.
struct Search<'a> {
    path: &'a mut String,
}

/// A serializer that searches the parts of a value.
struct Parts<'a> {
    path: &'a mut String,
    /// The length of the whole value's path.
    length: usize,
    /// The number of items so far.
    index: usize,
}

impl Parts<'_> {
    fn look<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
        value.serialize(Search { path: self.path })?;
        self.path.truncate(self.length);
        Ok(())
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
        // Writing to a `String` cannot fail.
        let _ = write!(self.path, "[{}]", self.index);
        self.index += 1;
        self.look(value)
    }

    fn enter(&mut self, key: &str) {
        self.path.truncate(self.length);
        if self.length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
    }
}

impl<'a> Search<'a> {
    fn parts(self) -> Result<Parts<'a>, Stop> {
        let length = self.path.len();
        Ok(Parts { path: self.path, length, index: 0 })
    }

    fn number(self, is_held: bool) -> Result<(), Stop> {
        if is_held { Ok(()) } else { Err(Stop::Found) }
    }

    fn variant(self, name: &str) -> Result<Parts<'a>, Stop> {
        let mut parts = self.parts()?;
        parts.enter(name);
        parts.length = parts.path.len();
        Ok(parts)
    }
}

macro_rules! pass_over {
    ($($method:ident($($type:ty),*);)*) => {
        $(fn $method(self $(, _: $type)*) -> Result<(), Stop> {
            Ok(())
        })*
    };
}

impl<'a> Serializer for Search<'a> {
    type Ok = ();
    type Error = Stop;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    pass_over! {
        serialize_bool(bool); serialize_char(char); serialize_str(&str); serialize_bytes(&[u8]);
        serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
        serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
        serialize_none(); serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    fn serialize_f32(self, v: f32) -> Result<(), Stop> {
        self.number(v.is_finite())
    }

    fn serialize_f64(self, v: f64) -> Result<(), Stop> {
        self.number(v.is_finite())
    }

    fn serialize_i128(self, v: i128) -> Result<(), Stop> {
        self.number(i64::try_from(v).is_ok() || u64::try_from(v).is_ok())
    }

    fn serialize_u128(self, v: u128) -> Result<(), Stop> {
        self.number(u64::try_from(v).is_ok())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Stop> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Stop> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        self.variant(variant)?.look(value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Stop> {
        self.parts()
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, Stop> {
        self.parts()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Stop> {
        self.parts()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Stop> {
        self.variant(variant)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a>, Stop> {
        self.parts()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Stop> {
        self.parts()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Stop> {
        self.variant(variant)
    }
}

macro_rules! items {
    ($($trait:ident: $method:ident;)*) => {
        $(impl $trait for Parts<'_> {
            type Ok = ();
            type Error = Stop;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
                self.item(value)
            }
            fn end(self) -> Result<(), Stop> {
                Ok(())
            }
        })*
    };
}

macro_rules! fields {
    ($($trait:ident;)*) => {
        $(impl $trait for Parts<'_> {
            type Ok = ();
            type Error = Stop;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Stop> {
                self.enter(key);
                self.look(value)
            }
            fn end(self) -> Result<(), Stop> {
                Ok(())
            }
        })*
    };
}

items! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

fields! {
    SerializeStruct;
    SerializeStructVariant;
}

impl SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Stop;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Stop> {
        let key = serde_json::to_value(key).map_err(|_| Stop::Other)?;
        self.enter(key.as_str().map_or_else(|| key.to_string(), str::to_owned).as_str());
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
        self.look(value)
    }

    fn end(self) -> Result<(), Stop> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use crate::codec::Format;

    #[derive(Default, Serialize)]
    struct Row {
        name: String,
        values: Vec<Option<f64>>,
        at: BTreeMap<i32, f32>,
        shape: Option<Shape>,
        large: i128,
    }

    #[derive(Serialize)]
    enum Shape {
        Newtype(f64),
        Tuple(f64, f64),
        Struct { x: f64 },
    }

    fn error(value: &(impl Serialize + ?Sized)) -> String {
        let of = |format: Format| format.encode(&mut Vec::new(), value).unwrap_err().to_string();
        assert_eq!(of(Format::Json), of(Format::MessagePack));
        of(Format::Json)
    }

    #[test]
    fn an_error_names_the_number_that_no_message_can_hold() {
        const TEXT: &str = "NaN is not a number that a message can hold";
        assert_eq!(error(&f64::NAN), TEXT);
        assert_eq!(error(&[1.0, f64::NAN]), format!("[1]: {TEXT}"));
        let row = |values| Row { values, ..Row::default() };
        assert_eq!(error(&row(vec![None, Some(1.0), Some(f64::NAN)])), format!("values[2]: {TEXT}"));
        assert_eq!(error(&[row(vec![]), row(vec![Some(f64::NAN)])]), format!("[1].values[0]: {TEXT}"));
        let rows = BTreeMap::from([("a", row(vec![Some(f64::NAN)]))]);
        assert_eq!(error(&rows), format!("a.values[0]: {TEXT}"));
        assert_eq!(error(&Row { at: [(7, f32::NAN)].into(), ..Row::default() }), format!("at.7: {TEXT}"));
        for (shape, place) in [
            (Shape::Newtype(f64::NAN), "Newtype"),
            (Shape::Tuple(0.0, f64::NAN), "Tuple[1]"),
            (Shape::Struct { x: f64::NAN }, "Struct.x"),
        ] {
            let row = Row { name: "n".into(), shape: Some(shape), ..Row::default() };
            assert_eq!(error(&row), format!("shape.{place}: {TEXT}"));
        }
        let large = error(&Row { large: i128::MAX, ..Row::default() });
        assert!(large.starts_with(&format!("large: {} is not a number", i128::MAX)), "{large}");
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("its own reason"))
            }
        }
        assert_eq!(error(&[Refuses]), "its own reason");
    }
}
