//! The TOML file with the options of single plugins.
//!
//! ```toml
//! [mirror]                       # the plugin's name
//! env = { MODE = "small" }       # variables, in place of this command's own
//! clear_env = true               # none but those
//! dir = "work"                   # working directory, relative to this file
//! memory = "256 MiB"             # of each process
//! descriptors = 256              # of each process
//! processors = 1
//! sha256 = "9f86d081884c7d65…"   # of the executable, in Python of the script
//!
//! [mirror.functions.revert]
//! timeout = "500ms"              # from the sending of a call to its answer
//! processes = 4                  # that execute its calls at the same time
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ekuiper_core::printable::excerpt;
use ekuiper_core::text;
use ekuiper_host::{CallOptions, PluginOptions};
use serde::{Deserialize, Deserializer};

use crate::args::patience;
use crate::error::{Error, Result};
use crate::pipeline::misplaced;

/// Maximum size of the file, in bytes.
const LARGEST: u64 = 1 << 20;

/// One plugin's table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    env: BTreeMap<String, String>,
    clear_env: bool,
    dir: Option<PathBuf>,
    #[serde(deserialize_with = "bytes")]
    memory: Option<u64>,
    descriptors: Option<u64>,
    processors: Option<usize>,
    sha256: Option<String>,
    functions: BTreeMap<String, FunctionTable>,
}

/// One function's table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FunctionTable {
    #[serde(deserialize_with = "time")]
    timeout: Option<Duration>,
    processes: Option<usize>,
}

/// Reads the file; returns the options of each plugin that it names.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, PluginOptions>> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if content.len() as u64 > LARGEST {
        let text = format!("it is larger than options of plugins may be ({} MiB)", LARGEST >> 20);
        return Err(Error::PipelineField { path: path.to_owned(), text });
    }
    let text = text::decode(&content).map_err(|source| Error::Text { path: path.to_owned(), source })?;
    let tables: BTreeMap<String, Table> = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        misplaced(path, text, at, error.message())
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(tables.into_iter().map(|(plugin, table)| (plugin, table.options(folder))).collect())
}

impl Table {
    fn options(self, folder: &Path) -> PluginOptions {
        let mut options = PluginOptions::new();
        for (name, value) in self.env {
            options = options.env(name, value);
        }
        if self.clear_env {
            options = options.clear_env();
        }
        if let Some(dir) = self.dir {
            options = options.dir(folder.join(dir));
        }
        if let Some(bytes) = self.memory {
            options = options.memory(bytes);
        }
        if let Some(number) = self.descriptors {
            options = options.descriptors(number);
        }
        if let Some(number) = self.processors {
            options = options.processors(number);
        }
        if let Some(digits) = self.sha256 {
            options = options.sha256(digits);
        }
        for (name, FunctionTable { timeout, processes }) in self.functions {
            if let Some(time) = timeout {
                // Of each call, also if many are made at once.
                options = options.calls(&name, CallOptions::new().answer_within(time).batch_rows(1));
            }
            if let Some(number) = processes {
                options = options.processes(&name, number);
            }
        }
        options
    }
}

/// A time: `"500ms"`, or a number of milliseconds.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Number(u64),
        Text(String),
    }
    let text = match Time::deserialize(deserializer) {
        Ok(Time::Number(number)) => number.to_string(),
        Ok(Time::Text(text)) => text,
        Err(_) => return Err(serde::de::Error::custom("a time is a number of milliseconds, or a text such as \"5s\"")),
    };
    patience(&text)
        .map(Some)
        .map_err(|problem| serde::de::Error::custom(format!("the time {:?}: {problem}", excerpt(&text))))
}

/// A size: `"256 MiB"`, or a number of bytes.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Number(u64),
        Text(String),
    }
    let wrong = || serde::de::Error::custom("a size is a number of bytes, or a text such as \"256 MiB\"");
    match Size::deserialize(deserializer).map_err(|_| wrong())? {
        Size::Number(number) => Ok(Some(number)),
        Size::Text(text) => size(&text).map(Some).ok_or_else(wrong),
    }
}

/// Parses a size: `256 MiB`, or a number of bytes.
pub(crate) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<BTreeMap<String, PluginOptions>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.toml");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "o.toml"))
    }

    #[test]
    fn the_example_of_this_module_can_be_read() {
        let source = include_str!("plugin_options.rs");
        let example: String = source
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .skip_while(|line| *line != "```toml")
            .skip(1)
            .take_while(|line| *line != "```")
            .fold(String::new(), |text, line| text + line + "\n");
        let read = options(&example).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["mirror"]);
        assert_ne!(read["mirror"], PluginOptions::new());
        assert_eq!(options("[a]\nmemory = 1024\n").unwrap()["a"], PluginOptions::new().memory(1024));
        assert_eq!(options("[a]\nmemory = '1KiB'\n").unwrap()["a"], PluginOptions::new().memory(1024));
        assert_eq!(options("[a]\n").unwrap()["a"], PluginOptions::new());
        let calls = CallOptions::new().answer_within(Duration::from_millis(500)).batch_rows(1);
        let of_f = PluginOptions::new().calls("f", calls).processes("f", 3);
        for time in ["500", "'500ms'"] {
            let text = format!("[a.functions.f]\ntimeout = {time}\nprocesses = 3\n");
            assert_eq!(options(&text).unwrap()["a"], of_f);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("[mirror]\nmemroy = 1\n", "o.toml, line 2, column 1: unknown field `memroy`"),
            ("[mirror]\nmemory = '1 MB'\n", "o.toml, line 2, column 10: a size is a number of bytes, or a text such"),
            ("[mirror]\nmemory = '99999999999 GiB'\n", "o.toml, line 2, column 10: a size is"),
            ("[mirror]\nmemory = -1\n", "o.toml, line 2, column 10: a size is"),
            ("[mirror.functions.f]\ntimeout = '5x'\n", "o.toml, line 2, column 11: the time \"5x\": a number and ms"),
            ("[mirror.functions.f]\ntimeout = 0\n", "o.toml, line 2, column 11: the time \"0\": it must be longer"),
            ("[mirror.functions.f]\ntimeout = -1\n", "o.toml, line 2, column 11: a time is a number"),
            ("[mirror.functions.f]\nordered = 1\n", "o.toml, line 2, column 1: unknown field `ordered`"),
            ("mirror = 1\n", "o.toml, line 1, column 10: invalid type: integer"),
            ("[mirror]\nenv = { A = 1 }\n", "o.toml, line 2, column 13: invalid type: integer"),
            ("[mirror\n", "o.toml, line 1, column 8: "),
        ] {
            let error = options(text).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
