//! JSON in which an object gives each of its fields once: of two, a reader would
//! keep one, and its writer may have meant the other.

use std::fmt;

use ekuiper_core::printable::excerpt;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::de::SliceRead;
use serde_json::{Map, Value};

type Result<T, E = serde_json::Error> = std::result::Result<T, E>;

/// Reads any value.
///
/// # Errors
/// The text is no JSON, or gives a field twice.
pub(super) fn value(text: &[u8]) -> Result<Value> {
    read(text, |deserializer| deserializer.deserialize_any(Unique { wanted: "any value" }))
}

/// Reads an object.
///
/// # Errors
/// As [`value`], or it is none.
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>> {
    match read(text, |deserializer| deserializer.deserialize_map(Unique { wanted: "a map" }))? {
        Value::Object(fields) => Ok(fields),
        other => unreachable!("a map was asked for, not {other}"),
    }
}

/// Reads a list.
///
/// # Errors
/// As [`value`], or it is none.
pub(super) fn list(text: &[u8]) -> Result<Vec<Value>> {
    match read(text, |deserializer| deserializer.deserialize_seq(Unique { wanted: "a sequence" }))? {
        Value::Array(values) => Ok(values),
        other => unreachable!("a sequence was asked for, not {other}"),
    }
}

fn read<'t>(
    text: &'t [u8],
    read: impl FnOnce(&mut serde_json::Deserializer<SliceRead<'t>>) -> Result<Value>,
) -> Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = read(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// A reader of values.
#[derive(Clone, Copy)]
struct Unique {
    /// What is to be there.
    wanted: &'static str,
}

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format!("the field {:?} is given twice", excerpt(&name))));
            }
            fields.insert(name, map.next_value_seed(self)?);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_given_once() {
        let text = br#"{"a":{"b":[null,true,-1,2,1.5,"x",{}]},"b":{"a":1}}"#;
        assert_eq!(Value::Object(object(text).unwrap()), serde_json::from_slice::<Value>(text).unwrap());
        for (twice, name) in
            [(r#"{"a":1,"b":2,"a":1}"#, "a"), (r#"{"x":[{"b":1,"b":{}}]}"#, "b"), (r#"{"a":1,"\u0061":2}"#, "a")]
        {
            let said = object(twice.as_bytes()).unwrap_err().to_string();
            assert!(said.starts_with(&format!("the field {name:?} is given twice at line 1")), "{said}");
        }
        assert_eq!(list(b"[1,{}] ").unwrap(), [Value::from(1), Value::Object(Map::new())]);
        assert!(list(br#"[{"a":1,"a":2}]"#).is_err() && list(b"{}").is_err() && value(br#"{"a":1,"a":2}"#).is_err());
        for none in ["", "[]", "1", "null", "{} {}", "{"] {
            assert!(object(none.as_bytes()).is_err(), "{none}");
        }
    }
}
