//! The plugin's manifest: `<plugin>.json` in the plugin's folder.
//!
//! The format is eKuiper's (`internal/plugin/portable`, "Package" in its
//! guide). What it says is checked here; files are not looked at.

use std::collections::HashSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::message::SymbolKind;
use crate::{Error, Result};

/// How a plugin is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Language {
    /// A native executable. The only spelling for one that eKuiper takes,
    /// whatever it was written in.
    Go,
    /// The same; a word that our own host takes too.
    Rust,
    /// The same; for whatever it was written in.
    Executable,
    /// A script that a Python interpreter runs.
    Python,
}

/// What a plugin is and has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Manifest {
    /// The plugin's version, free text.
    #[serde(default)]
    pub version: String,
    /// How it is started.
    pub language: Language,
    /// The executable or script, relative to the plugin's folder.
    pub executable: String,
    /// The kind of environment that a Python plugin runs in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_env_type: Option<String>,
    /// That environment's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// The sources that it serves.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub sources: Vec<String>,
    /// The sinks that it serves.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub sinks: Vec<String>,
    /// The functions that it serves.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub functions: Vec<String>,
    /// Every other field, kept as it was.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`Error::ManifestSyntax`] when it is not JSON of this form;
    /// [`Error::Manifest`] when it names an unknown language or environment, an
    /// executable outside the plugin's folder, a symbol twice, or none at all.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(Error::ManifestSyntax)?;
        check_language(&value)?;
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

    /// Whether the manifest asks for a virtual environment of Python's own
    /// module `venv`: a path in `env`, or one that the host makes. An extension
    /// of ours: eKuiper knows conda alone.
    pub fn is_venv(&self) -> bool {
        self.virtual_env_type.as_deref() == Some("venv")
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
                    r#"virtualEnvType {other:?} is not known: use "conda", "venv" under our own host alone, or leave it out"#
                ));
            }
        }
        let mut none = true;
        for kind in SymbolKind::ALL {
            let mut seen = HashSet::new();
            for symbol in self.symbols(kind) {
                none = false;
                if symbol.is_empty() {
                    return refuse(format!("a {kind}'s name is empty"));
                }
                if !seen.insert(symbol) {
                    return refuse(format!("{kind} {symbol:?} is listed twice"));
                }
            }
        }
        if none {
            return refuse("it lists no source, sink or function".into());
        }
        Ok(())
    }
}

/// Before serde does, so that the error tells what to write instead.
fn check_language(manifest: &Value) -> Result<()> {
    match manifest.get("language") {
        None => Err(Error::Manifest(r#"it has no "language": use "go" for a native executable, or "python""#.into())),
        Some(Value::String(name)) if !matches!(name.as_str(), "go" | "rust" | "executable" | "python") => {
            Err(Error::Manifest(format!(
                r#"language {name:?} is not known: use "go" for any native executable (eKuiper takes no other word for it), "rust" or "executable" under our own host alone, or "python""#
            )))
        }
        Some(_) => Ok(()),
    }
}

/// The name stands on `conda`'s command line: nothing else may be made of it.
fn check_conda_name(env: &str) -> Result<()> {
    let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || ['/', ':', '#'].contains(&letter);
    if env.starts_with('-') || env.contains(is_odd) {
        return Err(Error::Manifest(format!(
            "env {env:?} is no name of a conda environment: one has no spaces, slashes, colons or hashes, and does \
             not begin with a dash"
        )));
    }
    Ok(())
}

fn check_inside(field: &str, path: &str, example: &str) -> Result<()> {
    let mut parts = Path::new(path).components().filter(|part| *part != Component::CurDir).peekable();
    if parts.peek().is_none() || !parts.all(|part| matches!(part, Component::Normal(_))) {
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
        Manifest::parse(text).unwrap_err().to_string()
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
        assert!(refused("[]").contains("language"));
        assert!(
            refused(r#"{"language":"cobol","executable":"x","functions":["f"]}"#).contains("\"cobol\" is not known")
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
            assert!(said.contains("is no name of a conda environment"), "{said}");
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
