//! Any description is read as it was written, and gives files that parse again
//! and have the structure that eKuiper reads.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

use std::collections::BTreeMap;

use ekuiper_core::description::{
    ConfigFields, DataType, Description, Field, FunctionDescription, Sdk, SinkDescription, SourceDescription,
    Volatility,
};
use ekuiper_core::manifest::{Language, Manifest};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Text with everything that may be special in JSON, YAML or a terminal.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z_]{0,8}",
        "\\PC{0,12}",
        any::<String>(),
        "[\\x00-\\x20\\x7f-\\xa0\"'#:{}\\[\\],&*!|>%@`?<~\u{2028}\u{feff}\u{fffe}\u{1f600}-]{0,12}",
        Just("<<".to_owned()),
        Just("no".to_owned()),
        Just("maxRetries".to_owned()),
        Just("maxretries".to_owned()),
        Just("null".to_owned()),
        Just("a".repeat(2000)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON", |number| number.is_finite()).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((text(), inner), 0..3).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn data_type() -> impl Strategy<Value = DataType> {
    use DataType::{Any, Bool, Bytes, Datetime, Float, Int, String};
    let leaf = proptest::sample::select(vec![Any, Bool, Int, Float, String, Bytes, Datetime]);
    leaf.prop_recursive(3, 8, 3, |inner| {
        let named = (text(), inner.clone(), text());
        prop_oneof![
            inner.clone().prop_map(DataType::list),
            inner.prop_map(DataType::nullable),
            vec(named, 0..3).prop_map(|fields| {
                DataType::of_fields(fields.into_iter().map(|(name, of, doc)| Field::new(name, of).doc(doc)))
            }),
        ]
    })
}

fn field() -> impl Strategy<Value = Field> {
    let parts = (text(), data_type(), option::of(value()), vec(value(), 0..3), text(), any::<bool>());
    parts.prop_map(|(name, data_type, default, values, doc, optional)| {
        let field = Field::new(name, data_type).one_of(values).doc(doc);
        match default {
            Some(default) => field.default_value(default),
            None if optional => field.optional(),
            None => field,
        }
    })
}

fn config() -> impl Strategy<Value = Option<ConfigFields>> {
    let fields = (vec(field(), 0..5), any::<bool>(), any::<bool>());
    option::of(fields.prop_map(|(fields, open, exact)| {
        let mut config = ConfigFields::new(fields);
        (config.open, config.exact) = (open, exact);
        config
    }))
}

fn function() -> impl Strategy<Value = FunctionDescription> {
    let volatility = proptest::sample::select(vec![
        None,
        Some(Volatility::Immutable),
        Some(Volatility::Stable),
        Some(Volatility::Volatile),
    ]);
    let parts = (vec(field(), 0..4), option::of(field()), data_type(), text(), text(), any::<[bool; 3]>(), volatility);
    parts.prop_map(|(arguments, variadic, result, doc, example, flags, volatility)| {
        let mut function = FunctionDescription::new(arguments, result);
        (function.variadic, function.doc, function.example) = (variadic, doc, example);
        [function.aggregate, function.parallel, function.idempotent] = flags;
        function.volatility = volatility;
        function
    })
}

prop_compose! {
    fn description()(
        sources in vec((text(), option::of(text()), config()), 0..3),
        sinks in vec((text(), config()), 0..3),
        functions in vec(function(), 0..3),
        version in text(),
        language in proptest::sample::select(vec![Language::Rust, Language::Python]),
    ) -> Description {
        let mut description = Description::new("p", language, Sdk::new("sdk", "1"));
        description.version = version;
        for (index, (doc, datasource, config)) in sources.into_iter().enumerate() {
            let mut source = SourceDescription::new().doc(doc);
            (source.name, source.datasource, source.config) = (format!("source{index}"), datasource, config);
            description.sources.push(source);
        }
        for (index, (doc, config)) in sinks.into_iter().enumerate() {
            let mut sink = SinkDescription::new().doc(doc);
            (sink.name, sink.config) = (format!("sink{index}"), config);
            description.sinks.push(sink);
        }
        for (index, mut function) in functions.into_iter().enumerate() {
            function.name = format!("function{index}");
            description.functions.push(function);
        }
        description
    }
}

/// The engine's `fileLanguage`.
#[derive(Deserialize)]
struct Text {
    #[expect(dead_code)]
    #[serde(rename = "en_US")]
    english: String,
    #[expect(dead_code)]
    #[serde(rename = "zh_CN")]
    chinese: String,
}

/// The engine's `fileField`.
#[derive(Deserialize)]
#[expect(dead_code)]
struct EngineField {
    name: String,
    default: Value,
    control: String,
    optional: bool,
    r#type: String,
    hint: Text,
    label: Text,
}

/// The engine's `fileAbout`.
#[derive(Deserialize)]
#[expect(dead_code)]
struct About {
    trial: bool,
    author: BTreeMap<String, String>,
    #[serde(rename = "helpUrl")]
    help_url: Text,
    description: Text,
}

#[derive(Deserialize)]
#[expect(dead_code)]
struct EngineSource {
    about: About,
    libs: Vec<String>,
    properties: BTreeMap<String, Vec<Value>>,
}

#[derive(Deserialize)]
#[expect(dead_code)]
struct EngineSink {
    about: About,
    libs: Vec<String>,
    properties: Vec<Value>,
}

/// Reads fields as the engine's `newField` does: every list that is a default
/// has fields in it.
fn read_fields(fields: &[Value]) {
    for field in fields {
        let field = EngineField::deserialize(field).unwrap();
        if let Value::Array(within) = &field.default {
            read_fields(within);
        }
    }
}

/// The names that the engine's `extractNamesFromElement` finds.
fn names_in(element: &Value) -> Vec<String> {
    let within: Vec<_> = match &element["default"] {
        Value::Array(items) if !items.is_empty() => items.iter().collect(),
        Value::Object(map) if !map.is_empty() => map.values().collect(),
        _ => return element["name"].as_str().map(str::to_owned).into_iter().collect(),
    };
    within.into_iter().filter(|item| item.is_object()).flat_map(names_in).collect()
}

/// The engine's `normalize`.
fn in_lower_case(map: &Map<String, Value>) -> Map<String, Value> {
    let lower = |(key, value): (&String, &Value)| {
        let value = value.as_object().map_or_else(|| value.clone(), |map| in_lower_case(map).into());
        (key.to_lowercase(), value)
    };
    map.iter().map(lower).collect()
}

/// The engine's `applyKey`.
fn restore(map: &mut Map<String, Value>, name: &str) {
    for (key, mut value) in std::mem::take(map) {
        if let Value::Object(within) = &mut value {
            restore(within, name);
        }
        let is_meant = key != name && key.to_lowercase() == name.to_lowercase();
        map.insert(if is_meant { name.to_owned() } else { key }, value);
    }
}

/// Numbers as Go reads them: integers that fit, and floats.
fn same(given: &Value, described: &Value) -> bool {
    match (given, described) {
        (Value::Number(given), Value::Number(described)) => given.as_f64() == described.as_f64(),
        (Value::Array(given), Value::Array(described)) => {
            given.len() == described.len()
                && given.iter().zip(described).all(|(given, described)| same(given, described))
        }
        (Value::Object(given), Value::Object(described)) => {
            given.len() == described.len()
                && given.iter().all(|(key, value)| described.get(key).is_some_and(|described| same(value, described)))
        }
        _ => given == described,
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(description in description()) {
        let line = description.encode();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(Description::decode(line.as_bytes()).unwrap(), description);
    }

    #[test]
    fn its_files_are_what_the_engine_reads(description in description()) {
        let files: BTreeMap<_, _> =
            description.engine_files().into_iter().map(|file| (file.path, file.content)).collect();
        for source in &description.sources {
            let shown: Value = serde_json::from_str(&files[&format!("sources/{}.json", source.name)]).unwrap();
            let properties = EngineSource::deserialize(&shown).unwrap().properties;
            read_fields(&properties["default"]);
            // As the engine gives the defaults to the source.
            let yaml = &files[&format!("sources/{}.yaml", source.name)];
            let configs: Value = serde_saphyr::from_str(yaml).map_err(|error| format!("{error}: {yaml}")).unwrap();
            let mut configs = in_lower_case(configs.as_object().unwrap());
            names_in(&shown["properties"]).iter().for_each(|name| restore(&mut configs, name));
            prop_assert_eq!(configs.keys().collect::<Vec<_>>(), ["default"]);
            let fields = source.config.as_ref().map_or(&[][..], |config| &config.fields);
            for (name, given) in configs["default"].as_object().unwrap() {
                let default = fields.iter().filter(|field| field.name == *name).find_map(|field| field.default.as_ref());
                prop_assert!(default.is_some_and(|default| same(given, default)), "{}: {} in {}", name, given, yaml);
            }
        }
        for sink in &description.sinks {
            let shown: Value = serde_json::from_str(&files[&format!("sinks/{}.json", sink.name)]).unwrap();
            read_fields(&EngineSink::deserialize(&shown).unwrap().properties);
        }
        for function in &description.functions {
            let shown: Value = serde_json::from_str(&files[&format!("functions/{}.json", function.name)]).unwrap();
            About::deserialize(&shown["about"]).unwrap();
            let shown = &shown["functions"][0];
            prop_assert_eq!(&shown["name"], &json!(function.name));
            let count = function.arguments.len() + usize::from(function.variadic.is_some());
            prop_assert_eq!(shown["args"].as_array().unwrap().len(), count);
            prop_assert!(shown["example"].is_string() && shown["return"]["type"].is_string());
        }
    }

    #[test]
    fn its_manifest_is_one(description in description()) {
        let is_empty = description.sources.is_empty() && description.sinks.is_empty() && description.functions.is_empty();
        match description.manifest("bin/p") {
            Err(error) => prop_assert!(is_empty, "{}", ekuiper_core::Chain(&error)),
            Ok(manifest) => {
                let text = serde_json::to_string(&manifest).unwrap();
                prop_assert_eq!(&Manifest::parse(&text).unwrap(), &manifest);
                prop_assert!(matches!(manifest.language, Language::Go | Language::Python));
                prop_assert_eq!(manifest.sources.len(), description.sources.len());
            }
        }
    }
}
