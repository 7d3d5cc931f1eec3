//! The fields of a configuration, derived from its type by `schemars`.

use std::cell::RefCell;

use ekuiper_core::description::{ConfigFields, DataType, Field};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// Maximum number of references from one schema to the next.
const MAX_REFERENCES: usize = 8;

/// The fields that the type `T` reads: their types, docs from their doc
/// comments, and defaults from serde's.
///
/// The result is not [exact](ConfigFields::exact), since serde's attributes may
/// read more than the type says. The configuration is checked where the author
/// reads it with [`Config::parse`](crate::Config::parse).
///
/// ```
/// use ekuiper_sdk::prelude::*;
/// use ekuiper_sdk::description::config_of;
///
/// #[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
/// #[serde(default)]
/// struct Settings {
///     /// Milliseconds between two rows.
///     interval: u64,
/// }
///
/// impl Default for Settings {
///     fn default() -> Self {
///         Self { interval: 100 }
///     }
/// }
///
/// let described = SourceDescription::new().config(config_of::<Settings>());
/// let interval = &described.config.unwrap().fields[0];
/// assert_eq!(interval.default, Some(json!(100)));
/// assert_eq!(interval.doc, "Milliseconds between two rows.");
/// ```
pub fn config_of<T: JsonSchema>() -> ConfigFields {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    let definitions = schema["$defs"].as_object().cloned().unwrap_or_default();
    let schemas = Schemas { definitions: &definitions, within: RefCell::new(vec!["#".into()]) };
    let root = schemas.resolved(&schema);
    let mut config = ConfigFields::default();
    config.fields = schemas.fields(&root);
    let further = &root["additionalProperties"];
    config.open = further.is_object() || *further == Value::Bool(true);
    config
}

struct Schemas<'s> {
    definitions: &'s Map<String, Value>,
    /// The references that lead to the current schema.
    within: RefCell<Vec<String>>,
}

impl Schemas<'_> {
    /// A schema with what it refers to. Its own keywords come first.
    fn resolved(&self, schema: &Value) -> Value {
        let mut resolved = schema.clone();
        for _ in 0..MAX_REFERENCES {
            let target = schema_of(&resolved).and_then(|reference| self.target(reference));
            let (Some(target), Some(object)) = (target, resolved.as_object_mut()) else { break };
            object.remove("$ref");
            object.remove("allOf");
            for (keyword, value) in target {
                object.entry(keyword).or_insert(value);
            }
        }
        resolved
    }

    fn target(&self, reference: Value) -> Option<Map<String, Value>> {
        match reference {
            Value::String(path) => self.definitions.get(path.strip_prefix("#/$defs/")?)?.as_object().cloned(),
            Value::Object(schema) => Some(schema),
            _ => None,
        }
    }

    fn fields(&self, schema: &Value) -> Vec<Field> {
        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema["properties"].as_object().into_iter().flatten();
        properties
            .map(|(name, schema)| {
                let mut field = Field::new(name, self.data_type(schema));
                let schema = self.resolved(schema);
                field.values = self.values(&schema);
                field.default = schema.get("default").filter(|default| !default.is_null()).cloned();
                field.optional = field.default.is_some() || !required.contains(&name.as_str());
                field.doc(one_line(schema["description"].as_str().unwrap_or_default()))
            })
            .collect()
    }

    /// The type of a schema; of a recursive one, a struct whose fields are
    /// unknown.
    fn data_type(&self, schema: &Value) -> DataType {
        let resolved = self.resolved(schema);
        let Some(reference) = schema["$ref"].as_str() else { return self.resolved_type(&resolved) };
        if self.within.borrow().iter().any(|outer| outer == reference) {
            return DataType::of_fields([]);
        }
        self.within.borrow_mut().push(reference.to_owned());
        let data_type = self.resolved_type(&resolved);
        self.within.borrow_mut().pop();
        data_type
    }

    fn resolved_type(&self, schema: &Value) -> DataType {
        let one_of = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
        let (named, is_nullable) = match &schema["type"] {
            Value::String(name) => (Some(name.as_str()), false),
            Value::Array(names) => {
                let mut others = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
                let first = others.next();
                (first.filter(|_| others.next().is_none()), names.iter().any(|name| name == "null"))
            }
            _ => (None, false),
        };
        let data_type = match (named, one_of) {
            (Some("boolean"), _) => DataType::Bool,
            (Some("integer"), _) => DataType::Int,
            (Some("number"), _) => DataType::Float,
            (Some("string"), _) if schema["format"] == "date-time" => DataType::Datetime,
            (Some("string"), _) => DataType::String,
            (Some("array"), _) => DataType::list(self.data_type(&schema["items"])),
            (Some("object"), None) => DataType::Struct(self.fields(schema)),
            (None, Some(choices)) => {
                let is_null = |choice: &&Value| choice["type"] == "null";
                let mut types = choices.iter().filter(|choice| !is_null(choice)).map(|choice| self.data_type(choice));
                match types.next() {
                    Some(first) if types.all(|other| other == first) => {
                        if choices.iter().any(|choice| is_null(&choice)) { first.nullable() } else { first }
                    }
                    _ => DataType::Any,
                }
            }
            (None, None) if !self.values(schema).is_empty() => DataType::String,
            _ => DataType::Any,
        };
        if is_nullable { data_type.nullable() } else { data_type }
    }

    /// The only values that are allowed, if they are texts.
    fn values(&self, schema: &Value) -> Vec<Value> {
        let choices = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
        let mut values = choices("enum");
        values.retain(|value| !value.is_null());
        for choice in choices("oneOf").iter().chain(&choices("anyOf")).filter(|choice| choice["type"] != "null") {
            let choice = self.resolved(choice);
            match choice.get("const") {
                Some(value) => values.push(value.clone()),
                None => {
                    let within = self.values(&choice);
                    if within.is_empty() {
                        return Vec::new();
                    }
                    values.extend(within);
                }
            }
        }
        if values.iter().all(Value::is_string) { values } else { Vec::new() }
    }
}

/// What a schema refers to: the path of a definition, or a schema.
fn schema_of(schema: &Value) -> Option<Value> {
    let all_of = || schema["allOf"].as_array().filter(|all| all.len() == 1).map(|all| all[0].clone());
    schema.get("$ref").cloned().or_else(all_of)
}

/// The first paragraph of a doc comment, on one line.
fn one_line(doc: &str) -> String {
    let lines = doc.lines().map(str::trim).skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[expect(dead_code, reason = "the fields are read by their schema only")]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase")]
    struct Settings {
        /// The address
        /// of the server.
        ///
        /// Further text.
        server: Server,
        #[serde(default = "three")]
        max_retries: u8,
        count: Option<u64>,
        #[serde(default)]
        mode: Mode,
        level: Option<Level>,
        tags: Vec<String>,
        weights: Option<Vec<f32>>,
        headers: HashMap<String, String>,
        anything: Value,
        #[serde(default)]
        children: Vec<Settings>,
    }

    fn three() -> u8 {
        3
    }

    #[derive(Deserialize, JsonSchema)]
    struct Server {
        host: String,
        /// The port.
        #[serde(default)]
        port: u16,
    }

    #[derive(Default, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        /// Fast.
        #[default]
        Fast,
        /// Slow.
        Slow,
    }

    #[derive(Deserialize, JsonSchema)]
    enum Level {
        Low,
        High,
    }

    #[test]
    fn a_type_gives_its_fields() {
        let config = config_of::<Settings>();
        assert!(!config.open && !config.exact);
        let named = |name: &str| config.fields.iter().find(|field| field.name == name).unwrap();
        let of = |name: &str| (named(name).data_type.to_string(), named(name).optional);
        let is = |name: &str, optional| (name.to_owned(), optional);
        assert_eq!(of("server"), is("struct", false));
        assert_eq!(named("server").doc, "The address of the server.");
        let server = named("server").data_type.fields();
        assert_eq!((server[1].name.as_str(), server[1].doc.as_str()), ("port", "The port."));
        assert_eq!((server[1].default.clone(), server[0].optional), (Some(json!(0)), false));
        assert_eq!((of("maxRetries"), named("maxRetries").default.clone()), (is("int", true), Some(json!(3))));
        assert_eq!(of("count"), is("int?", true));
        assert_eq!((of("mode"), named("mode").default.clone()), (is("string", true), Some(json!("fast"))));
        assert_eq!(named("mode").values, [json!("fast"), json!("slow")]);
        assert_eq!((of("level"), named("level").values.len()), (is("string?", true), 2));
        assert_eq!([of("tags"), of("weights")], [is("list<string>", false), is("list<float>?", true)]);
        assert_eq!([of("headers"), of("anything")], [is("struct", false), is("any", false)]);
        assert_eq!(of("children"), is("list<struct>", true));
    }

    #[test]
    fn a_type_that_takes_further_fields_is_open() {
        #[derive(Deserialize, JsonSchema)]
        struct Open {
            path: String,
            #[serde(flatten)]
            further: HashMap<String, Value>,
        }
        let config = config_of::<Open>();
        assert!(config.open);
        assert_eq!(config.fields.len(), 1);
    }
}
