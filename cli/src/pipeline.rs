//! A pipeline's TOML file.
//!
//! ```toml
//! plugins = ["mirror"]              # folders, relative to this file
//!
//! [source]
//! symbol = "random"
//! config = { interval = 10 }
//! count = 20                        # absent: until the source ends or Ctrl-C
//!
//! [[function]]
//! symbol = "revert"
//! args = ["name"]                   # fields of the row
//! output = "reversed"               # the field that gets the result
//!
//! [sink]                            # absent: rows go to stdout
//! print = true                      # to stdout as well
//! symbol = "file"
//! config = { path = "/tmp/rows.jsonl" }
//! require_ack = true
//! ```

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ekuiper_core::{printable, text};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// Maximum size of the file, in bytes.
const LARGEST: u64 = 16 << 20;

/// A pipeline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pipeline {
    /// Folders of the plugins.
    pub(crate) plugins: Vec<PathBuf>,
    pub(crate) source: SourceStage,
    #[serde(default, rename = "function")]
    pub(crate) functions: Vec<FunctionStage>,
    pub(crate) sink: Option<SinkStage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceStage {
    pub(crate) symbol: String,
    #[serde(default)]
    pub(crate) datasource: String,
    #[serde(default, deserialize_with = "settings")]
    pub(crate) config: Map<String, Value>,
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionStage {
    pub(crate) symbol: String,
    /// Fields of the row that are passed as arguments.
    pub(crate) args: Vec<String>,
    /// Field that receives the result.
    pub(crate) output: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkStage {
    pub(crate) symbol: String,
    #[serde(default, deserialize_with = "settings")]
    pub(crate) config: Map<String, Value>,
    #[serde(default)]
    pub(crate) require_ack: bool,
    /// Whether rows accepted by the sink go to stdout as well.
    #[serde(default)]
    pub(crate) print: bool,
}

impl Pipeline {
    /// Reads a pipeline; resolves its plugin folders against the file's folder.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if bytes.len() as u64 > LARGEST {
            let text = format!("it is larger than a pipeline may be ({} MiB)", LARGEST >> 20);
            return Err(Error::PipelineField { path: path.to_owned(), text });
        }
        let text = text::decode(&bytes).map_err(|source| Error::Text { path: path.to_owned(), source })?;
        let mut pipeline = Self::parse(text).map_err(|error| misplaced(path, text, &error))?;
        if pipeline.plugins.is_empty() {
            let text = "plugins is empty: name at least one plugin's folder".to_owned();
            return Err(Error::PipelineField { path: path.to_owned(), text });
        }
        if pipeline.source.count == Some(0) {
            let text = "count is 0: it must be at least 1, or absent for all rows".to_owned();
            return Err(Error::PipelineField { path: path.to_owned(), text });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for plugin in &mut pipeline.plugins {
            *plugin = folder.join(&plugin);
        }
        Ok(pipeline)
    }

    /// Returns whether rows go to stdout.
    pub(crate) fn prints(&self) -> bool {
        self.sink.as_ref().is_none_or(|stage| stage.print)
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

/// Describes what is wrong with the file in one sentence, with line and column
/// in characters.
fn misplaced(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    Error::Pipeline { path: path.to_owned(), line, column, problem: printable::excerpt(error.message()).into_owned() }
}

/// Deserializes a symbol's configuration, which plugins receive as JSON: a date
/// becomes a string, and a value without a JSON form is an error.
fn settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let table = toml::Table::deserialize(deserializer)?;
    fields("", table).map_err(serde::de::Error::custom)
}

/// Converts the fields of a table, whose own path is `prefix`, to JSON.
fn fields(prefix: &str, table: toml::Table) -> Result<Map<String, Value>, String> {
    table.into_iter().map(|(name, value)| Ok((name.clone(), json(&format!("{prefix}{name}"), value)?))).collect()
}

/// Converts the value at `path` to JSON.
fn json(path: &str, value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Float(number) => match Number::from_f64(number) {
            Some(number) => number.into(),
            None => return Err(format!("config field {path} is {number}, which cannot be sent to a plugin")),
        },
        toml::Value::Array(values) => {
            let element = |(at, value)| json(&format!("{path}[{at}]"), value);
            values.into_iter().enumerate().map(element).collect::<Result<_, _>>()?
        }
        toml::Value::Table(table) => Value::Object(fields(&format!("{path}."), table)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "plugins = ['mirror']\n[source]\nsymbol = 'random'\n";

    #[test]
    fn the_smallest_and_the_whole_are_read() {
        let pipeline = Pipeline::parse(SMALLEST).unwrap();
        assert!(pipeline.functions.is_empty() && pipeline.sink.is_none());
        let whole = format!(
            "{SMALLEST}config = {{ interval = 10 }}\ncount = 5\n[[function]]\nsymbol = 'f'\nargs = ['a']\noutput = 'b'\n[sink]\nsymbol = 's'\nrequire_ack = true\n"
        );
        let pipeline = Pipeline::parse(&whole).unwrap();
        assert_eq!(pipeline.source.config["interval"], 10);
        assert_eq!(pipeline.functions[0].args, ["a"]);
        assert!(pipeline.sink.unwrap().require_ack);
    }

    #[test]
    fn the_manual_shows_a_pipeline() {
        let manual = include_str!("../../docs/src/command.md");
        let example = manual.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
        let pipeline = Pipeline::parse(example).unwrap();
        assert!(pipeline.prints() && pipeline.functions.len() == 1 && pipeline.source.count == Some(40));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let error = Pipeline::parse(&format!("{SMALLEST}cuont = 5\n")).unwrap_err().to_string();
        assert!(error.contains("cuont") && error.contains("line 4"), "{error}");
    }

    #[test]
    fn a_configuration_is_what_json_has_a_form_for() {
        let with = |config: &str| Pipeline::parse(&format!("{SMALLEST}config = {{ {config} }}\n"));
        let config = with("since = 2026-01-02, a = [1, 2.5, { b = true }]").unwrap().source.config;
        assert_eq!(Value::Object(config), serde_json::json!({ "since": "2026-01-02", "a": [1, 2.5, { "b": true }] }));
        let error = with("a = [1, { b = nan }]").unwrap_err().to_string();
        assert!(error.contains("config field a[1].b is NaN") && error.contains("line 4"), "{error}");
    }
}
