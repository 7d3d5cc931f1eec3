//! The files that eKuiper reads beside a plugin's manifest: the default
//! configuration of each source, and what eKuiper's manager page shows.
//!
//! The forms are those of eKuiper's `internal/meta` and `internal/conf`. One
//! malformed file breaks the page for all plugins: functions' files are
//! concatenated as they are, and reading stops at the first bad source.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::config::ENGINE_SOURCE_FIELDS;
use super::own_names::is_own;
use super::{DataType, Description, Field, FunctionDescription, SinkDescription, SourceDescription, is_file_name};
use crate::message::SymbolKind;
use crate::printable::is_unprintable;

/// A file for eKuiper, in the plugin's zip.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineFile {
    /// The path within the plugin's folder, such as `sources/random.yaml`.
    pub path: String,
    /// The content.
    pub content: String,
}

/// The file, without its ending, that describes eKuiper's own functions.
const OWN_FUNCTIONS_FILE: &str = "internal";

impl Description {
    /// The files that eKuiper reads beside the manifest: `sources/NAME.yaml`,
    /// without which it refuses a plugin, and `sources/NAME.json`,
    /// `sinks/NAME.json` and `functions/NAME.json`, which describe the symbols
    /// to its manager page.
    ///
    /// There are none for symbols that have the names of eKuiper's own, since
    /// they would replace its files: see [`doubts`](Self::doubts).
    pub fn engine_files(&self) -> Vec<EngineFile> {
        let mut files = Vec::new();
        let mut add = |path: String, content: String| files.push(EngineFile { path, content });
        for source in self.sources.iter().filter(|source| has_files(SymbolKind::Source, &source.name)) {
            let shown = source_json(source);
            add(format!("sources/{}.yaml", source.name), source_yaml(source, &shown));
            add(format!("sources/{}.json", source.name), pretty(&shown));
        }
        for sink in self.sinks.iter().filter(|sink| has_files(SymbolKind::Sink, &sink.name)) {
            add(format!("sinks/{}.json", sink.name), pretty(&sink_json(sink)));
        }
        for function in self.functions.iter().filter(|function| has_files(SymbolKind::Function, &function.name)) {
            add(format!("functions/{}.json", function.name), pretty(&function_json(function)));
        }
        files
    }

    /// Warnings about valid content that eKuiper does not handle as meant, one
    /// sentence each: symbols that its own hide.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for kind in SymbolKind::ALL {
            for name in self.names(kind).into_iter().filter(|name| is_own(kind, name)) {
                doubts.push(format!(
                    "{kind} {name}: eKuiper has a {kind} of this name, which hides the plugin's: serve it under another \
                     name"
                ));
            }
        }
        doubts
    }
}

/// Whether a symbol of this name has files.
fn has_files(kind: SymbolKind, name: &str) -> bool {
    is_file_name(name) && !is_own_file(kind, name)
}

/// Returns whether the files of a symbol of this name would replace eKuiper's.
pub fn is_own_file(kind: SymbolKind, name: &str) -> bool {
    match kind {
        SymbolKind::Source | SymbolKind::Sink => is_own(kind, name),
        SymbolKind::Function => name == OWN_FUNCTIONS_FILE,
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A text in the languages of the manager page.
fn text(text: &str) -> Value {
    json!({ "en_US": text, "zh_CN": text })
}

fn about(doc: &str) -> Value {
    json!({
        "trial": false,
        "author": { "name": "", "email": "", "company": "", "website": "" },
        "helpUrl": text(""),
        "description": text(doc),
    })
}

fn node(category: &str, name: &str) -> Value {
    json!({ "category": category, "icon": "iconPath", "label": text(name) })
}

fn source_json(source: &SourceDescription) -> Value {
    let mut shown = json!({
        "about": about(&source.doc),
        "libs": [],
        "properties": { "default": fields_json(fields(source.config.as_ref())) },
        "node": node("source", &source.name),
    });
    if let Some(datasource) = &source.datasource {
        shown["dataSource"] = json!({ "hint": text(datasource), "label": text("Data source") });
    }
    shown
}

fn sink_json(sink: &SinkDescription) -> Value {
    json!({
        "about": about(&sink.doc),
        "libs": [],
        "properties": fields_json(fields(sink.config.as_ref())),
        "node": node("sink", &sink.name),
    })
}

fn fields(config: Option<&super::ConfigFields>) -> &[Field] {
    config.map_or(&[], |config| &config.fields)
}

fn fields_json(fields: &[Field]) -> Value {
    fields.iter().map(field_json).collect()
}

fn field_json(field: &Field) -> Value {
    let (kind, control) = match field.data_type.without_null() {
        _ if !field.values.is_empty() => (type_name(&field.data_type), "select"),
        DataType::Bool => ("bool", "radio"),
        DataType::List(_) | DataType::Struct(_) => (type_name(&field.data_type), "list"),
        // A configuration holds them as text.
        DataType::Bytes => ("string", "text"),
        other => (type_name(other), "text"),
    };
    let nested = match field.data_type.without_null() {
        DataType::Struct(fields) => fields.as_slice(),
        _ => &[],
    };
    let mut hint = field.doc.clone();
    let default = match &field.default {
        _ if !nested.is_empty() => fields_json(nested),
        // The engine takes each item of a list as the description of a field,
        // and the parts of an object for such.
        Some(default @ (Value::Array(_) | Value::Object(_))) => {
            let separator = if hint.is_empty() { "" } else { " " };
            let _ = write!(hint, "{separator}Default: {default}");
            Value::Null
        }
        Some(default) => default.clone(),
        None => Value::Null,
    };
    let mut shown = json!({
        "name": field.name,
        "default": default,
        "optional": field.optional,
        "control": control,
        "type": kind,
        "hint": text(&hint),
        "label": text(&field.name),
    });
    if !field.values.is_empty() {
        shown["values"] = field.values.clone().into();
    }
    shown
}

/// The manager page's name of a type.
fn type_name(data_type: &DataType) -> &'static str {
    match data_type.without_null() {
        DataType::Bool => "bool",
        DataType::Int => "int",
        DataType::Float => "float",
        DataType::String => "string",
        DataType::Bytes => "bytea",
        DataType::Datetime => "datetime",
        DataType::List(of) => match of.without_null() {
            DataType::String => "list_string",
            DataType::Int => "list_int",
            DataType::Struct(_) => "list_object",
            _ => "array",
        },
        DataType::Struct(_) => "object",
        DataType::Any | DataType::Nullable(_) => "any",
    }
}

/// The manager page's name of an argument's or result's type.
fn value_type_name(data_type: &DataType) -> &'static str {
    match data_type.without_null() {
        DataType::List(_) => "array",
        DataType::Struct(_) => "struct",
        other => type_name(other),
    }
}

fn function_json(function: &FunctionDescription) -> Value {
    let name_of = |index: usize, argument: &Field| match argument.name.as_str() {
        "" => format!("argument{}", index + 1),
        name => name.to_owned(),
    };
    let further = function.variadic.as_ref().map(|further| {
        let name = if further.name.is_empty() { "further".into() } else { further.name.clone() };
        (name, further, true)
    });
    let arguments = function.arguments.iter().enumerate();
    let arguments: Vec<_> = arguments
        .map(|(index, argument)| (name_of(index, argument), argument, argument.optional))
        .chain(further)
        .collect();
    let shown = arguments.iter().map(|(name, argument, optional)| {
        json!({
            "name": name,
            "optional": optional,
            "control": "field",
            "type": value_type_name(&argument.data_type),
            "hint": text(&argument.doc),
            "label": text(name),
        })
    });
    let shown: Vec<Value> = shown.collect();
    let names: Vec<_> = arguments.iter().map(|(name, ..)| name.as_str()).collect();
    let example = match function.example.as_str() {
        "" => format!("{}({})", function.name, names.join(", ")),
        example => example.to_owned(),
    };
    json!({
        "about": about(&function.doc),
        "libs": [],
        "name": function.name,
        "functions": [{
            "name": function.name,
            "example": example,
            "hint": text(&function.doc),
            "aggregate": function.aggregate,
            "args": shown,
            "return": { "type": value_type_name(&function.result), "hint": text("") },
            "node": node("function", &function.name),
        }],
    })
}

/// The default configuration of a source, as YAML.
///
/// Only fields that the engine passes on as they are have a value; the others
/// are comments, and the plugin uses its own default. The engine turns all keys
/// to lower case, and back only where the description file has them; and it
/// acts on some fields itself.
fn source_yaml(source: &SourceDescription, shown: &Value) -> String {
    let restored = Restored::of(shown);
    // A key twice would make the file invalid.
    let mut names = BTreeSet::new();
    let mut entries = String::new();
    let mut comments = String::new();
    for field in fields(source.config.as_ref()) {
        let Some(default) = field.default.as_ref().filter(|default| !default.is_null()) else { continue };
        if !names.insert(&field.name) {
            continue;
        }
        let passes_on = restored.keeps(&field.name) && restored.keeps_all(default);
        let is_engines = ENGINE_SOURCE_FIELDS.iter().any(|name| name.eq_ignore_ascii_case(&field.name));
        let line = format!("{}: {}", yaml(&Value::String(field.name.clone())), yaml(default));
        if passes_on && !is_engines {
            comment(&mut entries, "  ", &field.doc);
            let _ = writeln!(entries, "  {line}");
        } else {
            comment(&mut comments, "", &field.doc);
            let reason =
                if is_engines { "eKuiper acts on this field, too" } else { "eKuiper changes its letters here" };
            comment(&mut comments, "", &format!("Not set, since {reason}: {line}"));
        }
    }
    let mut content = String::new();
    comment(&mut content, "", &source.doc);
    comment(&mut content, "", "The configurations of this source, by the names that streams give as CONF_KEY.");
    content.push_str(&comments);
    match entries.is_empty() {
        true => content.push_str("default: {}\n"),
        false => {
            content.push_str("default:\n");
            content.push_str(&entries);
        }
    }
    content
}

fn comment(content: &mut String, indent: &str, doc: &str) {
    for line in doc.lines().map(str::trim_end) {
        let line: String = line.chars().filter(|character| *character == '\t' || is_plain(*character)).collect();
        let _ = writeln!(content, "{indent}#{}{line}", if line.is_empty() { "" } else { " " });
    }
}

/// Whether a character may be in a YAML file as it is.
fn is_plain(character: char) -> bool {
    !is_unprintable(character) && !matches!(character, '\u{fffe}' | '\u{ffff}')
}

/// A value in the subset of YAML that is JSON, on one line.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match is_plain(character) {
            true => text.push(character),
            false => {
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
        }
    }
    text
}

/// The keys whose letters the engine restores after it has turned all keys of a
/// YAML file to lower case: the names in the description file beside it, as the
/// engine's `extractNamesFromElement` finds them.
struct Restored(BTreeSet<String>);

impl Restored {
    /// Maximum length of a key, in bytes; YAML allows 1024 characters.
    const LONGEST: usize = 512;

    fn of(shown: &Value) -> Self {
        let mut names = BTreeSet::new();
        Self::collect(&shown["properties"], &mut names);
        Self(names)
    }

    fn collect(element: &Value, names: &mut BTreeSet<String>) {
        let within: Vec<_> = match &element["default"] {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        };
        if within.is_empty() {
            names.extend(element["name"].as_str().map(str::to_owned));
        }
        within.into_iter().filter(|item| item.is_object()).for_each(|item| Self::collect(item, names));
    }

    /// Whether a key reaches the plugin as it is written.
    fn keeps(&self, key: &str) -> bool {
        let lower = key.to_lowercase();
        let is_restored = self.0.contains(key);
        // A name that differs in case only would replace it.
        let is_alone = self.0.iter().all(|name| name == key || name.to_lowercase() != lower);
        let is_usual = key.len() <= Self::LONGEST && key != "<<" && (key.is_ascii() || key == lower);
        is_usual && is_alone && (is_restored || key == lower)
    }

    fn keeps_all(&self, value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().all(|item| self.keeps_all(item)),
            Value::Object(map) => self.keeps_map(map),
            _ => true,
        }
    }

    fn keeps_map(&self, map: &Map<String, Value>) -> bool {
        map.iter().all(|(key, value)| self.keeps(key) && self.keeps_all(value))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigFields, Sdk};
    use super::*;
    use crate::manifest::Language;

    fn description(fields: impl IntoIterator<Item = Field>) -> Description {
        let mut description = Description::new("p", Language::Rust, Sdk::new("sdk", "1"));
        let config = Some(ConfigFields::new(fields));
        let doc = "Emits rows.".to_owned();
        description.sources.push(SourceDescription { name: "random".into(), doc, config, ..Default::default() });
        description
    }

    fn file(description: &Description, path: &str) -> String {
        let files = description.engine_files();
        files.into_iter().find(|file| file.path == path).unwrap().content
    }

    #[test]
    fn a_source_has_its_defaults_where_the_engine_passes_them_on() {
        let description = description([
            Field::new("interval", DataType::Int).default_value(100).doc("Milliseconds."),
            Field::new("maxRetries", DataType::Int).default_value(3).doc("Tries\nin all."),
            Field::new("tags", DataType::list(DataType::String)).default_value(vec!["a", "no"]),
            Field::new("tlsOptions", DataType::of_fields([Field::new("caFile", DataType::String)]))
                .default_value(json!({ "caFile": "x" })),
            Field::new("headers", DataType::of_fields([])).default_value(json!({ "X-Any": "1" })),
            Field::new("no", DataType::Bool).default_value(true),
            Field::new("path", DataType::String),
        ]);
        assert_eq!(
            file(&description, "sources/random.yaml"),
            "# Emits rows.
# The configurations of this source, by the names that streams give as CONF_KEY.
# Milliseconds.
# Not set, since eKuiper acts on this field, too: \"interval\": 100
# Not set, since eKuiper changes its letters here: \"tlsOptions\": {\"caFile\":\"x\"}
# Not set, since eKuiper changes its letters here: \"headers\": {\"X-Any\":\"1\"}
default:
  # Tries
  # in all.
  \"maxRetries\": 3
  \"tags\": [\"a\",\"no\"]
  \"no\": true
"
        );
        let shown: Value = serde_json::from_str(&file(&description, "sources/random.json")).unwrap();
        let fields = shown["properties"]["default"].as_array().unwrap();
        let of = |name: &str| fields.iter().find(|field| field["name"] == name).unwrap();
        assert_eq!(of("interval")["default"], 100);
        assert_eq!(of("interval")["optional"], true);
        assert_eq!(of("tags")["default"], Value::Null);
        assert_eq!(of("tags")["hint"]["en_US"], "Default: [\"a\",\"no\"]");
        assert_eq!(of("tags")["type"], "list_string");
        assert_eq!(of("tlsOptions")["default"][0]["name"], "caFile");
        assert_eq!(of("path")["optional"], false);
        assert!(shown["about"].is_object());
    }

    #[test]
    fn a_source_without_defaults_has_an_empty_configuration() {
        assert!(file(&description([]), "sources/random.yaml").ends_with("CONF_KEY.\ndefault: {}\n"));
    }

    #[test]
    fn functions_are_shown_with_their_arguments() {
        let mut description = Description::new("p", Language::Rust, Sdk::default());
        let mut repeat = FunctionDescription::unknown();
        repeat.name = "repeat".into();
        repeat.arguments = vec![Field::new("", DataType::String), Field::new("times", DataType::Int).default_value(2)];
        repeat.result = DataType::list(DataType::Float).nullable();
        description.functions.push(repeat);
        let shown: Value = serde_json::from_str(&file(&description, "functions/repeat.json")).unwrap();
        let function = &shown["functions"][0];
        assert_eq!(function["example"], "repeat(argument1, times, further)");
        assert_eq!(function["return"]["type"], "array");
        let optional: Vec<_> = function["args"].as_array().unwrap().iter().map(|arg| arg["optional"].clone()).collect();
        assert_eq!(optional, [false, true, true]);
    }

    #[test]
    fn the_engines_own_files_are_not_replaced() {
        let mut description = description([]);
        description.sources[0].name = "mqtt".into();
        description.sinks.push(SinkDescription { name: "file".into(), ..Default::default() });
        description.sinks.push(SinkDescription { name: "lines".into(), ..Default::default() });
        for name in ["internal", "Repeat"] {
            description.functions.push(FunctionDescription { name: name.into(), ..FunctionDescription::unknown() });
        }
        let paths: Vec<_> = description.engine_files().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, ["sinks/lines.json", "functions/Repeat.json"]);
        assert_eq!(
            description.doubts(),
            [
                "source mqtt: eKuiper has a source of this name, which hides the plugin's: serve it under another name",
                "sink file: eKuiper has a sink of this name, which hides the plugin's: serve it under another name",
                "function Repeat: eKuiper has a function of this name, which hides the plugin's: serve it under another \
                 name",
            ]
        );
    }
}
