//! A plugin's description of itself: its symbols, their types and their
//! configuration.
//!
//! The executable prints it as one line of JSON for the argument `--describe`,
//! and the [hello](crate::message::Hello) carries it. From it the plugin's
//! [manifest](Description::manifest) and the [files](Description::engine_files)
//! are made that eKuiper reads beside the manifest.
//!
//! The version rules are the hello's: unknown fields and types are ignored; a
//! change that an older reader would misunderstand gets a new
//! [format](Description::FORMAT).

mod config;
mod data_type;
mod engine_files;
mod own_names;

use serde::{Deserialize, Serialize};

use crate::manifest::{Language, Manifest};
use crate::message::SymbolKind;
use crate::{Error, Result};

pub use config::{ConfigFields, Field, Misfit, UnknownField};
pub use data_type::DataType;
pub use engine_files::{EngineFile, is_own_file};
pub use own_names::is_own;

/// The argument for which a plugin's executable prints its description.
pub const DESCRIBE: &str = "--describe";

/// A plugin's description of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Description {
    /// The description's format.
    pub format: u32,
    /// The plugin's name.
    pub name: String,
    /// The plugin's version; empty if it does not say one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The kind of the plugin's executable.
    #[serde(default = "native")]
    pub language: Language,
    /// The SDK that the plugin was written with.
    #[serde(default)]
    pub sdk: Sdk,
    /// The plugin's sources.
    #[serde(default)]
    pub sources: Vec<SourceDescription>,
    /// The plugin's sinks.
    #[serde(default)]
    pub sinks: Vec<SinkDescription>,
    /// The plugin's functions.
    #[serde(default)]
    pub functions: Vec<FunctionDescription>,
}

fn native() -> Language {
    Language::Executable
}

/// An SDK.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sdk {
    /// The name.
    #[serde(default)]
    pub name: String,
    /// The version.
    #[serde(default)]
    pub version: String,
}

impl Sdk {
    /// An SDK of this name and version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self { name: name.into(), version: version.into() }
    }
}

/// The description of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceDescription {
    /// The name.
    pub name: String,
    /// What the source does; empty if that is unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doc: String,
    /// What the stream's `DATASOURCE` means to the source; `None` if that is
    /// unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datasource: Option<String>,
    /// The configuration; `None` if its fields are unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigFields>,
}

impl SourceDescription {
    /// A description that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what the source does, in one line.
    #[must_use]
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.doc = doc.into();
        self
    }

    /// Says what the stream's `DATASOURCE` means to the source.
    #[must_use]
    pub fn datasource(mut self, meaning: impl Into<String>) -> Self {
        self.datasource = Some(meaning.into());
        self
    }

    /// Sets the fields of the configuration.
    #[must_use]
    pub fn config(mut self, config: impl Into<ConfigFields>) -> Self {
        self.config = Some(config.into());
        self
    }
}

/// The description of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SinkDescription {
    /// The name.
    pub name: String,
    /// What the sink does; empty if that is unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doc: String,
    /// Whether the sink takes columns: a message may be a record batch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub columnar: bool,
    /// Whether the sink reads its messages as rows, in any codec, and never as
    /// bytes: then this host sends it MessagePack, which costs less than JSON.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rows: bool,
    /// The configuration; `None` if its fields are unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigFields>,
}

impl SinkDescription {
    /// A description that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what the sink does, in one line.
    #[must_use]
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.doc = doc.into();
        self
    }

    /// Says that `collect` reads its messages with `SinkContext::rows` or
    /// `SinkContext::batch` alone, and does nothing else with their bytes: then
    /// they may come in MessagePack, which costs less than JSON. An engine that
    /// is not on this project's host sends JSON nevertheless.
    #[must_use]
    pub fn rows(mut self) -> Self {
        self.rows = true;
        self
    }

    /// Says that the sink takes columns: `collect` is given record batches, too,
    /// which `SinkContext::batch` reads.
    #[must_use]
    pub fn columnar(mut self) -> Self {
        self.columnar = true;
        self
    }

    /// Sets the fields of the configuration.
    #[must_use]
    pub fn config(mut self, config: impl Into<ConfigFields>) -> Self {
        self.config = Some(config.into());
        self
    }
}

/// The description of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FunctionDescription {
    /// The name.
    pub name: String,
    /// What the function does; empty if that is unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doc: String,
    /// A call, such as `repeat('ab', 2)`; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub example: String,
    /// The arguments. Of an aggregate, each is a list.
    #[serde(default)]
    pub arguments: Vec<Field>,
    /// What each further argument is, if any number of them may follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variadic: Option<Field>,
    /// The result.
    #[serde(default)]
    pub result: DataType,
    /// Whether each argument is the list of a window's values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aggregate: bool,
    /// Whether the function takes columns, so that many rows are one call of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub columnar: bool,
    /// Whether calls are independent of each other, so that an engine may
    /// distribute them over several instances.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parallel: bool,
    /// Whether a call may be carried out twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
    /// How results depend on arguments; `None` if that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volatility: Option<Volatility>,
}

/// How a function's results depend on its arguments, in the words of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Volatility {
    /// Equal arguments always have equal results.
    Immutable,
    /// Equal arguments have equal results within one query.
    Stable,
    /// Every call may have another result, or an effect.
    #[serde(other)]
    Volatile,
}

/// Whether eKuiper's files about a symbol can have its name.
fn is_file_name(name: &str) -> bool {
    const LONGEST: usize = 240;
    !name.is_empty() && name.len() <= LONGEST && !name.contains(['/', '\\']) && !name.contains(char::is_control)
}

impl FunctionDescription {
    /// A function with these arguments and this result.
    pub fn new(arguments: impl IntoIterator<Item = Field>, result: DataType) -> Self {
        Self { arguments: arguments.into_iter().collect(), result, ..Self::default() }
    }

    /// A function with any arguments and any result.
    pub fn unknown() -> Self {
        Self::new([], DataType::Any).variadic(Field::default())
    }

    /// Says that the function takes columns.
    #[must_use]
    pub fn columnar(mut self) -> Self {
        self.columnar = true;
        self
    }

    /// Says that any number of further arguments may follow, each of which is
    /// like this one.
    #[must_use]
    pub fn variadic(mut self, argument: Field) -> Self {
        self.variadic = Some(argument);
        self
    }
}

impl Description {
    /// The format of descriptions that this version writes.
    pub const FORMAT: u32 = 1;

    /// The description of a plugin without symbols.
    pub fn new(name: impl Into<String>, language: Language, sdk: Sdk) -> Self {
        Self {
            format: Self::FORMAT,
            name: name.into(),
            version: String::new(),
            language,
            sdk,
            sources: Vec::new(),
            sinks: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// The names of the symbols of one kind.
    pub fn names(&self, kind: SymbolKind) -> Vec<&str> {
        match kind {
            SymbolKind::Source => self.sources.iter().map(|source| source.name.as_str()).collect(),
            SymbolKind::Sink => self.sinks.iter().map(|sink| sink.name.as_str()).collect(),
            SymbolKind::Function => self.functions.iter().map(|function| function.name.as_str()).collect(),
        }
    }

    /// The configuration of a source or sink, if its fields are known.
    pub fn config(&self, kind: SymbolKind, symbol: &str) -> Option<&ConfigFields> {
        match kind {
            SymbolKind::Source => self.sources.iter().find(|source| source.name == symbol)?.config.as_ref(),
            SymbolKind::Sink => self.sinks.iter().find(|sink| sink.name == symbol)?.config.as_ref(),
            SymbolKind::Function => None,
        }
    }

    /// Encodes the description as one line of JSON, without its end.
    pub fn encode(&self) -> String {
        // Encoding text and JSON values cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Decodes a description.
    ///
    /// # Errors
    /// [`Error::Message`] if the text is not JSON of this form, is of a later
    /// [format](Self::FORMAT), or has a symbol whose name cannot be a file's.
    pub fn decode(text: &[u8]) -> Result<Self> {
        let wrong = |source| Error::Message { what: "the plugin's description of itself", source };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = crate::json::object(text).map_err(wrong)?;
        if format != Self::FORMAT {
            let text = format!("its format is {format}, but this version reads format {} only", Self::FORMAT);
            return Err(wrong(serde::de::Error::custom(text)));
        }
        let description: Self = crate::json::object(text).map_err(wrong)?;
        for kind in SymbolKind::ALL {
            if let Some(name) = description.names(kind).into_iter().find(|name| !is_file_name(name)) {
                let text = format!("{kind} name {name:?} cannot be the name of a file");
                return Err(wrong(serde::de::Error::custom(text)));
            }
        }
        Ok(description)
    }

    /// The plugin's manifest, where `executable` is the path of its program or
    /// script relative to its folder.
    ///
    /// # Errors
    /// As [`Manifest::parse`]: for an executable outside the plugin's folder, a
    /// plugin without symbols, or names that no manifest may have.
    pub fn manifest(&self, executable: &str) -> Result<Manifest> {
        let names = |kind| self.names(kind).into_iter().map(str::to_owned).collect();
        let manifest = Manifest {
            version: self.version.clone(),
            // eKuiper accepts no other spelling for a native program.
            language: if self.language == Language::Python { Language::Python } else { Language::Go },
            executable: executable.to_owned(),
            virtual_env_type: None,
            env: None,
            sources: names(SymbolKind::Source),
            sinks: names(SymbolKind::Sink),
            functions: names(SymbolKind::Function),
            other: serde_json::Map::new(),
        };
        let text = serde_json::to_string(&manifest)
            .map_err(|source| Error::Encode { what: "the plugin's manifest", source })?;
        Manifest::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_a_folder_are_refused() {
        for name in ["", "../x", "a/b", "/etc/passwd", "a\\b", "a\nb", "a\0b", &"x".repeat(300)] {
            let text = serde_json::json!({"format": 1, "name": "p", "sources": [{ "name": name }]}).to_string();
            let error = crate::Chain(&Description::decode(text.as_bytes()).unwrap_err()).to_string();
            assert!(error.contains("cannot be the name of a file"), "{error}");
            let mut made = Description::new("p", Language::Rust, Sdk::default());
            made.sources.push(SourceDescription { name: name.to_owned(), ..SourceDescription::default() });
            assert_eq!(made.engine_files(), []);
        }
    }

    #[test]
    fn a_later_format_is_named() {
        let error = crate::Chain(&Description::decode(br#"{"format":2,"anything":7}"#).unwrap_err()).to_string();
        assert!(error.contains("its format is 2, but this version reads format 1 only"), "{error}");
    }
}
