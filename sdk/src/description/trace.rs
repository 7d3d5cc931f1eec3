//! The type that a `Deserialize` implementation reads, found by a deserializer
//! that records what it is asked for.
//!
//! It answers with the smallest values: one element for a list, one value for
//! each field of a struct. An implementation that refuses such a value ends the
//! attempt; the next one leaves out the field that was refused. What was
//! recorded before stays. Recursive types, enums and deep or large types end as
//! `any`.

use std::cell::RefCell;
use std::fmt;

use ekuiper_core::description::{DataType, Field};
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer};
use serde::de::{MapAccess, SeqAccess, VariantAccess, Visitor};

use crate::Bytes;
use crate::panic::catch_panic;

/// Maximum number of values in one attempt.
const MAX_VALUES: usize = 1000;

/// Maximum depth of lists, options and structs.
const MAX_DEPTH: usize = 16;

/// Maximum number of attempts for a type of which parts refuse their values.
const MAX_ATTEMPTS: usize = 32;

/// The type that `T` reads.
pub(crate) fn traced<T: DeserializeOwned>() -> DataType {
    let mut found = DataType::Any;
    let mut refused = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        let state = RefCell::new(State { refused, ..State::default() });
        let mut slot = DataType::Any;
        // An implementation may panic at a value that nobody would send.
        let read = catch_panic(|| Ok(T::deserialize(Tracer { state: &state, slot: &mut slot, depth: 0 }).is_ok()));
        found = merged(found, slot);
        let state = state.into_inner();
        refused = state.refused;
        match (read, state.failed) {
            (Ok(false), Some(path)) if state.values <= MAX_VALUES && !refused.contains(&path) => refused.push(path),
            _ => break,
        }
    }
    found
}

/// What two attempts have found.
fn merged(old: DataType, new: DataType) -> DataType {
    match (old, new) {
        (old, DataType::Any) => old,
        (DataType::List(old), DataType::List(new)) => DataType::list(merged(*old, *new)),
        (DataType::Nullable(old), DataType::Nullable(new)) => merged(*old, *new).nullable(),
        (DataType::Struct(old), DataType::Struct(new)) if old.len() == new.len() => {
            let fields = old.into_iter().zip(new);
            DataType::of_fields(fields.map(|(old, new)| Field::new(old.name, merged(old.data_type, new.data_type))))
        }
        (_, new) => new,
    }
}

#[derive(Default)]
struct State {
    /// The fields that have refused their value, by their path.
    refused: Vec<Vec<&'static str>>,
    path: Vec<&'static str>,
    /// The field that refused its value in this attempt.
    failed: Option<Vec<&'static str>>,
    values: usize,
    /// The names and fields of the structs that the current value is in: a
    /// struct within itself has no end.
    structs: Vec<(&'static str, &'static [&'static str])>,
}

struct Tracer<'s, 't> {
    state: &'s RefCell<State>,
    /// The type of the value that is asked for.
    slot: &'t mut DataType,
    depth: usize,
}

impl Tracer<'_, '_> {
    /// Records a type; an error if the whole type is too large or too deep.
    fn record(&mut self, data_type: DataType) -> Result<(), Error> {
        let mut state = self.state.borrow_mut();
        state.values += 1;
        if state.values > MAX_VALUES || self.depth > MAX_DEPTH {
            return Err(Error::custom("the type is too large"));
        }
        *self.slot = data_type;
        Ok(())
    }
}

/// A visitor's description of what it expects.
struct Expects<'v, V>(&'v V);

impl<'de, V: Visitor<'de>> fmt::Display for Expects<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

/// `datetime` for a visitor that says that it reads one, and `otherwise` for
/// others. Time types ask for text, or for anything.
fn perhaps_datetime<'de, V: Visitor<'de>>(visitor: &V, otherwise: DataType) -> DataType {
    let expects = Expects(visitor).to_string().to_lowercase();
    let is_datetime = ["datetime", "date and time", "timestamp"].iter().any(|word| expects.contains(word));
    if is_datetime { DataType::Datetime } else { otherwise }
}

macro_rules! scalars {
    ($($method:ident: $data_type:ident, $visit:ident($($value:expr)?);)*) => {
        $(fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            self.record(DataType::$data_type)?;
            visitor.$visit($($value)?)
        })*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            self.record(perhaps_datetime(&visitor, DataType::String))?;
            visitor.visit_str("")
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_, '_> {
    type Error = Error;

    // One and not zero: there are types without a zero.
    scalars! {
        deserialize_bool: Bool, visit_bool(false);
        deserialize_i8: Int, visit_i8(1);
        deserialize_i16: Int, visit_i16(1);
        deserialize_i32: Int, visit_i32(1);
        deserialize_i64: Int, visit_i64(1);
        deserialize_i128: Int, visit_i128(1);
        deserialize_u8: Int, visit_u8(1);
        deserialize_u16: Int, visit_u16(1);
        deserialize_u32: Int, visit_u32(1);
        deserialize_u64: Int, visit_u64(1);
        deserialize_u128: Int, visit_u128(1);
        deserialize_f32: Float, visit_f32(1.0);
        deserialize_f64: Float, visit_f64(1.0);
        deserialize_char: String, visit_char('a');
        deserialize_bytes: Bytes, visit_bytes(&[]);
        deserialize_byte_buf: Bytes, visit_byte_buf(Vec::new());
        deserialize_unit: Any, visit_unit();
        deserialize_ignored_any: Any, visit_unit();
    }

    texts! { deserialize_str deserialize_string deserialize_identifier }

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.record(perhaps_datetime(&visitor, DataType::Any))?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.record(DataType::Any)?;
        let Self { state, slot, depth } = self;
        let inner = Tracer { state, slot: &mut *slot, depth: depth + 1 };
        let read = visitor.visit_some(inner);
        *slot = std::mem::take(slot).nullable();
        read
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == Bytes::NEWTYPE {
            return self.deserialize_byte_buf(visitor);
        }
        // Recorded by what is within; a newtype within itself has an end, too.
        self.record(DataType::Any)?;
        self.depth += 1;
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_tuple(1, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.record(DataType::list(DataType::Any))?;
        let mut items = Items { state: self.state, depth: self.depth + 1, left: len, types: Vec::new() };
        let read = visitor.visit_seq(&mut items);
        let mut types = items.types.into_iter();
        if let Some(first) = types.next()
            && types.all(|other| other == first)
        {
            *self.slot = DataType::list(first);
        }
        read
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.record(DataType::of_fields([]))?;
        let mut fields = Vec::new();
        visitor.visit_map(Fields { state: self.state, names: [].iter(), depth: self.depth + 1, fields: &mut fields })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.record(DataType::of_fields([]))?;
        if self.state.borrow().structs.iter().any(|outer| outer.0 == name && std::ptr::eq(outer.1, names)) {
            return Err(Error::custom("the type is recursive"));
        }
        self.state.borrow_mut().structs.push((name, names));
        let mut fields: Vec<_> = names.iter().map(|name| Field::new(*name, DataType::Any)).collect();
        let within = Fields { state: self.state, names: names.iter(), depth: self.depth + 1, fields: &mut fields };
        let read = visitor.visit_map(within);
        self.state.borrow_mut().structs.pop();
        *self.slot = DataType::Struct(fields);
        read
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.record(DataType::Any)?;
        visitor.visit_enum(Variant { state: self.state, name: variants.first().unwrap_or(&""), depth: self.depth + 1 })
    }
}

/// The items of a list.
struct Items<'s> {
    state: &'s RefCell<State>,
    depth: usize,
    left: usize,
    types: Vec<DataType>,
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut slot = DataType::Any;
        let read = seed.deserialize(Tracer { state: self.state, slot: &mut slot, depth: self.depth });
        self.types.push(slot);
        read.map(Some)
    }
}

/// The fields of a struct.
struct Fields<'s, 't> {
    state: &'s RefCell<State>,
    names: std::slice::Iter<'static, &'static str>,
    depth: usize,
    fields: &'t mut [Field],
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        for name in self.names.by_ref() {
            let mut state = self.state.borrow_mut();
            state.path.push(name);
            if !state.refused.contains(&state.path) {
                drop(state);
                return seed.deserialize(StrDeserializer::new(name)).map(Some);
            }
            state.path.pop();
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut slot = DataType::Any;
        let read = seed.deserialize(Tracer { state: self.state, slot: &mut slot, depth: self.depth });
        let mut state = self.state.borrow_mut();
        if let Some(field) = state.path.last().and_then(|name| self.fields.iter_mut().find(|field| field.name == *name))
        {
            field.data_type = slot;
        }
        if read.is_err() && state.failed.is_none() {
            state.failed = Some(state.path.clone());
        }
        state.path.pop();
        read
    }
}

/// The first variant of an enum.
struct Variant<'s> {
    state: &'s RefCell<State>,
    name: &'static str,
    depth: usize,
}

impl Variant<'_> {
    fn tracer<'t>(&'t self, slot: &'t mut DataType) -> Tracer<'t, 't> {
        Tracer { state: self.state, slot, depth: self.depth }
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.tracer(&mut DataType::Any))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.tracer(&mut DataType::Any).deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.tracer(&mut DataType::Any).deserialize_struct("", names, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::net::IpAddr;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    fn name<T: DeserializeOwned>() -> String {
        traced::<T>().to_string()
    }

    /// The fields of a struct, as one text.
    fn fields<T: DeserializeOwned>() -> String {
        let described = traced::<T>();
        let fields = described.fields().iter().map(|field| format!("{}: {}", field.name, field.data_type));
        fields.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_is_asked_for_is_recorded() {
        assert_eq!([name::<bool>(), name::<u8>(), name::<i128>(), name::<NonZeroU64>()], ["bool", "int", "int", "int"]);
        assert_eq!([name::<f32>(), name::<String>(), name::<char>()], ["float", "string", "string"]);
        assert_eq!([name::<Bytes>(), name::<Value>(), name::<()>()], ["bytes", "any", "any"]);
        assert_eq!(
            [name::<Vec<f64>>(), name::<[i64; 3]>(), name::<(u8, u8)>()],
            ["list<float>", "list<int>", "list<int>"]
        );
        assert_eq!([name::<HashSet<String>>(), name::<(u8, String)>()], ["list<string>", "list<any>"]);
        assert_eq!([name::<Option<i64>>(), name::<Vec<Option<f64>>>()], ["int?", "list<float?>"]);
        assert_eq!([name::<Option<Option<bool>>>(), name::<Option<Value>>()], ["bool?", "any"]);
        assert_eq!([name::<HashMap<String, f64>>(), name::<BTreeMap<u8, u8>>()], ["struct", "struct"]);
        assert_eq!([name::<IpAddr>(), name::<std::path::PathBuf>()], ["string", "string"]);
        assert_eq!(name::<Vec<Vec<bool>>>(), "list<list<bool>>");
        assert_eq!(fields::<Duration>(), "secs: int, nanos: int");
    }

    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Point {
        x: f64,
        #[serde(rename = "Y")]
        y: Option<i32>,
    }

    #[test]
    fn fields_of_structs_are_known() {
        assert_eq!(fields::<Point>(), "x: float, Y: int?");
        assert_eq!(name::<Vec<Point>>(), "list<struct>");
        assert_eq!(fields::<Vec<Point>>(), "x: float, Y: int?");
        #[derive(Deserialize)]
        #[expect(dead_code)]
        struct Wrapped(Point);
        assert_eq!(fields::<Wrapped>(), "x: float, Y: int?");
    }

    #[derive(Deserialize)]
    #[expect(dead_code)]
    enum Shape {
        Circle { radius: f64 },
        Nothing,
    }

    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Picky {
        address: IpAddr,
        shape: Shape,
        inner: PickyInside,
        count: u64,
    }

    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct PickyInside {
        first: IpAddr,
        second: Vec<bool>,
    }

    #[test]
    fn a_field_that_refuses_its_value_does_not_hide_the_others() {
        assert_eq!(fields::<Picky>(), "address: string, shape: any, inner: struct, count: int");
        let described = traced::<Picky>();
        let inner: Vec<_> =
            described.fields()[2].data_type.fields().iter().map(|field| field.data_type.to_string()).collect();
        assert_eq!(inner, ["string", "list<bool>"]);
        assert_eq!(name::<Shape>(), "any");
    }

    #[test]
    fn recursive_and_large_types_end() {
        #[derive(Deserialize)]
        #[expect(dead_code)]
        struct Node {
            value: i64,
            children: Vec<Node>,
            parent: Option<Box<Node>>,
            last: bool,
        }
        let said = fields::<Node>();
        assert_eq!(said, "value: int, children: list<struct>, parent: struct?, last: bool");
        #[derive(Deserialize)]
        #[expect(dead_code)]
        struct Root {
            tree: Node,
            other: Node,
            last: bool,
        }
        assert_eq!(fields::<Root>(), "tree: struct, other: struct, last: bool");
        #[derive(Deserialize)]
        #[expect(dead_code)]
        struct Wide<T> {
            a: T,
            b: T,
            c: T,
            d: T,
        }
        type Wider<T> = Wide<Wide<Wide<Wide<T>>>>;
        assert_eq!(name::<Wider<Wider<u8>>>(), "struct");
        #[derive(Deserialize)]
        #[expect(dead_code)]
        struct Endless(Box<Endless>);
        assert_eq!(name::<Endless>(), "any");
        #[derive(Deserialize)]
        #[expect(dead_code)]
        enum Expression {
            Not(Box<Expression>),
        }
        assert_eq!(name::<Expression>(), "any");
    }

    #[test]
    fn moments_are_known_by_what_their_readers_expect() {
        struct Moment;
        struct ReadsText;
        impl Visitor<'_> for ReadsText {
            type Value = Moment;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 formatted date and time string")
            }
        }
        impl<'de> Deserialize<'de> for Moment {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(ReadsText)
            }
        }
        assert_eq!(name::<Moment>(), "datetime");
    }

    #[test]
    fn a_reader_that_panics_is_endured() {
        struct Bomb;
        impl<'de> Deserialize<'de> for Bomb {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                assert!(!text.is_empty(), "nobody sends that");
                Ok(Self)
            }
        }
        assert_eq!(name::<Bomb>(), "string");
    }
}
