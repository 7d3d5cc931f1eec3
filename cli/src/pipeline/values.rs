//! Values of a pipeline's file: configurations, arguments, and what is a table
//! or a list of tables.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

/// One table or several: `[sink]` or `[[sink]]`.
#[derive(Debug)]
pub(super) struct Tables<T>(pub(super) Vec<T>);

impl<T> Default for Tables<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Tables<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany(PhantomData))
    }
}

struct OneOrMany<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
    type Value = Tables<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or several")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Tables<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|table| Tables(vec![table]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tables<T>, A::Error> {
        let mut tables = Vec::new();
        while let Some(table) = seq.next_element()? {
            tables.push(table);
        }
        Ok(Tables(tables))
    }
}

/// An argument of a function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Argument {
    /// The value of this field of the row.
    Field(String),
    /// The same value for each row.
    Constant(Value),
}

impl<'de> Deserialize<'de> for Argument {
    /// Text names a field; any other value is a constant, and so is the value
    /// of `{ value = … }`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(field) => return Ok(Self::Field(field)),
            toml::Value::Table(mut table) => match (table.remove("value"), table.is_empty()) {
                (Some(value), true) => value,
                _ => return Err(D::Error::custom("a constant is { value = … }, without other keys")),
            },
            value => value,
        };
        json("argument", "", value).map(Self::Constant).map_err(D::Error::custom)
    }
}

/// Deserializes a symbol's configuration, which plugins receive as JSON: a date
/// becomes a string, and a value without a JSON form is an error.
pub(super) fn settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let table = toml::Table::deserialize(deserializer)?;
    fields("config field ", "", table).map_err(D::Error::custom)
}

/// Converts the fields of a table, whose own path is `prefix`, to JSON.
fn fields(what: &str, prefix: &str, table: toml::Table) -> Result<Map<String, Value>, String> {
    let field = |(name, value)| Ok((String::clone(&name), json(what, &format!("{prefix}{name}"), value)?));
    table.into_iter().map(field).collect()
}

/// Converts the value at `path` to JSON.
fn json(what: &str, path: &str, value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Float(number) => match Number::from_f64(number) {
            Some(number) => number.into(),
            None => return Err(format!("{what}{path} is {number}, which cannot be sent to a plugin")),
        },
        toml::Value::Array(values) => {
            let element = |(at, value)| json(what, &format!("{path}[{at}]"), value);
            values.into_iter().enumerate().map(element).collect::<Result<_, _>>()?
        }
        toml::Value::Table(table) => Value::Object(fields(what, &format!("{path}."), table)?),
    })
}
