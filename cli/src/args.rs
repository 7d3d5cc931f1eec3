//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ekuiper_host::Format;
use serde_json::Value;

use crate::commands::object;
use crate::error::{Error, Result, excerpt};
use crate::project::BuildOptions;

/// Call, read, feed and run eKuiper portable plugins, without an engine.
///
/// PATH is a plugin's folder, which contains the manifest NAME.json and the
/// executable, or the zip that eKuiper installs. A folder that is a Cargo
/// project is built first.
#[derive(Debug, Parser)]
#[command(name = "ekuiper-plugin", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// Transport to the plugin [default: uds]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) transport: Option<String>,
    /// Format of messages, where the plugin supports more than JSON
    #[arg(long, global = true, value_name = "NAME", default_value = "messagepack")]
    pub(crate) codec: Codec,
    /// Folder of all sockets [default: a private one, and /tmp for plugins that support no other]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) ipc_dir: Option<PathBuf>,
    /// Interpreter of Python plugins [default: python, else python3]
    #[arg(long, global = true, value_name = "PROGRAM", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) python_bin: Option<String>,
    /// Maximum time from a plugin's start to its handshake
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) init_timeout: Duration,
    /// Maximum time until a plugin accepts a message
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) send_timeout: Duration,
    /// Maximum time until a plugin answers or acknowledges
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) recv_timeout: Duration,
    /// Maximum time to drain a sink at its end: until it has collected everything
    #[arg(long, global = true, value_name = "TIME", default_value = "10m", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) drain_timeout: Duration,
    /// Maximum time to drain a sink without progress
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) drain_stall: Duration,
    /// Log level of stderr; error also hides what the plugin writes
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log_level: LogLevel,
}

/// A format of messages.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Codec {
    Json,
    #[value(name = "messagepack")]
    MessagePack,
}

impl Codec {
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Json => Format::Json,
            Self::MessagePack => Format::MessagePack,
        }
    }
}

/// A log level.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new plugin, which builds, is tested and can be packaged at once
    New(New),
    /// Call a function once, or many times to measure it
    Call(Call),
    /// Print a source's tuples as JSON lines
    Source(Source),
    /// Send JSON lines from stdin to a sink
    Sink(Sink),
    /// Run a pipeline: source, functions, sink
    Run(Run),
    /// Check a plugin before it is shipped: its files, its program, and each symbol
    Check(CheckArguments),
    /// Build a plugin, and write the zip that eKuiper installs
    Package(PackageArguments),
    /// Rebuild and update a plugin when its files change, while its symbols go on
    Watch(Watch),
    /// Install or update a plugin in a running engine
    Deploy(Deploy),
    /// Remove a plugin from a running engine
    Remove(Remove),
    /// Benchmark the built-in transports, side by side
    #[cfg(feature = "bench")]
    Bench(ekuiper_bench::Options),
    /// Print a shell's completions of this command
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print this command's manual page, or write those of all its commands into a folder
    Man {
        /// The folder, which is made if it is not there
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

/// `ekuiper-plugin new my-plugin --kind source --kind function`
#[derive(Debug, Args)]
pub(crate) struct New {
    /// The folder to make; its name is the plugin's
    #[arg(value_name = "NAME")]
    pub(crate) path: PathBuf,
    /// The language
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    pub(crate) language: Language,
    /// A kind of symbol that the plugin has an example of; may be repeated
    #[arg(long = "kind", value_name = "KIND", default_value = "function")]
    pub(crate) kinds: Vec<Kind>,
    /// The crate ekuiper-sdk that a plugin in Rust depends on [default: the one that this command was built beside]
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk: Option<PathBuf>,
}

/// A language to write a plugin in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    Python,
}

/// A kind of symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Function,
    Source,
    Sink,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

/// `ekuiper-plugin call examples/mirror revert '"hello"'`
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The plugin's folder or zip
    pub(crate) path: PathBuf,
    /// The function's name
    pub(crate) function: String,
    /// Arguments, each as JSON: '"text"' 7 '{"a":1}'
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    pub(crate) arguments: Vec<String>,
    /// Call the function N times, and print rate and latencies instead of the result
    #[arg(long, value_name = "N", value_parser = repeats, allow_negative_numbers = true)]
    pub(crate) repeat: Option<u64>,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// `ekuiper-plugin source examples/mirror random --count 5`
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The plugin's folder or zip
    pub(crate) path: PathBuf,
    /// The source's name
    pub(crate) symbol: String,
    /// What to read: a topic, for example
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) datasource: String,
    /// The source's configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,
    /// Stop after N tuples [default: at the source's end, or Ctrl-C]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) count: Option<u64>,
    /// Print each tuple's meta too: {"message":…,"meta":…}
    #[arg(long)]
    pub(crate) meta: bool,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// When to stop reading a source.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Limits {
    /// Stop after this time; fewer tuples than --count are a failure [default: never]
    #[arg(long, value_name = "TIME", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
    /// Fail after N consecutive errors without a row in between; 0 disables the limit
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number, allow_negative_numbers = true)]
    pub(crate) max_errors: u64,
}

/// `printf '{"a":1}\n' | ekuiper-plugin sink examples/mirror file --ack`
#[derive(Debug, Args)]
pub(crate) struct Sink {
    /// The plugin's folder or zip
    pub(crate) path: PathBuf,
    /// The sink's name
    pub(crate) symbol: String,
    /// The sink's configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,
    /// Wait for the acknowledgement of each message (requireAck)
    #[arg(long)]
    pub(crate) ack: bool,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// `ekuiper-plugin run examples/quickstart.toml`
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The pipeline's TOML file; paths in it are relative to it
    #[arg(value_name = "PIPELINE")]
    pub(crate) file: PathBuf,
    /// Stop after N tuples; overrides the file
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// `ekuiper-plugin check my-plugin.zip`
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The plugin's folder or zip
    pub(crate) path: PathBuf,
    /// Print each finding as a JSON object, and a summary last
    #[arg(long)]
    pub(crate) json: bool,
    /// Look at the files only: start nothing
    #[arg(long)]
    pub(crate) no_start: bool,
    /// Run install.sh too, in a copy of the plugin's folder
    #[arg(long)]
    pub(crate) install: bool,
    /// How long each source has time for its first tuple
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) try_for: Duration,
    /// The configuration to try a source or sink with, a JSON object: 'file={"path":"/dev/null"}'
    #[arg(long, value_name = "SYMBOL=JSON")]
    pub(crate) config: Vec<String>,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

impl CheckArguments {
    /// The configurations that are given, by symbol.
    pub(crate) fn configs(&self) -> Result<BTreeMap<String, Value>> {
        let parsed = self.config.iter().map(|text| match text.split_once('=') {
            Some((symbol, json)) => Ok((symbol.to_owned(), object("--config", json)?)),
            None => Err(Error::ConfigWithoutSymbol { text: excerpt(text.as_bytes(), 0) }),
        });
        parsed.collect()
    }
}

/// `ekuiper-plugin package my-plugin --target aarch64`
#[derive(Debug, Args)]
pub(crate) struct PackageArguments {
    /// The plugin's folder
    pub(crate) path: PathBuf,
    /// The zip to write [default: NAME.zip in the current folder]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: PackageOptions,
}

/// What goes into a package.
#[derive(Clone, Debug, Args)]
pub(crate) struct PackageOptions {
    /// What a Cargo project is built for: x86_64, aarch64, armv7 (static, for all of eKuiper's images), native, or a target of Rust's [default: static, for this processor]
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Option<String>,
    /// A further file or folder of a Cargo project, relative to the plugin's folder
    #[arg(long, value_name = "PATH")]
    pub(crate) include: Vec<PathBuf>,
    /// Use the program that a Cargo project was built to before
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// `ekuiper-plugin watch my-plugin revert '"hello"'`
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The plugin's folder, or a pipeline's TOML file
    pub(crate) path: PathBuf,
    /// A source, whose rows are printed, or a function, which is called after each change
    pub(crate) symbol: Option<String>,
    /// The function's arguments, each as JSON
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    pub(crate) arguments: Vec<String>,
    /// What a source reads: a topic, for example
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) datasource: String,
    /// A source's configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// The engine that a command talks to.
#[derive(Clone, Debug, Args)]
pub(crate) struct EngineArguments {
    /// The engine's REST address
    #[arg(long = "engine", value_name = "URL", default_value = "http://127.0.0.1:9081")]
    pub(crate) url: String,
    /// What the engine wants as `Authorization`, if it wants one
    #[arg(long, value_name = "TOKEN", env = "EKUIPER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// `ekuiper-plugin deploy my-plugin --engine http://gateway:9081`
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The plugin's folder or zip
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
    #[command(flatten)]
    pub(crate) options: PackageOptions,
    /// A parameter of the package's install.sh
    #[arg(long = "parameter", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) parameters: Vec<String>,
    /// Restart the rules that use the plugin
    #[arg(long)]
    pub(crate) restart_rules: bool,
}

/// `ekuiper-plugin remove my-plugin --engine http://gateway:9081`
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The plugin's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
    /// Remove it even while rules use it
    #[arg(long)]
    pub(crate) force: bool,
}

/// Maximum of `--repeat`; the latency of each call is kept in memory.
const MOST_REPEATS: u64 = 100_000_000;

fn repeats(text: &str) -> std::result::Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_REPEATS).contains(number));
    number.ok_or_else(|| format!("a whole number from 1 to {MOST_REPEATS}"))
}

fn count(text: &str) -> std::result::Result<u64, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "a whole number, at least 1".into())
}

fn number(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| "a whole number".into())
}

/// Parses a timeout, which cannot be zero.
fn patience(text: &str) -> std::result::Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than zero".into()),
        time => Ok(time),
    }
}

/// Parses a duration as eKuiper writes it: `5s`, `500ms`, `1m`; a bare number is
/// milliseconds.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" | "" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number and ms, s, m or h, for example 500ms or 5s".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a number and ms, s, m or h, for example 500ms or 5s".to_owned())?;
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| "that is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        assert_eq!((count("1"), repeats("100000000"), number("0")), (Ok(1), Ok(100_000_000), Ok(0)));
        for wrong in ["", "-1", "1.5", "1e3", "nan", "inf", "18446744073709551616", " 1", "0x1"] {
            assert!(count(wrong).is_err() && repeats(wrong).is_err() && number(wrong).is_err(), "{wrong}");
            assert!(patience(wrong).is_err(), "{wrong}");
        }
        assert!(count("0").is_err() && repeats("0").is_err() && repeats("100000001").is_err());
        assert!(["0", "0s", "00h"].into_iter().all(|none| patience(none).is_err()));
    }

    #[test]
    fn times_are_ekuipers() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1000"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1s", "5 s", "1d", "99999999999999999999h", "9999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
