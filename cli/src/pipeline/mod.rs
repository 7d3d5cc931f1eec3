//! A pipeline's TOML file.
//!
//! ```toml
//! plugins = ["mirror"]              # folders, relative to this file
//!
//! [source]                          # or several [[source]]
//! symbol = "random"
//! config = { interval = 10 }
//! count = 20                        # absent: until the source ends or Ctrl-C
//!
//! [[function]]                      # in the order of the work
//! symbol = "revert"
//! args = ["name"]                   # fields of the row, and constants
//! output = "reversed"               # the field that gets the result
//!
//! [window]                          # for aggregates
//! count = 10                        # or time = "5s"
//!
//! [[function]]
//! symbol = "average"
//! args = ["value"]                  # lists of the values of a window's rows
//! aggregate = true
//! output = "mean"
//!
//! [sink]                            # or several [[sink]]; absent: rows go to stdout
//! print = true                      # to stdout as well
//! symbol = "file"
//! config = { path = "/tmp/rows.jsonl" }
//! require_ack = true
//! ```
//!
//! What can be wrong with a file alone is found here; what the plugins must be
//! asked for is found when the functions are [planned](crate::flow).

mod values;

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ekuiper_core::{printable, text};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use toml::Spanned;

use crate::args::patience;
use crate::error::{Error, Result, excerpt};
use values::{Tables, settings};

pub(crate) use values::Argument;

/// Maximum size of the file, in bytes.
const LARGEST: u64 = 16 << 20;

/// A pipeline.
#[derive(Debug)]
pub(crate) struct Pipeline {
    path: PathBuf,
    text: String,
    /// Folders of the plugins.
    pub(crate) plugins: Vec<PathBuf>,
    /// At least one.
    pub(crate) sources: Vec<SourceStage>,
    pub(crate) functions: Vec<FunctionStage>,
    pub(crate) window: Option<Spanned<Window>>,
    pub(crate) sinks: Vec<SinkStage>,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    plugins: Vec<PathBuf>,
    source: Tables<SourceStage>,
    #[serde(default)]
    function: Tables<FunctionStage>,
    window: Option<Spanned<Window>>,
    #[serde(default)]
    sink: Option<Tables<SinkStage>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceStage {
    pub(crate) symbol: Spanned<String>,
    #[serde(default)]
    pub(crate) datasource: String,
    #[serde(default, deserialize_with = "settings")]
    pub(crate) config: Map<String, Value>,
    #[serde(default, deserialize_with = "source_count")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionStage {
    pub(crate) symbol: Spanned<String>,
    pub(crate) args: Vec<Argument>,
    /// Field that receives the result.
    pub(crate) output: Option<Spanned<String>>,
    /// Whether a row goes on only if the result is true.
    #[serde(default)]
    pub(crate) filter: bool,
    /// Whether the arguments are lists of the values of a window's rows; if
    /// absent, as the plugin says.
    pub(crate) aggregate: Option<bool>,
}

/// Which rows are one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WindowContents")]
pub(crate) enum Window {
    /// This many rows in a row.
    Count(u64),
    /// The rows of this time, by their arrival.
    Time(Duration),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowContents {
    #[serde(default, deserialize_with = "window_count")]
    count: Option<u64>,
    #[serde(default, deserialize_with = "window_time")]
    time: Option<Duration>,
}

impl TryFrom<WindowContents> for Window {
    type Error = &'static str;

    fn try_from(contents: WindowContents) -> Result<Self, &'static str> {
        match (contents.count, contents.time) {
            (Some(count), None) => Ok(Self::Count(count)),
            (None, Some(time)) => Ok(Self::Time(time)),
            (Some(_), Some(_)) => Err("a window has a count or a time, not both"),
            (None, None) => Err("a window needs a count of rows, such as count = 10, or a time, such as time = \"5s\""),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkStage {
    pub(crate) symbol: Spanned<String>,
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
        let mut pipeline = Self::parse(path, text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for plugin in &mut pipeline.plugins {
            *plugin = folder.join(&plugin);
        }
        Ok(pipeline)
    }

    /// Returns whether rows go to stdout.
    pub(crate) fn prints(&self) -> bool {
        self.sinks.is_empty() || self.sinks.iter().any(|stage| stage.print)
    }

    /// Returns the error of what stands at these bytes of the file.
    pub(crate) fn wrong(&self, at: &Range<usize>, problem: &str) -> Error {
        misplaced(&self.path, &self.text, at.start, problem)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let contents: Contents = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            misplaced(path, text, at, &format!("{}{}", error.message(), second_table(text, at)))
        })?;
        let Contents { plugins, source, function, window, sink } = contents;
        let has_no_sink = sink.as_ref().is_some_and(|sink| sink.0.is_empty());
        let (path, text) = (path.to_owned(), text.to_owned());
        let (sources, sinks) = (source.0, sink.unwrap_or_default().0);
        let pipeline = Self { path, text, plugins, sources, functions: function.0, window, sinks };
        let empty = [
            (pipeline.plugins.is_empty(), "plugins is empty: name at least one plugin's folder"),
            (pipeline.sources.is_empty(), "source is empty: rows come from at least one source"),
            (has_no_sink, "sink is empty: leave it out, and rows go to stdout"),
        ];
        if let Some((_, text)) = empty.into_iter().find(|(is_empty, _)| *is_empty) {
            return Err(Error::PipelineField { path: pipeline.path, text: text.into() });
        }
        for stage in &pipeline.functions {
            let problem = match (&stage.output, stage.filter) {
                (None, false) => "needs an output, the field that gets its result, or filter = true",
                (Some(_), true) => "has an output and is a filter, whose result is not kept: leave out one",
                _ => continue,
            };
            let problem = format!("function {} {problem}", shown(stage.symbol.get_ref()));
            return Err(pipeline.wrong(&stage.symbol.span(), &problem));
        }
        Ok(pipeline)
    }
}

/// Returns a hint if what stands at this byte of the file is a table that is
/// there already, and may be there several times.
fn second_table(text: &str, at: usize) -> &'static str {
    let line = text.get(..at).map_or(0, |before| before.rfind('\n').map_or(0, |end| end + 1));
    match text.get(line..).and_then(|rest| rest.lines().next()).unwrap_or_default().trim() {
        "[source]" | "[[source]]" => ": write [[source]] for each of several sources",
        "[sink]" | "[[sink]]" => ": write [[sink]] for each of several sinks",
        "[function]" | "[[function]]" => ": write [[function]] for each of several functions",
        _ => "",
    }
}

/// Returns the number of the instance that a stage's symbol is, behind the
/// stages with these symbols: each of several of one symbol is another.
pub(crate) fn instance<'s>(before: impl Iterator<Item = &'s Spanned<String>>, symbol: &Spanned<String>) -> i64 {
    before.filter(|other| other.get_ref() == symbol.get_ref()).count() as i64
}

/// Returns a name of the file as it stands in a sentence.
pub(crate) fn shown(name: &str) -> String {
    excerpt(name.as_bytes(), 0)
}

/// Describes what is wrong at this byte of the file in one sentence, with line
/// and column in characters.
pub(crate) fn misplaced(path: &Path, text: &str, at: usize, problem: &str) -> Error {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    Error::Pipeline { path: path.to_owned(), line, column, problem: printable::excerpt(problem).into_owned() }
}

fn source_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    at_least_one(deserializer, "count is 0: it must be at least 1, or absent for all rows")
}

fn window_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    at_least_one(deserializer, "count is 0: a window has at least 1 row")
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D, otherwise: &str) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(D::Error::custom(otherwise)),
        count => Ok(Some(count)),
    }
}

fn window_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |problem| D::Error::custom(format_args!("time is {:?}: {problem}", shown(&text)));
    patience(&text).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_core::Chain;
    use serde_json::json;

    const SMALLEST: &str = "plugins = ['mirror']\n[source]\nsymbol = 'random'\n";

    fn parse(text: &str) -> Result<Pipeline, String> {
        Pipeline::parse(Path::new("p.toml"), text).map_err(|error| Chain(&error).to_string())
    }

    #[test]
    fn the_smallest_and_the_whole_are_read() {
        let pipeline = parse(SMALLEST).unwrap();
        assert!(pipeline.functions.is_empty() && pipeline.sinks.is_empty() && pipeline.prints());
        let whole = format!(
            "{SMALLEST}config = {{ interval = 10 }}\ncount = 5\n[[function]]\nsymbol = 'f'\nargs = ['a']\noutput = 'b'\n[sink]\nsymbol = 's'\nrequire_ack = true\n"
        );
        let pipeline = parse(&whole).unwrap();
        assert_eq!(pipeline.sources[0].config["interval"], 10);
        assert_eq!(pipeline.functions[0].args, [Argument::Field("a".into())]);
        assert!(pipeline.sinks[0].require_ack && !pipeline.prints());
    }

    #[test]
    fn several_sources_and_sinks_and_all_kinds_of_arguments_are_read() {
        let text = "plugins = ['p']\n[[source]]\nsymbol = 'a'\n[[source]]\nsymbol = 'b'\ncount = 3\n\
                    [[function]]\nsymbol = 'f'\nfilter = true\n\
                    args = ['field', 7, -1.5, true, [1, 'x'], { value = 'text' }, { value = { a = 'b' } }, 2026-01-02]\n\
                    [window]\ntime = '5s'\n[[sink]]\nsymbol = 's'\n[[sink]]\nsymbol = 't'\nprint = true\n";
        let pipeline = parse(text).unwrap();
        let names: Vec<_> = pipeline.sources.iter().map(|source| source.symbol.get_ref().as_str()).collect();
        assert_eq!((names, pipeline.sources[1].count), (vec!["a", "b"], Some(3)));
        let constants = [json!(7), json!(-1.5), json!(true), json!([1, "x"]), json!("text"), json!({"a": "b"})];
        let constants = constants.into_iter().chain([json!("2026-01-02")]).map(Argument::Constant);
        let wanted: Vec<_> = [Argument::Field("field".into())].into_iter().chain(constants).collect();
        assert_eq!(pipeline.functions[0].args, wanted);
        assert_eq!(pipeline.window.as_ref().unwrap().get_ref(), &Window::Time(Duration::from_secs(5)));
        assert!(pipeline.sinks.len() == 2 && pipeline.prints());
    }

    #[test]
    fn the_manual_shows_a_pipeline() {
        let manual = include_str!("../../../docs/src/command.md");
        let example = manual.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
        let pipeline = parse(example).unwrap();
        assert!(pipeline.prints() && pipeline.functions.len() == 1 && pipeline.sources[0].count == Some(40));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let error = parse(&format!("{SMALLEST}cuont = 5\n")).unwrap_err();
        assert!(error.contains("cuont") && error.starts_with("p.toml, line 4, column 1: "), "{error}");
    }

    #[test]
    fn a_configuration_is_what_json_has_a_form_for() {
        let with = |config: &str| parse(&format!("{SMALLEST}config = {{ {config} }}\n"));
        let config = with("since = 2026-01-02, a = [1, 2.5, { b = true }]").unwrap().sources.remove(0).config;
        assert_eq!(Value::Object(config), json!({ "since": "2026-01-02", "a": [1, 2.5, { "b": true }] }));
        let error = with("a = [1, { b = nan }]").unwrap_err();
        assert!(error.contains("config field a[1].b is NaN") && error.contains("line 4"), "{error}");
    }

    #[test]
    fn what_contradicts_itself_is_named_with_its_place() {
        let function = |more: &str| format!("{SMALLEST}[[function]]\nsymbol = 'f'\nargs = []\n{more}");
        for (text, told) in [
            (function(""), "line 5, column 10: function f needs an output, the field that gets its result, or filter"),
            (function("filter = false"), "line 5, column 10: function f needs an output"),
            (function("filter = true\noutput = 'x'"), "line 5, column 10: function f has an output and is a filter"),
            (function("args = 1"), "line 7, column 1: duplicate key"),
            (format!("{SMALLEST}[window]\n"), "line 4, column 1: a window needs a count of rows"),
            (format!("{SMALLEST}[window]\ncount = 0\n"), "line 5, column 9: count is 0: a window has at least 1 row"),
            (format!("{SMALLEST}[window]\ncount = -1\n"), "line 5, column 9: invalid value: integer `-1`"),
            (
                format!("{SMALLEST}[window]\ncount = 1\ntime = '1s'\n"),
                "line 4, column 1: a window has a count or a time, not both",
            ),
            (format!("{SMALLEST}[window]\ntime = '0s'\n"), "line 5, column 8: time is \"0s\": it must be longer"),
            (format!("{SMALLEST}[window]\ntime = 5\n"), "line 5, column 8: invalid type: integer `5`"),
            (
                format!("{SMALLEST}[[function]]\nsymbol = 'f'\nargs = [{{ value = 1, x = 2 }}]\noutput = 'y'\n"),
                "line 6, column 8: a constant is { value = … }, without other keys",
            ),
            (
                format!("{SMALLEST}[[function]]\nsymbol = 'f'\nargs = [inf]\noutput = 'y'\n"),
                "line 6, column 8: argument is inf, which cannot be sent to a plugin",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(&format!("p.toml, {told}")), "{error}");
        }
        for (table, more) in
            [("source", "symbol = 'x'"), ("sink", "symbol = 'x'"), ("function", "symbol = 'f'\nargs = []")]
        {
            for second in [format!("[{table}]"), format!("[[{table}]]")] {
                let text = format!("plugins = ['p']\n[{table}]\n{more}\n{second}\n{more}\n");
                let error = parse(&text).unwrap_err();
                let hint = format!("duplicate key: write [[{table}]] for each of several {table}s");
                assert!(error.ends_with(&hint), "{error}");
            }
        }
        for (text, told) in [
            ("plugins = ['p']\nsource = []\n", "p.toml: source is empty"),
            ("plugins = ['p']\nsink = []\n[source]\nsymbol = 's'\n", "p.toml: sink is empty"),
            (
                "plugins = ['p']\nsource = 'x'\n",
                "p.toml, line 2, column 10: invalid type: string \"x\", expected a table",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(told), "{error}");
        }
        // Deep nesting, and long names.
        let bomb = format!("{SMALLEST}config = {{ a = {}{} }}\n", "[".repeat(100_000), "]".repeat(100_000));
        let error = parse(&bomb).unwrap_err();
        assert!(error.starts_with("p.toml, line 4, column ") && error.len() < 300, "{error}");
        let error = parse(&format!("{SMALLEST}[[function]]\nsymbol = '{}'\nargs = []\n", "f".repeat(300))).unwrap_err();
        assert!(error.len() < 300 && error.contains("… (300 bytes)"), "{error}");
    }
}
