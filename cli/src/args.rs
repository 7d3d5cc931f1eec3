//! The command line.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ekuiper_host::Format;
use serde_json::Value;

use crate::commands::object;
use crate::error::{Error, Result, excerpt};
use crate::plugin_options;
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
    /// Maximum time from a plugin's start to its handshake [default: 60s; with attach, no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) init_timeout: Option<Duration>,
    /// Maximum time until a plugin accepts a message [default: 5s; with attach, no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) send_timeout: Option<Duration>,
    /// Maximum time until a plugin answers or acknowledges [default: 5s; with attach, no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) recv_timeout: Option<Duration>,
    /// Maximum time to drain a sink at its end: until it has collected everything [default: 10m; with attach, no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) drain_timeout: Option<Duration>,
    /// Maximum time to drain a sink without progress [default: 10s; with attach, no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) drain_stall: Option<Duration>,
    /// Options of single plugins, a TOML file: environment, folder, limits, checksum
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) plugin_options: Option<PathBuf>,
    /// Log level of stderr; error also hides what the plugin writes
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log_level: LogLevel,
}

/// A time that no command takes.
pub(crate) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Common {
    pub(crate) fn init_timeout(&self) -> Duration {
        self.init_timeout.unwrap_or(Duration::from_secs(60))
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.send_timeout.unwrap_or(Duration::from_secs(5))
    }

    pub(crate) fn recv_timeout(&self) -> Duration {
        self.recv_timeout.unwrap_or(Duration::from_secs(5))
    }

    pub(crate) fn drain_timeout(&self) -> Duration {
        self.drain_timeout.unwrap_or(Duration::from_secs(600))
    }

    pub(crate) fn drain_stall(&self) -> Duration {
        self.drain_stall.unwrap_or(Duration::from_secs(10))
    }

    /// Returns the same options, without the limits that the user has not set: a
    /// debugger may hold a plugin for any time.
    pub(crate) fn patient(&self) -> Self {
        let patient = |time: Option<Duration>| time.or(Some(FOREVER));
        Self {
            init_timeout: patient(self.init_timeout),
            send_timeout: patient(self.send_timeout),
            recv_timeout: patient(self.recv_timeout),
            drain_timeout: patient(self.drain_timeout),
            drain_stall: patient(self.drain_stall),
            ..self.clone()
        }
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
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
    /// Run a pipeline: sources, functions, windows, sinks
    Run(Run),
    /// Wait for a plugin that you start, in a debugger for example, then call, read, feed or run it
    Attach(Attach),
    /// Check a plugin before it is shipped: its files, its program, and each symbol
    Check(CheckArguments),
    /// Build a plugin, and write the zip that eKuiper installs
    Package(PackageArguments),
    /// Rebuild and update a plugin when its files change, while its symbols go on
    Watch(Watch),
    /// Serve eKuiper's REST interface for portable plugins: install, update and remove by requests
    Serve(Serve),
    /// Print what the plugins of a running `serve` have written
    Logs(Logs),
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
    #[command(flatten)]
    pub(crate) call: FunctionCall,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// What to call.
#[derive(Debug, Args)]
pub(crate) struct FunctionCall {
    /// The function's name
    pub(crate) function: String,
    /// Arguments, each as JSON: '"text"' 7 '{"a":1}'; or - alone: one call for each line of stdin, a JSON array of its arguments, or any other value as the only one
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    pub(crate) arguments: Vec<String>,
    /// Call the function N times, and print rate and latencies instead of the result
    #[arg(long, value_name = "N", value_parser = repeats, allow_negative_numbers = true)]
    pub(crate) repeat: Option<u64>,
}

/// `ekuiper-plugin source examples/mirror random --count 5`
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The plugin's folder or zip
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) reading: SourceReading,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// What to read.
#[derive(Debug, Args)]
pub(crate) struct SourceReading {
    /// The source's name
    pub(crate) symbol: String,
    /// What to read: a topic, for example
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) datasource: String,
    /// The source's configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,
    /// Stop after N tuples [default: at the source's end, or Ctrl-C]
    #[arg(short = 'n', long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) count: Option<u64>,
    /// Print each tuple's meta too: {"message":…,"meta":…}
    #[arg(long)]
    pub(crate) meta: bool,
    #[command(flatten)]
    pub(crate) limits: Limits,
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
    #[command(flatten)]
    pub(crate) feeding: SinkFeeding,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// What to feed.
#[derive(Debug, Args)]
pub(crate) struct SinkFeeding {
    /// The sink's name
    pub(crate) symbol: String,
    /// The sink's configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,
    /// Wait for the acknowledgement of each message (requireAck)
    #[arg(long)]
    pub(crate) ack: bool,
}

/// `ekuiper-plugin run examples/quickstart.toml`
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The pipeline's TOML file; paths in it are relative to it
    #[arg(value_name = "PIPELINE")]
    pub(crate) file: PathBuf,
    /// Show no view of what happens where stdout is a terminal: print rows there, and counts in a line
    #[arg(long)]
    pub(crate) no_view: bool,
    /// Stop each source after N tuples; overrides the file
    #[arg(short = 'n', long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) count: Option<u64>,
    /// Serve the plugins' figures for Prometheus at this address of this machine, as GET /metrics; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

/// `ekuiper-plugin attach mirror call revert '"hello"'`
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// The plugin's name, as its code has it: Plugin::new("NAME"), PluginConfig("NAME", …)
    pub(crate) name: String,
    /// Fail if the plugin has not come, or not come back, within this time [default: no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = patience, allow_negative_numbers = true)]
    pub(crate) wait: Option<Duration>,
    /// Serve POST /symbol/start and /symbol/stop, as eKuiper's plugin test server does [default address: 127.0.0.1:33333]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:33333")]
    pub(crate) serve: Option<SocketAddr>,
    #[command(subcommand)]
    pub(crate) action: Option<Attached>,
}

/// What to do with an attached plugin.
#[derive(Debug, Subcommand)]
pub(crate) enum Attached {
    /// Call a function once, or many times to measure it
    Call(FunctionCall),
    /// Print a source's tuples as JSON lines
    Source(SourceReading),
    /// Send JSON lines from stdin to a sink
    Sink(SinkFeeding),
    /// Run a pipeline, in which the attached plugin needs no folder
    Run(Run),
}

/// `ekuiper-plugin serve --plugins /var/lib/plugins`
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Folder that keeps the plugins, which is made if it is not there
    #[arg(long, value_name = "DIR", default_value = "plugins")]
    pub(crate) plugins: PathBuf,
    /// Address and port to listen at, or a name and port, as localhost:9082; what other machines reach needs --token-file: whoever can send requests can install programs
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9082")]
    pub(crate) listen: SocketAddr,
    /// File with the token that requests must carry; if it is not there, a token is made, written there and printed once
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Serve https, with this certificate and those that lead to its authority, in PEM
    #[cfg(feature = "https")]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[cfg(feature = "https")]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Fetch packages from this machine and from private networks, too
    #[arg(long)]
    pub(crate) allow_private_addresses: bool,
    /// Maximum size of a package that is sent or fetched, in bytes or as in "256 MiB"
    #[arg(long, value_name = "SIZE", value_parser = package_size, allow_negative_numbers = true, default_value = "1 GiB")]
    pub(crate) package_size: u64,
    /// Maximum time that a client may take to ask: from its connection, or the last answer, to the end of a request's head
    #[arg(long, value_name = "TIME", value_parser = patience, allow_negative_numbers = true, default_value = "10s")]
    pub(crate) head_timeout: Duration,
    /// Maximum number of connections [default: half of the files that may be open, at most 1024]
    #[arg(long, value_name = "N", value_parser = connections, allow_negative_numbers = true)]
    pub(crate) connections: Option<usize>,
}

/// `ekuiper-plugin logs mirror --follow`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The plugin's name [default: all plugins]
    pub(crate) name: Option<String>,
    /// Go on with each line that is written from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Least severe level to print
    #[arg(long, value_name = "LEVEL", default_value = "trace")]
    pub(crate) level: LogLevel,
    /// Number of lines so far that are printed, the last ones
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = number, allow_negative_numbers = true)]
    pub(crate) lines: u64,
    /// Print each line as the JSON object that `GET /logs` answers
    #[arg(long)]
    pub(crate) json: bool,
    /// The address of `serve`
    #[arg(long = "engine", value_name = "URL", default_value = "http://127.0.0.1:9082")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) token: TokenArguments,
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
    #[command(flatten)]
    pub(crate) token: TokenArguments,
}

/// What an engine wants as `Authorization`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TokenArguments {
    /// What the engine wants as `Authorization`, if it wants one
    #[arg(long, value_name = "TOKEN", env = "EKUIPER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File with that token, which the list of processes does not show; it is preferred
    #[arg(long, value_name = "FILE", env = "EKUIPER_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
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
    /// Update it even if it lacks a symbol that rules use
    #[arg(long)]
    pub(crate) force: bool,
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

/// Largest number of connections, which a semaphore can count.
const MOST_CONNECTIONS: usize = 1_000_000;

fn repeats(text: &str) -> std::result::Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_REPEATS).contains(number));
    number.ok_or_else(|| format!("a whole number from 1 to {MOST_REPEATS}"))
}

fn count(text: &str) -> std::result::Result<u64, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "a whole number, at least 1".into())
}

/// Parses an address and a port; a name stands for its first IPv4 address, or
/// else for its first one.
fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    let wanted = || "an address and a port, as 127.0.0.1:9082, [::1]:9082 or localhost:9082".to_owned();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (name, _) = text
        .rsplit_once(':')
        .filter(|(name, port)| !name.is_empty() && !name.contains(':') && port.parse::<u16>().is_ok())
        .ok_or_else(wanted)?;
    let found: Vec<_> = text.to_socket_addrs().map_err(|error| format!("{name:?} has no address: {error}"))?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("{name:?} has no address"))
}

fn package_size(text: &str) -> std::result::Result<u64, String> {
    match plugin_options::size(text) {
        Some(0) => Err("it must be more than zero: no package has no bytes".into()),
        size => size.ok_or_else(|| "a number of bytes, or a text such as \"256 MiB\"".into()),
    }
}

fn connections(text: &str) -> std::result::Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_CONNECTIONS).contains(number));
    number.ok_or_else(|| format!("a whole number from 1 to {MOST_CONNECTIONS}"))
}

fn number(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| "a whole number".into())
}

/// Parses a timeout, which cannot be zero.
pub(crate) fn patience(text: &str) -> std::result::Result<Duration, String> {
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
    fn an_address_may_be_a_name() {
        assert_eq!(address("127.0.0.1:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(address("[::1]:1").unwrap().to_string(), "[::1]:1");
        assert!(address("localhost:0").unwrap().ip().is_loopback());
        for wrong in ["", "localhost", ":80", "127.0.0.1", "localhost:http", "localhost:70000", "::1:x", "a:b:80"] {
            assert!(address(wrong).unwrap_err().contains("an address and a port"), "{wrong}");
        }
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
