//! The plugin's manifest: `<plugin>.json` in the plugin's folder.
//!
//! The format is eKuiper's (`internal/plugin/portable`, "Package" in its
//! guide). Only the manifest's content is checked here; files are not looked
//! at.

use std::collections::HashSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::message::SymbolKind;
use crate::spelling::meant;
use crate::{Error, Result};

/// The kind of a plugin's executable, which decides how it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Language {
    /// A native executable. eKuiper accepts no other spelling for one, whatever
    /// language it was written in.
    Go,
    /// A native executable; a spelling that only our host accepts.
    Rust,
    /// A native executable in any language; a spelling that only our host
    /// accepts.
    Executable,
    /// A script for a Python interpreter.
    Python,
}

/// The manifest of a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Manifest {
    /// The plugin's version, free text.
    #[serde(default)]
    pub version: String,
    /// The kind of the executable.
    pub language: Language,
    /// The executable or script, relative to the plugin's folder.
    pub executable: String,
    /// The kind of environment that a Python plugin runs in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_env_type: Option<String>,
    /// The name of that environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// Names of the plugin's sources.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub sources: Vec<String>,
    /// Names of the plugin's sinks.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub sinks: Vec<String>,
    /// Names of the plugin's functions.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub functions: Vec<String>,
    /// Every other field, unchanged.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Manifest {
    /// Creates the manifest of a plugin of which nothing is known but its name:
    /// it has no files, and another program starts it.
    pub fn unknown() -> Self {
        Self {
            version: String::new(),
            language: Language::Executable,
            executable: String::new(),
            virtual_env_type: None,
            env: None,
            sources: Vec::new(),
            sinks: Vec::new(),
            functions: Vec::new(),
            other: Map::new(),
        }
    }

    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// [`Error::ManifestSyntax`] when the text is not JSON of this form;
    /// [`Error::Manifest`] when it names an unknown language or environment, an
    /// executable outside the plugin's folder, a symbol twice or no symbol at
    /// all, or when a field is missing or has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(Error::ManifestSyntax)?;
        let Value::Object(fields) = &value else {
            return Err(Error::Manifest(format!("it must be a JSON object, and it is {}", described(&value))));
        };
        check_fields(fields)?;
        let manifest: Self = serde_json::from_value(value).map_err(Error::ManifestSyntax)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The symbols of one kind.
    pub fn symbols(&self, kind: SymbolKind) -> &[String] {
        match kind {
            SymbolKind::Source => &self.sources,
            SymbolKind::Sink => &self.sinks,
            SymbolKind::Function => &self.functions,
        }
    }

    /// The conda environment to run in, if the manifest asks for one.
    pub fn conda_env(&self) -> Option<&str> {
        self.env.as_deref().filter(|_| self.virtual_env_type.as_deref() == Some("conda"))
    }

    /// Whether the manifest asks for a virtual environment of Python's module
    /// `venv`: a path in `env`, or one that the host creates. This is our
    /// extension: eKuiper supports conda only.
    pub fn is_venv(&self) -> bool {
        self.virtual_env_type.as_deref() == Some("venv")
    }

    /// Warnings about valid content that is probably a mistake, one sentence
    /// each: a field whose name is close to that of an absent field; an
    /// environment that no script runs in.
    pub fn doubts(&self) -> Vec<String> {
        let is_absent = |field: &str| match field {
            "version" => self.version.is_empty(),
            "virtualEnvType" => self.virtual_env_type.is_none(),
            "env" => self.env.is_none(),
            "sources" => self.sources.is_empty(),
            "sinks" => self.sinks.is_empty(),
            "functions" => self.functions.is_empty(),
            _ => false,
        };
        let mut doubts: Vec<_> = misspelt(&self.other, is_absent).collect();
        match (&self.env, self.virtual_env_type.as_deref()) {
            (Some(env), None) if !env.is_empty() => doubts.push(format!(
                r#"env {env:?} has no effect without virtualEnvType: add "virtualEnvType": "conda", or leave env out"#
            )),
            (_, Some("conda")) if self.language != Language::Python => {
                doubts.push(r#"virtualEnvType has no effect, since language is not "python": leave it out"#.into());
            }
            _ => {}
        }
        doubts
    }

    fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::Manifest(text));
        check_inside("executable", &self.executable, "bin/mirror")?;
        match self.virtual_env_type.as_deref() {
            None => {}
            Some("conda") => match self.env.as_deref() {
                None | Some("") => return refuse(r#"virtualEnvType is "conda", but env names no environment"#.into()),
                Some(env) => check_conda_name(env)?,
            },
            Some("venv") if self.language != Language::Python => {
                return refuse(r#"virtualEnvType is "venv", but language is not "python""#.into());
            }
            Some("venv") => match self.env.as_deref() {
                None | Some("") => {}
                Some(env) => check_inside("env", env, "environment")?,
            },
            Some(other) => {
                return refuse(format!(
                    r#"unknown virtualEnvType {other:?}: use "conda", "venv" (which eKuiper does not accept), or leave it out"#
                ));
            }
        }
        for kind in SymbolKind::ALL {
            let mut seen = HashSet::new();
            for symbol in self.symbols(kind) {
                if symbol.is_empty() {
                    return refuse(format!("a {kind}'s name is empty"));
                }
                if symbol.contains(char::is_control) {
                    return refuse(format!("{kind} {symbol:?} has a control character in its name"));
                }
                if !seen.insert(symbol) {
                    return refuse(format!("{kind} {symbol:?} is listed twice"));
                }
            }
        }
        Ok(())
    }
}

/// The fields that a host reads: each one's form, and an example if it is
/// required.
const FIELDS: [(&str, Form, Option<&str>); 8] = [
    ("language", Form::Text, Some(r#"use "go" for a native executable, or "python""#)),
    ("executable", Form::Text, Some(r#"name the program or script in the plugin's folder, such as "bin/mirror""#)),
    ("version", Form::Text, None),
    ("virtualEnvType", Form::Text, None),
    ("env", Form::Text, None),
    ("sources", Form::Names, None),
    ("sinks", Form::Names, None),
    ("functions", Form::Names, None),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Names,
}

/// Checks the fields before serde does, so that the error names the field and
/// what to write instead.
fn check_fields(fields: &Map<String, Value>) -> Result<()> {
    let refuse = |text: String| Err(Error::Manifest(text));
    let perhaps = || {
        let doubts = misspelt(fields, |field| !fields.contains_key(field)).map(|doubt| format!("; {doubt}"));
        doubts.collect::<String>()
    };
    for (field, form, needed) in FIELDS {
        let wrong = match (fields.get(field), form, needed) {
            (None, _, Some(example)) => return refuse(format!("it has no {field:?}: {example}{}", perhaps())),
            (None, ..) | (Some(Value::String(_)), Form::Text, _) => continue,
            (Some(Value::Null), _, None) if field != "version" => continue,
            (Some(Value::Array(names)), Form::Names, _) => match names.iter().position(|name| !name.is_string()) {
                None => continue,
                Some(at) => format!("its item {} is {}", at + 1, described(&names[at])),
            },
            (Some(other), ..) => format!("it is {}", described(other)),
        };
        let form = if form == Form::Text { "a string" } else { r#"a list of names, such as ["one"]"# };
        return refuse(format!("{field:?} must be {form}; {wrong}"));
    }
    match &fields["language"] {
        Value::String(name) if !matches!(name.as_str(), "go" | "rust" | "executable" | "python") => refuse(format!(
            r#"unknown language {name:?}: use "go" for any native executable, or "python" ("rust" and "executable" mean the same as "go", but eKuiper does not accept them)"#
        )),
        _ => {
            let is_empty = |field: &str| fields.get(field).and_then(Value::as_array).is_none_or(Vec::is_empty);
            match ["sources", "sinks", "functions"].into_iter().all(is_empty) {
                true => refuse(format!("it lists no source, sink or function{}", perhaps())),
                false => Ok(()),
            }
        }
    }
}

/// Describes a value in a few words.
fn described(value: &Value) -> String {
    const LETTERS: usize = 40;
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) if text.chars().count() > LETTERS => "a long text".into(),
        other => other.to_string(),
    }
}

/// Yields one sentence for each unknown field whose name is close to that of an
/// absent one.
fn misspelt(fields: &Map<String, Value>, is_absent: impl Fn(&str) -> bool) -> impl Iterator<Item = String> {
    let absent: Vec<_> = FIELDS.iter().map(|(field, ..)| *field).filter(|field| is_absent(field)).collect();
    let known = |name: &str| FIELDS.iter().any(|(field, ..)| *field == name);
    fields.keys().filter(move |name| !known(name)).filter_map(move |name| {
        let meant = meant(name, absent.iter().copied())?;
        Some(format!("unknown field {name:?}: did you mean {meant:?}?"))
    })
}

/// Checks a conda environment's name: it stands on `conda`'s command line and
/// must not be parsed as anything else.
fn check_conda_name(env: &str) -> Result<()> {
    let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || ['/', ':', '#'].contains(&letter);
    if env.starts_with('-') || env.contains(is_odd) {
        return Err(Error::Manifest(format!(
            "env {env:?} is not a valid conda environment name: it must not contain spaces, slashes, colons or hashes, \
             nor begin with a dash"
        )));
    }
    Ok(())
}

fn check_inside(field: &str, path: &str, example: &str) -> Result<()> {
    let mut parts = Path::new(path).components().filter(|part| *part != Component::CurDir).peekable();
    let is_inside = parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)));
    if !is_inside || path.contains(char::is_control) {
        return Err(Error::Manifest(format!(
            "{field} {path:?} must be a path inside the plugin's folder, such as {example:?}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        crate::Chain(&Manifest::parse(text).unwrap_err()).to_string()
    }

    #[test]
    fn the_documents_example_is_read() {
        let manifest = Manifest::parse(
            r#"{"version":"v1.0.0","language":"python","executable":"pysam.py","virtualEnvType":"conda","env":"myenv",
                "sources":["pyjson"],"sinks":["print"],"functions":["revert"],"about":{"trial":false}}"#,
        )
        .unwrap();
        assert_eq!(manifest.language, Language::Python);
        assert_eq!(manifest.conda_env(), Some("myenv"));
        assert_eq!(manifest.symbols(SymbolKind::Function), ["revert"]);
        assert_eq!(manifest.other["about"]["trial"], false);
        let written = serde_json::to_string(&manifest).unwrap();
        assert_eq!(Manifest::parse(&written).unwrap(), manifest);
    }

    #[test]
    fn what_no_host_can_run_is_refused() {
        assert!(refused("{").contains("not valid"));
        assert!(refused("[]").ends_with("it must be a JSON object, and it is a list"));
        assert!(
            refused(r#"{"language":"cobol","executable":"x","functions":["f"]}"#)
                .contains("unknown language \"cobol\"")
        );
        assert!(
            refused(r#"{"language":"go","executable":"../x","functions":["f"]}"#)
                .contains("inside the plugin's folder")
        );
        for executable in ["/bin/sh", "a/../../x", "", "./.", "bin/.."] {
            let text = format!(r#"{{"language":"go","executable":"{executable}","functions":["f"]}}"#);
            assert!(refused(&text).contains("inside the plugin's folder"), "{executable}");
        }
        assert!(
            refused(r#"{"language":"go","executable":"x","functions":["f","f"]}"#)
                .contains("function \"f\" is listed twice")
        );
        assert!(refused(r#"{"language":"go","executable":"x"}"#).contains("no source, sink or function"));
        assert!(
            refused(r#"{"language":"python","executable":"x.py","virtualEnvType":"conda","functions":["f"]}"#)
                .contains("env")
        );
        assert!(
            refused(r#"{"language":"python","executable":"x.py","virtualEnvType":"nix","functions":["f"]}"#)
                .contains("nix")
        );
    }

    #[test]
    fn a_field_of_another_form_is_named() {
        for (field, value, said) in [
            ("language", "5", r#""language" must be a string; it is 5"#),
            ("executable", "null", r#""executable" must be a string; it is null"#),
            ("version", "1.0", r#""version" must be a string; it is 1.0"#),
            ("env", r#"{"A":"b"}"#, r#""env" must be a string; it is an object"#),
            ("functions", r#""f""#, r#""functions" must be a list of names, such as ["one"]; it is "f""#),
            (
                "functions",
                r#"["f",{}]"#,
                r#""functions" must be a list of names, such as ["one"]; its item 2 is an object"#,
            ),
        ] {
            let mut fields = serde_json::json!({"language": "go", "executable": "x", "functions": ["f"]});
            fields[field] = serde_json::from_str(value).unwrap();
            assert!(refused(&fields.to_string()).ends_with(said), "{}", refused(&fields.to_string()));
        }
        for text in [
            r#"{"language":"go","executable":"x","functions":["a\u001b[2J"]}"#,
            r#"{"language":"go","executable":"a\nb","functions":["f"]}"#,
        ] {
            assert!(!refused(text).contains(char::is_control), "{}", refused(text));
        }
        let nulls =
            r#"{"language":"go","executable":"x","functions":["f"],"sources":null,"env":null,"virtualEnvType":null}"#;
        assert_eq!(Manifest::parse(nulls).unwrap().doubts(), [""; 0]);
    }

    #[test]
    fn a_misspelt_field_is_told_with_the_one_that_was_meant() {
        let said = refused(r#"{"lang":"go","executable":"x","functions":["f"]}"#);
        assert!(
            said.contains(r#"it has no "language""#)
                && said.ends_with(r#"unknown field "lang": did you mean "language"?"#),
            "{said}"
        );
        let said = refused(r#"{"language":"go","executeable":"x","functions":["f"]}"#);
        assert!(
            said.contains(r#"it has no "executable""#) && said.ends_with(r#"did you mean "executable"?"#),
            "{said}"
        );
        for name in ["fucntions", "function", "Functions", "FUNCTIONS", "func"] {
            let said = refused(&format!(r#"{{"language":"go","executable":"x",{name:?}:["f"]}}"#));
            assert!(said.ends_with(&format!("unknown field {name:?}: did you mean \"functions\"?")), "{said}");
        }
        let doubts = |rest: &str| {
            let text = format!(r#"{{"language":"python","executable":"x.py","functions":["f"],{rest}}}"#);
            Manifest::parse(&text).unwrap().doubts()
        };
        for (name, meant) in
            [("soruces", "sources"), ("sink", "sinks"), ("virtual_env_type", "virtualEnvType"), ("ENV", "env")]
        {
            assert_eq!(
                doubts(&format!(r#"{name:?}:null"#)),
                [format!("unknown field {name:?}: did you mean {meant:?}?")]
            );
        }
        // The other fields of eKuiper's manifests, and any further ones.
        for name in ["about", "libs", "name", "author", "properties", "description", "license", "en", "end", "function"]
        {
            assert_eq!(doubts(&format!(r#"{name:?}:null"#)), [""; 0], "{name}");
        }
        assert!(doubts(r#""env":"mine""#)[0].contains("has no effect without virtualEnvType"));
        let text = r#"{"language":"go","executable":"x","functions":["f"],"virtualEnvType":"conda","env":"e"}"#;
        assert!(Manifest::parse(text).unwrap().doubts()[0].contains("has no effect, since language is not"));
    }

    #[test]
    fn an_environment_is_condas_or_pythons_own() {
        let with = |rest: &str| {
            Manifest::parse(&format!(r#"{{"language":"python","executable":"x.py","functions":["f"],{rest}}}"#))
                .unwrap()
        };
        let venv = with(r#""virtualEnvType":"venv","env":"envs/mine""#);
        assert!(venv.is_venv() && venv.conda_env().is_none());
        assert!(with(r#""virtualEnvType":"venv""#).is_venv());
        assert!(!with(r#""virtualEnvType":"conda","env":"x""#).is_venv());
        let refused_env = |kind: &str, env: &str| {
            refused(&format!(
                r#"{{"language":"python","executable":"x.py","functions":["f"],"virtualEnvType":"{kind}","env":"{env}"}}"#
            ))
        };
        for env in ["/opt/env", "../other/.venv", "a/../../b", "."] {
            let said = refused_env("venv", env);
            assert!(said.contains(&format!("env {env:?} must be a path inside the plugin's folder")), "{said}");
        }
        for env in ["-n", "--prefix=/tmp/x", "../x", "a b", "a\\nb", "a:b"] {
            let said = refused_env("conda", env);
            assert!(said.contains("is not a valid conda environment name"), "{said}");
        }
        assert!(
            refused(r#"{"language":"go","executable":"x","virtualEnvType":"venv","functions":["f"]}"#)
                .contains("language is not \"python\"")
        );
    }

    #[test]
    fn one_name_may_be_a_source_and_a_sink() {
        assert!(
            Manifest::parse(
                r#"{"language":"rust","executable":"x","sources":["file"],"sinks":["file"],"functions":null}"#
            )
            .is_ok()
        );
    }

    #[test]
    fn a_native_program_has_three_names() {
        for (name, language) in [("go", Language::Go), ("rust", Language::Rust), ("executable", Language::Executable)] {
            let text = format!(r#"{{"language":"{name}","executable":"x","functions":["f"]}}"#);
            assert_eq!(Manifest::parse(&text).unwrap().language, language);
        }
    }
}
