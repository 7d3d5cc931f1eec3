//! The types of arguments, results and configuration fields, and their names.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Field;

/// Maximum depth of a type's name that is read; a deeper one is `any`.
const MAX_DEPTH: usize = 32;

/// The type of an argument, a result or a configuration field.
///
/// As text it is `any`, `bool`, `int`, `float`, `string`, `bytes`, `datetime`,
/// `struct`, or a list such as `list<int>`; a type that may be null ends with
/// `?`, as in `list<float?>`. In JSON the text is the field `type`, and `fields`
/// has the fields of the struct in it, if they are known. An unknown name is
/// read as `any`.
///
/// ```
/// use ekuiper_core::description::DataType;
///
/// let values = DataType::list(DataType::Float.nullable());
/// assert_eq!(values.to_string(), "list<float?>");
/// assert_eq!(serde_json::to_string(&values).unwrap(), r#"{"type":"list<float?>"}"#);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Text", from = "Text")]
#[non_exhaustive]
pub enum DataType {
    /// Any value, null too.
    #[default]
    Any,
    /// `true` or `false`.
    Bool,
    /// An integer.
    Int,
    /// A number.
    Float,
    /// A text.
    String,
    /// Bytes; in JSON, base64 text.
    Bytes,
    /// A moment, as the engine writes it.
    Datetime,
    /// A list of values of one type.
    List(Box<DataType>),
    /// An object with these fields; without any, an object whose fields are
    /// unknown.
    Struct(Vec<Field>),
    /// A value of this type, or null.
    Nullable(Box<DataType>),
}

impl DataType {
    /// A list of values of this type.
    pub fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    /// An object with these fields.
    pub fn of_fields(fields: impl IntoIterator<Item = Field>) -> Self {
        Self::Struct(fields.into_iter().collect())
    }

    /// The same type, or null.
    #[must_use]
    pub fn nullable(self) -> Self {
        match self {
            Self::Any | Self::Nullable(_) => self,
            other => Self::Nullable(Box::new(other)),
        }
    }

    /// Whether null is a value of the type.
    pub fn is_nullable(&self) -> bool {
        matches!(self, Self::Any | Self::Nullable(_))
    }

    /// The type without its nulls.
    pub fn without_null(&self) -> &Self {
        match self {
            Self::Nullable(inner) => inner.without_null(),
            other => other,
        }
    }

    /// The fields of the struct in this type, if there is one and they are
    /// known.
    pub fn fields(&self) -> &[Field] {
        match self {
            Self::Struct(fields) => fields,
            Self::List(inner) | Self::Nullable(inner) => inner.fields(),
            _ => &[],
        }
    }

    fn parse(text: &str, fields: Vec<Field>, depth: usize) -> Self {
        if depth > MAX_DEPTH {
            return Self::Any;
        }
        if let Some(inner) = text.strip_suffix('?') {
            return Self::parse(inner, fields, depth + 1).nullable();
        }
        if let Some(inner) = text.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>')) {
            return Self::list(Self::parse(inner, fields, depth + 1));
        }
        match text {
            "bool" => Self::Bool,
            "int" => Self::Int,
            "float" => Self::Float,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "datetime" => Self::Datetime,
            "struct" => Self::Struct(fields),
            _ => Self::Any,
        }
    }
}

/// Formats the type's name.
impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Datetime => "datetime",
            Self::Struct(_) => "struct",
            Self::List(of) => return write!(f, "list<{of}>"),
            Self::Nullable(of) if of.is_nullable() => return of.fmt(f),
            Self::Nullable(of) => return write!(f, "{of}?"),
        })
    }
}

/// A type in JSON.
#[derive(Serialize, Deserialize)]
struct Text {
    #[serde(rename = "type", default)]
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<Field>,
}

impl From<DataType> for Text {
    fn from(data_type: DataType) -> Self {
        Self { name: data_type.to_string(), fields: data_type.fields().to_vec() }
    }
}

impl From<Text> for DataType {
    fn from(text: Text) -> Self {
        Self::parse(&text.name, text.fields, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> DataType {
        serde_json::from_value(json!({ "type": text })).unwrap()
    }

    #[test]
    fn names_are_read_and_written() {
        for name in [
            "any",
            "bool",
            "int",
            "float",
            "string",
            "bytes",
            "datetime",
            "struct",
            "int?",
            "list<any>",
            "list<list<float?>?>?",
        ] {
            assert_eq!(read(name).to_string(), name);
        }
        assert_eq!(read("any?"), DataType::Any);
        assert_eq!(read("int??"), DataType::Int.nullable());
        for unknown in ["", "decimal", "list<", "list<int", "Int", "?"] {
            assert_eq!(read(unknown), DataType::Any, "{unknown}");
        }
        assert_eq!(read("list<decimal>"), DataType::list(DataType::Any));
    }

    #[test]
    fn a_deep_name_ends() {
        let deep = format!("{}int{}", "list<".repeat(100_000), ">".repeat(100_000));
        assert!(read(&deep).to_string().ends_with("any>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>"));
    }

    #[test]
    fn the_fields_of_a_struct_stay_in_lists_and_nulls() {
        let point =
            DataType::of_fields([Field::new("x", DataType::Float), Field::new("y", DataType::Float.nullable())]);
        let points = DataType::list(point).nullable();
        let text = serde_json::to_value(&points).unwrap();
        assert_eq!(
            text,
            json!({"type": "list<struct>?", "fields": [{"name": "x", "type": "float"}, {"name": "y", "type": "float?"}]})
        );
        assert_eq!(serde_json::from_value::<DataType>(text).unwrap(), points);
    }
}
