//! The configuration of a source or sink: its fields, and the check of what an
//! engine passes.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::DataType;
use crate::message::SymbolKind;
use crate::spelling::meant;

/// A field of a configuration or of a struct, or an argument of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Field {
    /// The name; empty for an argument whose name is unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The type.
    #[serde(flatten)]
    pub data_type: DataType,
    /// Whether the field or argument may be left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The value of a field that is left out, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// The only values that are allowed; empty if there is no such list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Value>,
    /// What the field means; empty if that is unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doc: String,
}

impl Field {
    /// A field that must be given.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Self { name: name.into(), data_type, ..Self::default() }
    }

    /// Makes the field optional.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Makes the field optional, with this value if it is left out.
    #[must_use]
    pub fn default_value(mut self, value: impl Into<Value>) -> Self {
        self.optional = true;
        self.default = Some(value.into()).filter(|value| !value.is_null());
        self
    }

    /// Allows only these values.
    #[must_use]
    pub fn one_of<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.values = values.into_iter().map(Into::into).collect();
        self
    }

    /// Says what the field means.
    #[must_use]
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.doc = doc.into();
        self
    }
}

/// The fields of a source's or sink's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConfigFields {
    /// The known fields.
    #[serde(default)]
    pub fields: Vec<Field>,
    /// Whether the configuration may have fields that are not listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Whether a configuration that does not fit is certainly wrong. What is
    /// derived from a type is not exact: the type's own reading may take more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

/// A field of a configuration that does not fit its description.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Misfit {
    /// The field's path, such as `server.port` or `brokers[2]`.
    pub field: String,
    /// What was expected and what was given.
    pub text: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.text)
    }
}

/// A field of a configuration that is not in its description.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownField {
    /// The field's path.
    pub field: String,
    /// The path of the field that was probably meant.
    pub meant: Option<String>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown config field {:?}", self.field)?;
        self.meant.iter().try_for_each(|meant| write!(f, ": did you mean {meant:?}?"))
    }
}

impl ConfigFields {
    /// A configuration with exactly these fields.
    pub fn new(fields: impl IntoIterator<Item = Field>) -> Self {
        Self { fields: fields.into_iter().collect(), open: false, exact: true }
    }

    /// Checks, if the description is [exact](Self::exact), that all fields that
    /// must be given are given, and that those that are given have the right
    /// types. A field that may be left out may be null.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn check(&self, config: &Map<String, Value>) -> Result<(), Misfit> {
        if self.exact { check_fields("", &self.fields, config) } else { Ok(()) }
    }

    /// The fields of a configuration that neither this description nor eKuiper
    /// knows.
    pub fn unknown(&self, kind: SymbolKind, config: &Map<String, Value>) -> Vec<UnknownField> {
        let mut said = Vec::new();
        if !self.open {
            let engine: &[&str] = match kind {
                SymbolKind::Source => &ENGINE_SOURCE_FIELDS,
                SymbolKind::Sink => &ENGINE_SINK_FIELDS,
                SymbolKind::Function => &[],
            };
            unknown_fields("", &self.fields, engine, config, &mut said);
        }
        said
    }
}

/// The fields that eKuiper adds to a source's configuration, or reads in it
/// (`GetSourceConf`, `SourcePropsForSplit`, `limitConf`).
pub(super) const ENGINE_SOURCE_FIELDS: [&str; 24] = [
    "bufferLength",
    "connectionSelector",
    "datasource",
    "decompression",
    "delimiter",
    "format",
    "hasHeader",
    "interval",
    "key",
    "mergeField",
    "merger",
    "payloadBatchField",
    "payloadDelimiter",
    "payloadField",
    "payloadFormat",
    "payloadSchemaId",
    "retainSize",
    "ruleId",
    "schemaId",
    "sendInterval",
    "strictValidation",
    "timestamp",
    "timestampFormat",
    "colAliasMapping",
];

/// The fields of a rule's action that are eKuiper's or the host's (`SinkConf`).
const ENGINE_SINK_FIELDS: [&str; 37] = [
    "batchSize",
    "bufferLength",
    "bufferPageSize",
    "cleanCacheAtStop",
    "compression",
    "compressionProps",
    "concurrency",
    "connectionSelector",
    "dataField",
    "dataTemplate",
    "delimiter",
    "diskSyncInterval",
    "enableCache",
    "encProps",
    "encryption",
    "excludeFields",
    "fields",
    "format",
    "hasHeader",
    "lingerInterval",
    "maxDiskCache",
    "memoryCacheThreshold",
    "omitIfEmpty",
    "requireAck",
    "resendAlterQueue",
    "resendDestination",
    "resendIndicatorField",
    "resendInterval",
    "resendPriority",
    "resourceId",
    "retryCount",
    "retryInterval",
    "runAsync",
    "schemaId",
    "sendSingle",
    "stringify",
    "tableDataField",
];

impl<const N: usize> From<[Field; N]> for ConfigFields {
    fn from(fields: [Field; N]) -> Self {
        Self::new(fields)
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check_fields(path: &str, fields: &[Field], given: &Map<String, Value>) -> Result<(), Misfit> {
    for field in fields {
        let place = || below(path, &field.name);
        match given.get(&field.name) {
            Some(Value::Null) if field.optional => {}
            Some(value) => {
                check_value(&place(), &field.data_type, value)?;
                if !field.values.is_empty() && !field.values.contains(value) {
                    let allowed: Vec<_> = field.values.iter().map(Value::to_string).collect();
                    let text = format!("invalid value: {}, expected one of {}", named(value), allowed.join(", "));
                    return Err(Misfit { field: place(), text });
                }
            }
            None if field.optional || matches!(field.data_type, DataType::Nullable(_)) => {}
            None => return Err(Misfit { field: place(), text: format!("missing field `{}`", field.name) }),
        }
    }
    Ok(())
}

fn check_value(path: &str, data_type: &DataType, value: &Value) -> Result<(), Misfit> {
    let fits = match (data_type, value) {
        (DataType::Any, _) | (DataType::Nullable(_), Value::Null) => true,
        (DataType::Nullable(inner), _) => return check_value(path, inner, value),
        (DataType::Bool, Value::Bool(_)) | (DataType::String, Value::String(_)) => true,
        // Go writes a float without a fraction as an integer, and the other way
        // round nothing is lost either.
        (DataType::Int, Value::Number(number)) => {
            number.is_i64() || number.is_u64() || number.as_f64().is_some_and(is_whole)
        }
        (DataType::Float, Value::Number(_)) => true,
        (DataType::Bytes, Value::String(_) | Value::Array(_)) => true,
        (DataType::Datetime, Value::String(_) | Value::Number(_)) => true,
        (DataType::List(of), Value::Array(items)) => {
            return items
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| check_value(&format!("{path}[{index}]"), of, item));
        }
        (DataType::Struct(fields), Value::Object(given)) => return check_fields(path, fields, given),
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => {
            let text = format!("invalid type: {}, expected {data_type}", named(value));
            Err(Misfit { field: path.to_owned(), text })
        }
    }
}

/// Returns whether a float is an integer of 64 bits.
fn is_whole(number: f64) -> bool {
    number.fract() == 0.0 && (i64::MIN as f64..u64::MAX as f64).contains(&number)
}

/// Names a value as serde's errors do.
fn named(value: &Value) -> String {
    const LETTERS: usize = 100;
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => format!("boolean `{value}`"),
        Value::Number(number) if number.is_f64() => format!("floating point `{number}`"),
        Value::Number(number) => format!("integer `{number}`"),
        Value::String(text) => match text.char_indices().nth(LETTERS) {
            Some((end, _)) => format!("string {:?}…", &text[..end]),
            None => format!("string {text:?}"),
        },
        Value::Array(_) => "sequence".into(),
        Value::Object(_) => "map".into(),
    }
}

fn unknown_fields(
    path: &str,
    fields: &[Field],
    engine: &[&str],
    given: &Map<String, Value>,
    said: &mut Vec<UnknownField>,
) {
    for (name, value) in given {
        if let Some(field) = fields.iter().find(|field| field.name == *name) {
            unknown_within(&below(path, name), &field.data_type, value, said);
        } else if !engine.contains(&name.as_str()) {
            let known = || fields.iter().map(|field| field.name.as_str());
            // eKuiper adds the source's defaults, so that the field that was
            // meant may be there.
            let absent = meant(name, known().filter(|name| !given.contains_key(*name)));
            let meant = absent.or_else(|| meant(name, known())).map(|meant| below(path, meant));
            said.push(UnknownField { field: below(path, name), meant });
        }
    }
}

fn unknown_within(path: &str, data_type: &DataType, value: &Value, said: &mut Vec<UnknownField>) {
    match (data_type.without_null(), value) {
        (DataType::Struct(fields), Value::Object(given)) if !fields.is_empty() => {
            unknown_fields(path, fields, &[], given, said);
        }
        (DataType::List(of), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                unknown_within(&format!("{path}[{index}]"), of, item, said);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields() -> ConfigFields {
        let broker = DataType::of_fields([
            Field::new("host", DataType::String),
            Field::new("port", DataType::Int).default_value(1883),
        ]);
        ConfigFields::new([
            Field::new("topic", DataType::String),
            Field::new("brokers", DataType::list(broker)).optional(),
            Field::new("interval", DataType::Int).default_value(100),
            Field::new("factor", DataType::Float.nullable()),
            Field::new("anything", DataType::Any).optional(),
            Field::new("mode", DataType::String).one_of(["fast", "slow"]).default_value("fast"),
            Field::new("headers", DataType::of_fields([])).optional(),
        ])
    }

    fn misfit(config: Value) -> String {
        fields().check(config.as_object().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_fits_is_taken() {
        for config in [
            json!({"topic": "a"}),
            json!({"topic": "a", "brokers": null, "interval": 5.0, "factor": null, "mode": "slow"}),
            json!({"topic": "a", "brokers": [{"host": "h"}, {"host": "h", "port": 1}], "factor": 2, "later": 1}),
        ] {
            assert_eq!(fields().check(config.as_object().unwrap()), Ok(()), "{config}");
        }
    }

    #[test]
    fn a_misfit_names_field_expected_and_given() {
        for (config, said) in [
            (json!({}), "topic: missing field `topic`"),
            (json!({"topic": null}), "topic: invalid type: null, expected string"),
            (json!({"topic": "a", "interval": "soon"}), "interval: invalid type: string \"soon\", expected int"),
            (json!({"topic": "a", "interval": 1.5}), "interval: invalid type: floating point `1.5`, expected int"),
            (json!({"topic": "a", "interval": 1e30}), "interval: invalid type: floating point `1e+30`, expected int"),
            (json!({"topic": "a", "factor": true}), "factor: invalid type: boolean `true`, expected float"),
            (
                json!({"topic": "a", "brokers": [{"host": "h"}, {"host": "h", "port": "x"}]}),
                "brokers[1].port: invalid type: string \"x\", expected int",
            ),
            (json!({"topic": "a", "brokers": [{}]}), "brokers[0].host: missing field `host`"),
            (json!({"topic": "a", "brokers": {}}), "brokers: invalid type: map, expected list<struct>"),
            (
                json!({"topic": "a", "mode": "fats"}),
                "mode: invalid value: string \"fats\", expected one of \"fast\", \"slow\"",
            ),
        ] {
            assert_eq!(misfit(config), said);
        }
        let any = ConfigFields::new([Field::new("any", DataType::Any)]);
        assert_eq!(any.check(&Map::new()).unwrap_err().to_string(), "any: missing field `any`");
        let long = misfit(json!({ "topic": "a", "interval": "x".repeat(1 << 20) }));
        assert!(long.len() < 300, "{}", long.len());
    }

    #[test]
    fn unknown_fields_are_told_with_what_was_meant() {
        let unknown = |kind, config: Value| {
            let unknown = fields().unknown(kind, config.as_object().unwrap());
            unknown.iter().map(UnknownField::to_string).collect::<Vec<_>>()
        };
        let config = json!({
            "topic": "a", "intervall": 5, "colour": "red", "brokers": [{"host": "h", "prot": 1}],
            "headers": {"X-Any": 1}, "format": "json", "strictValidation": false,
        });
        assert_eq!(
            unknown(SymbolKind::Source, config.clone()),
            [
                "unknown config field \"brokers[0].prot\": did you mean \"brokers[0].port\"?",
                "unknown config field \"colour\"",
                "unknown config field \"intervall\": did you mean \"interval\"?",
            ]
        );
        // As eKuiper passes on what a stream adds to the defaults.
        let merged = json!({"topic": "a", "interval": 100, "intervall": 5});
        assert_eq!(
            unknown(SymbolKind::Source, merged),
            ["unknown config field \"intervall\": did you mean \"interval\"?"]
        );
        assert_eq!(unknown(SymbolKind::Sink, json!({"topic": "a", "sendSingle": true, "requireAck": true})), [""; 0]);
        let mut open = fields();
        open.open = true;
        assert_eq!(open.unknown(SymbolKind::Source, config.as_object().unwrap()), []);
    }
}
