//! The files for eKuiper beside the manifest: `sources/NAME.yaml`, and the
//! descriptions that its manager page reads (`internal/meta`).
//!
//! One malformed description breaks the page for all plugins: functions' files
//! are concatenated as they are, and reading stops at the first bad sink.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use ekuiper_core::description::{Description, is_own_file};
use ekuiper_core::message::SymbolKind;
use ekuiper_host::Package;
use ekuiper_manager::settings::{self, Settings};
use serde_json::{Map, Value};

use super::file;
use super::report::{Area, Report};
use crate::error::column;

/// Checks all of them. `described`: the plugin's description, from which
/// `package` makes what is missing; `None` for a zip, where that is too late.
pub(super) fn check(package: &Package, described: Option<&Description>, report: &mut Report) {
    let found = Files::list(&package.folder);
    for source in &package.manifest.sources {
        let name = format!("sources/{source}.yaml");
        if !found.has(&name) {
            let is_made =
                described.is_some_and(|description| description.names(SymbolKind::Source).contains(&source.as_str()));
            if is_made {
                report.note(
                    Area::Files,
                    &name,
                    "is made by `ekuiper-plugin package` from the plugin's description",
                    "",
                );
            } else {
                let text = "is missing: eKuiper refuses a plugin without one for each source";
                report.error(
                    Area::Files,
                    &name,
                    text,
                    "add it, with the default configuration: `default: {}` if there is none",
                );
            }
        }
    }
    let mut count = 0;
    for (kind, folder, name) in found.0.iter() {
        let path = format!("{folder}/{name}");
        let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
        let is_described = ending == "json" || (ending == "yaml" && *kind != SymbolKind::Function);
        if is_described && is_own_file(*kind, stem) {
            let text = "replaces a file of eKuiper's own when the plugin is installed, and removes it with the plugin";
            report.error(Area::Files, &path, text, "leave it out, and serve the symbol under another name");
            continue;
        }
        match (ending, file::read(&package.folder.join(&path), file::TEXT)) {
            ("json" | "yaml", Err(problem)) => report.error(Area::Files, &path, problem, "replace it"),
            ("json", Ok(bytes)) => check_json(*kind, &path, &bytes, report),
            ("yaml", Ok(bytes)) if *kind == SymbolKind::Source => {
                if let Err(problem) = configurations(&bytes) {
                    report.error(
                        Area::Files,
                        &path,
                        problem,
                        "write a configuration per key: `default:` and its fields below",
                    );
                }
            }
            _ => {}
        }
        if ending == "json" && !package.manifest.symbols(*kind).iter().any(|symbol| symbol == stem) {
            let text = format!("describes no {kind} of the manifest, and stays when the plugin is removed");
            report.note(Area::Files, &path, text, "name it after its symbol, or leave it out");
        }
        count += 1;
    }
    if count > 0 {
        report.fact(Area::Files, format!("{count} for eKuiper's configuration and manager page"));
    }
}

/// The default configuration of a source, if its file has a usable one.
pub(super) fn default_configuration(package: &Package, source: &str) -> Option<Map<String, Value>> {
    let bytes = file::read(&package.folder.join(format!("sources/{source}.yaml")), file::TEXT).ok()?;
    configurations(&bytes).ok()?.remove("default")
}

/// The files in the three folders, sorted.
struct Files(Vec<(SymbolKind, &'static str, String)>);

impl Files {
    fn list(folder: &Path) -> Self {
        let kinds = [(SymbolKind::Source, "sources"), (SymbolKind::Sink, "sinks"), (SymbolKind::Function, "functions")];
        let mut found = Vec::new();
        for (kind, name) in kinds {
            let entries = fs::read_dir(folder.join(name)).into_iter().flatten().flatten();
            // What is no plain file is refused when it is read.
            let files = entries.filter(|entry| !entry.path().is_dir());
            found.extend(files.map(|entry| (kind, name, entry.file_name().to_string_lossy().into_owned())));
        }
        found.sort_by(|one, other| (one.1, &one.2).cmp(&(other.1, &other.2)));
        Self(found)
    }

    fn has(&self, path: &str) -> bool {
        self.0.iter().any(|(_, folder, name)| path.strip_prefix(folder) == Some(&format!("/{name}")))
    }
}

/// Parses a source's configurations: a mapping of mappings.
fn configurations(bytes: &[u8]) -> Result<Settings, String> {
    let configurations = settings::parse(bytes)?;
    if configurations.is_empty() {
        return Err("is empty: a stream on the source finds no configuration".into());
    }
    if !configurations.contains_key("default") {
        return Err("has no configuration \"default\", which a stream without CONF_KEY takes".into());
    }
    Ok(configurations)
}

fn check_json(kind: SymbolKind, path: &str, bytes: &[u8], report: &mut Report) {
    const BREAKS: &str = "correct it, or leave it out: it breaks eKuiper's manager page for all plugins";
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => {
            let problem = format!("is not JSON: line {}: {}", error.line(), column(&error));
            return report.error(Area::Files, path, problem, BREAKS);
        }
    };
    let mut faults = Faults::default();
    match &value {
        Value::Object(fields) => check_fields(kind, fields, &mut faults),
        _ => faults.bad("it must be an object"),
    }
    if let Some(first) = faults.bad.first() {
        report.error(Area::Files, path, format!("has not the form that eKuiper reads: {first}"), BREAKS);
    }
    for odd in faults.odd {
        report.warning(Area::Files, path, odd, "correct it: the manager page shows it wrongly, or not at all");
    }
}

/// What is wrong with a description.
#[derive(Default)]
struct Faults {
    /// It breaks the manager page.
    bad: Vec<String>,
    odd: Vec<String>,
}

impl Faults {
    fn bad(&mut self, text: impl Into<String>) {
        self.bad.push(text.into());
    }
}

/// A field's name, its check, and the check's words.
type Form = (&'static str, fn(&Value) -> bool, &'static str);

const FIELD: [Form; 8] = [
    ("name", Value::is_string, "a text"),
    ("control", Value::is_string, "a text"),
    ("type", Value::is_string, "a text"),
    ("optional", Value::is_boolean, "true or false"),
    ("connection_related", Value::is_boolean, "true or false"),
    ("hint", is_text_in_languages, "an object with the texts en_US and zh_CN"),
    ("label", is_text_in_languages, "an object with the texts en_US and zh_CN"),
    ("default", |_| true, ""),
];

const ABOUT: [Form; 5] = [
    ("trial", Value::is_boolean, "true or false"),
    ("installed", Value::is_boolean, "true or false"),
    ("author", is_object_of_texts, "an object of texts"),
    ("helpUrl", is_text_in_languages, "an object with the texts en_US and zh_CN"),
    ("description", is_text_in_languages, "an object with the texts en_US and zh_CN"),
];

fn is_object_of_texts(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.values().all(|text| text.is_string() || text.is_null()))
}

fn is_text_in_languages(value: &Value) -> bool {
    let is_text = |language| value.get(language).is_none_or(|text| text.is_string() || text.is_null());
    value.is_object() && is_text("en_US") && is_text("zh_CN")
}

fn check_fields(kind: SymbolKind, fields: &Map<String, Value>, faults: &mut Faults) {
    match fields.get("about") {
        Some(Value::Object(about)) => check_forms("about", about, &ABOUT, faults),
        _ if kind == SymbolKind::Function => {}
        _ => faults.bad("it needs an object \"about\""),
    }
    match fields.get("libs") {
        None | Some(Value::Null) => {}
        Some(Value::Array(libs)) if libs.iter().all(Value::is_string) => {}
        Some(_) => faults.bad("\"libs\" must be a list of texts"),
    }
    match (kind, fields.get("properties")) {
        (SymbolKind::Function, _) => check_functions(fields, faults),
        (_, None | Some(Value::Null)) => {}
        (SymbolKind::Source, Some(Value::Object(configurations))) => {
            for (name, fields) in configurations {
                check_list(&format!("properties.{name}"), fields, faults);
            }
        }
        (SymbolKind::Source, Some(_)) => {
            faults.bad("\"properties\" must be an object of lists, one for each configuration")
        }
        (SymbolKind::Sink, Some(fields)) => check_list("properties", fields, faults),
    }
}

/// Checks a list of descriptions of fields. A default that is a list is one,
/// too.
fn check_list(place: &str, list: &Value, faults: &mut Faults) {
    let Value::Array(list) = list else {
        if !list.is_null() {
            faults.bad(format!("{place:?} must be a list of fields"));
        }
        return;
    };
    for (index, field) in list.iter().enumerate() {
        let place = format!("{place}[{index}]");
        match field {
            Value::Null => {}
            Value::Object(field) => {
                check_forms(&place, field, &FIELD, faults);
                if let Some(default @ Value::Array(_)) = field.get("default") {
                    check_list(&format!("{place}.default"), default, faults);
                }
            }
            _ => faults.bad(format!("{place:?} must be an object that describes a field")),
        }
    }
}

fn check_forms(place: &str, fields: &Map<String, Value>, forms: &[Form], faults: &mut Faults) {
    for (name, is_good, form) in forms {
        if fields.get(*name).is_some_and(|value| !value.is_null() && !is_good(value)) {
            faults.bad(format!("\"{place}.{name}\" must be {form}"));
        }
    }
}

fn check_functions(fields: &Map<String, Value>, faults: &mut Faults) {
    let Some(Value::Array(functions)) = fields.get("functions") else {
        return faults.bad("it needs a list \"functions\"");
    };
    let mut seen = HashSet::new();
    for (index, function) in functions.iter().enumerate() {
        match function.get("name").and_then(Value::as_str) {
            None => faults.bad(format!("\"functions[{index}]\" must be an object with a name")),
            Some(name) if !seen.insert(name) => faults.odd.push(format!("describes the function {name} twice")),
            Some(_) => {}
        }
        if let Some(arguments) = function.get("args").filter(|arguments| !arguments.is_null()) {
            check_list(&format!("functions[{index}].args"), arguments, faults);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(kind: SymbolKind, text: &str) -> Vec<String> {
        let mut report = Report::default();
        check_json(kind, "file", text.as_bytes(), &mut report);
        report.lines()
    }

    #[test]
    fn what_the_manager_page_cannot_read_is_an_error() {
        let about = json!({ "trial": false, "description": { "en_US": "x" } });
        let source = json!({ "about": about, "properties": { "default": [{ "name": "a", "default": 1 }] } });
        assert!(found(SymbolKind::Source, &source.to_string()).is_empty());
        let sink = json!({ "about": about, "properties": [{ "name": "a" }] });
        assert!(found(SymbolKind::Sink, &sink.to_string()).is_empty());
        let function = json!({ "functions": [{ "name": "f", "args": [{ "name": "x", "type": "int" }] }] });
        assert!(found(SymbolKind::Function, &function.to_string()).is_empty());
        for (kind, bad) in [
            (SymbolKind::Source, "{}"),
            (SymbolKind::Source, "{,}"),
            (SymbolKind::Source, &sink.to_string()),
            (SymbolKind::Sink, &source.to_string()),
            (SymbolKind::Sink, "[]"),
            (SymbolKind::Sink, ""),
            (SymbolKind::Sink, r#"{"about":{"trial":"no"}}"#),
            (SymbolKind::Sink, r#"{"about":{},"properties":[{"name":"a","default":[1]}]}"#),
            (SymbolKind::Function, "{\"functions\":[]},"),
            (SymbolKind::Function, "\u{feff}{\"functions\":[]}"),
            (SymbolKind::Function, r#"{"functions":[{}]}"#),
            (SymbolKind::Function, "{}"),
        ] {
            assert!(found(kind, bad).iter().any(|line| line.starts_with("error: ")), "{kind} {bad}");
        }
    }

    #[test]
    fn configurations_are_a_mapping_of_mappings() {
        let default = configurations(b"# c\ndefault:\n  a: 1\n  b: [x]\nother: {}\n").unwrap();
        assert_eq!(json!(default["default"]), json!({ "a": 1, "b": ["x"] }));
        assert!(configurations(b"default:\n").is_ok());
        for bad in ["", "# only\n", "- a\n", "text", "default: 5\n", "a:\n  b: 1\n", "default: {", "\tdefault: {}\n a"]
        {
            assert!(configurations(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(configurations(b"\xff").is_err());
    }
}
