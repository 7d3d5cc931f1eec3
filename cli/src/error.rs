//! Errors of the command itself.

use std::path::PathBuf;
use std::time::Duration;

use ekuiper_core::message::SymbolKind;
use ekuiper_core::printable;
use ekuiper_core::text::TextError;
use ekuiper_host::python_advice;

use crate::engine::Peer;
use crate::interrupt::INTERRUPTED;
use crate::progress::counted;

/// Result of a command.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Maximum length of an excerpt of an invalid text, in bytes.
pub(crate) const EXCERPT: usize = 80;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Host(#[from] ekuiper_host::Error),
    #[error("{what} is not JSON: {problem} in {text}{hint}")]
    Argument { what: String, problem: serde_json::Error, text: String, hint: String },
    #[error("{what} contains {number}, an integer of more than 64 bits: write it as a string, or as a float with .0")]
    LongInteger { what: String, number: String },
    #[error("{what} must be a JSON object, for example {{\"interval\":10}}; it is {text}")]
    NotAnObject { what: &'static str, text: String },
    #[error("--config takes a symbol and its configuration, such as 'file={{\"path\":\"x\"}}'; it is {text}")]
    ConfigWithoutSymbol { text: String },
    #[error(transparent)]
    Archive(Box<ekuiper_manager::archive::ArchiveError>),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot make a temporary file in {}: TMPDIR names another place for it", folder.display())]
    Temporary { folder: PathBuf, source: std::io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot read {}", path.display())]
    Text { path: PathBuf, source: TextError },
    #[error("{}, line {line}, column {column}: {problem}", path.display())]
    Pipeline { path: PathBuf, line: usize, column: usize, problem: String },
    #[error("{}: {text}", path.display())]
    PipelineField { path: PathBuf, text: String },
    #[error("cannot read stdin")]
    Stdin(#[source] std::io::Error),
    #[error("stdin is not JSON lines")]
    StdinText(#[source] TextError),
    #[error("line {line} of stdin {problem}, in {text}")]
    Line { line: u64, problem: String, text: String },
    #[error("line {line} of stdin is longer than a message may be ({longest} bytes); it begins with {text} …")]
    LongLine { line: u64, longest: usize, text: String },
    #[error("line {line} of stdin and all lines after it were not sent")]
    Unsent { line: u64, source: Box<Error> },
    #[error("the outcome of line {line} of stdin is unknown, and the lines after it were not sent")]
    Unanswered { line: u64, source: Box<Error> },
    #[error("line {line} of stdin and all lines after it were not called")]
    Uncalled { line: u64, source: Box<Error> },
    #[error("- reads rows of arguments from stdin, and --repeat measures one call: leave one of them out")]
    RepeatOfRows,
    #[error("sink {symbol} breaks again and again: its connection ends before it has acknowledged a message")]
    KeepsBreaking { symbol: String, source: Option<Box<Error>> },
    /// Rows that were not delivered, or errors of a source.
    #[error("{0}")]
    NotDelivered(String),
    #[error("source {symbol} ended with {} after its last row", counted(*count, "error"))]
    EndedWithErrors { symbol: String, count: u64 },
    #[error("cannot write the result to stdout")]
    Output(#[source] std::io::Error),
    #[error("cannot run cargo to build {}", path.display())]
    Cargo { path: PathBuf, source: std::io::Error },
    #[error("{} does not build: cargo's messages are above", path.display())]
    Build { path: PathBuf },
    #[error("{} builds no program named {wanted}, which its manifest names as executable", path.display())]
    NoArtifact { path: PathBuf, wanted: String },
    #[error("{} builds no program: a plugin is one, with a main function", path.display())]
    NoProgram { path: PathBuf },
    #[error("{} builds {} programs ({}): name the plugin's in its manifest, or by default-run in Cargo.toml", path.display(), found.len(), found.join(", "))]
    ManyPrograms { path: PathBuf, found: Vec<String> },
    #[error("{} was not built yet: leave --no-build out", program.display())]
    NotBuilt { program: PathBuf },
    #[error("cannot ask {} for its description", program.display())]
    Describe { program: PathBuf, source: std::io::Error },
    #[error("{} has not ended {after:?} after it was asked for its description (--describe)", program.display())]
    NoDescription { program: PathBuf, after: Duration },
    #[error("{} describes itself in a way that cannot be used", program.display())]
    Misdescribed { program: PathBuf, source: Box<ekuiper_core::Error> },
    #[error("{} has no manifest, and its plugin does not describe itself (--describe){}", path.display(), undescribed(failure.as_deref()))]
    Undescribed { path: PathBuf, failure: Option<String> },
    #[error("{} is a file, but PATH must be a plugin's folder here", path.display())]
    IsPackaged { path: PathBuf },
    #[error("{} is no Cargo project: there is nothing to build for {target}; leave --target out", path.display())]
    NothingToBuild { path: PathBuf, target: String },
    #[error(
        "there is no target {name:?}: x86_64, aarch64 or armv7 for a static program, native for one with this machine's C library, or a target of Rust's such as aarch64-unknown-linux-gnu"
    )]
    NoTarget { name: String },
    #[error(
        "Rust's library for {target} is not installed: run `rustup target add {target}`, or pass --target native for a program that runs only where the C library is as new as here"
    )]
    TargetMissing { target: String },
    #[error("plugin {plugin}: there is no executable {}: build it first", program.display())]
    NoExecutable { plugin: String, program: PathBuf },
    #[error("plugin {name} is named {to} now: give it its name back, or end this command and watch it anew")]
    Renamed { name: String, to: String },
    #[error("{symbol} is a sink: watch a pipeline that ends in it")]
    WatchedSink { symbol: String },
    #[error("cannot {action} at {url} (is {} running there, and is that its address?)", peer.with_article())]
    NoEngine { peer: Peer, url: String, action: &'static str, source: Box<ureq::Error> },
    #[error("{url} cannot be the address of {peer}: {problem}; write http://HOST:PORT")]
    EngineUrl { peer: Peer, url: String, problem: &'static str },
    #[error("what answers at {url} sends elsewhere, to {to}: give the address of {peer} itself by --engine")]
    Redirected { peer: Peer, url: String, to: String },
    #[error("{name} cannot be an installed plugin's name: eKuiper makes a folder of it")]
    NoPluginName { name: String },
    #[error(
        "{} cannot be {action}: {}{}; `ekuiper-plugin check` says more",
        path.display(),
        finding.trim_start_matches(&path.display().to_string()).trim_start_matches([':', ' ']),
        if *more == 0 { String::new() } else { format!(" (and {})", counted(*more, "more error")) }
    )]
    Unfit { path: PathBuf, action: &'static str, finding: String, more: u64 },
    #[error(
        "{kind} {symbol} is the plugin {owner}'s in the engine at {url}, and an engine has each name only once: give it \
         another name, or remove {owner}"
    )]
    SymbolTaken { url: String, kind: SymbolKind, symbol: String, owner: String },
    #[error(
        "rules use what this version of {name} has no more, {symbols}: {}; change or delete them first, or pass --force",
        rules.join(", ")
    )]
    SymbolGone { name: String, symbols: String, rules: Vec<String> },
    #[error("the engine at {url} runs on {engine}, and the program is built for {program}: {advice}")]
    OtherProcessor { url: String, engine: String, program: &'static str, advice: String },
    #[error("the engine at {url} refuses to update {name}, and {}", if *is_restored {
        "has its former version again"
    } else {
        "has removed its former version first: there is no such plugin now"
    })]
    NotUpdated { url: String, name: String, is_restored: bool, source: Box<Error> },
    #[error("what answers at {url} is no eKuiper: its REST interface is at port 9081 by default")]
    NotAnEngine { url: String },
    #[error("what answers at {url} has no log to read: `ekuiper-plugin serve` has, at port 9082 by default")]
    NoLog { url: String },
    #[error("the log at {url} has ended in the middle")]
    LogEnded { url: String, source: std::io::Error },
    #[error("{peer} at {url} refuses to {action}: {message}")]
    EngineRefuses { peer: Peer, url: String, action: &'static str, message: String },
    #[error("the engine at {url} has no plugin {name}")]
    NotInstalled { url: String, name: String },
    #[error("rules use {name}: {}; stop them first, or pass --force", rules.join(", "))]
    InUse { name: String, rules: Vec<String> },
    #[error("the engine has installed {name} and cannot start it: {reason}")]
    NotRunning { name: String, reason: String },
    #[error(
        "{name} cannot be a plugin's name: {problem}; a name has at most {longest} characters, letters from a to z, digits, - and _, begins with a letter, and is no name that eKuiper or the plugin's language has taken"
    )]
    PluginName { name: String, problem: String, longest: usize },
    #[error("{name} is no name of a plugin: {problem}")]
    AttachedName { name: String, problem: String },
    #[error("attach needs one thing to do with the plugin: call, source, sink or run, or --serve")]
    AttachedForNothing,
    #[error("plugin {name} is attached to another command, or run by an engine")]
    AttachedElsewhere { name: String, source: std::sync::Arc<ekuiper_host::TransportError> },
    #[error("cannot listen at {address}: give {option} another address")]
    Listen { address: std::net::SocketAddr, option: &'static str, source: std::io::Error },
    #[error(
        "{address} can be reached from other machines, and whoever can send requests can install programs: pass --token-file FILE, for a token that requests must carry, or listen at a loopback address, such as 127.0.0.1:9082"
    )]
    ServedToAll { address: std::net::SocketAddr },
    #[error(
        "{address} can be reached from other machines: give --metrics a loopback address, such as 127.0.0.1:9083, and let whoever is to read the figures from elsewhere come through a proxy"
    )]
    MeasuredByAll { address: std::net::SocketAddr },
    #[error("{problem}")]
    Python { problem: String },
    #[error("{} {problem}", path.display())]
    Token { path: PathBuf, problem: String },
    #[cfg(feature = "https")]
    #[error("{problem}")]
    Tls { problem: String },
    #[cfg(feature = "https")]
    #[error("cannot {action} at {url}: {problem}")]
    NoTls { url: String, action: &'static str, problem: String },
    #[error(transparent)]
    Manager(Box<ekuiper_manager::Error>),
    #[error("cannot serve requests")]
    Serve(#[source] std::io::Error),
    #[error("plugin {name} did not come within {wait:?}: it is started by you, and not by this command")]
    NotCome { name: String, wait: Duration },
    #[error("{} names no folder: give the path of the folder to make, whose name is the plugin's", path.display())]
    NoName { path: PathBuf },
    #[error("{} is there already, and nothing is overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("cannot make {}", path.display())]
    Make { path: PathBuf, source: std::io::Error },
    #[error("{} is not the crate ekuiper-sdk: give the folder sdk of ekuiper-plugins", path.display())]
    NoSdk { path: PathBuf },
    #[error("--sdk is for plugins in Rust: a plugin in Python runs on the module that its interpreter has")]
    SdkOfPython,
    #[error("{row} has no field {field}, which function {function} takes")]
    MissingField { row: String, field: String, function: String },
    #[error("{row} is no object, so it has no place for the result of function {function}")]
    NoObject { row: String, function: String },
    #[error("{row} has a field whose name cannot be read")]
    UnreadableRow { row: String, source: serde_json::Error },
    #[error("{row}: filter {function} returned {result}, and not true or false")]
    NoBoolean { row: String, function: String, result: String },
    #[error(
        "{row} has no room in its window: its values, with those before, are longer than a message may be ({longest} bytes); choose a shorter window"
    )]
    FullWindow { row: String, longest: usize },
    #[error("{count} consecutive errors without a row in between: --max-errors sets the limit; the last: {last}")]
    TooManyErrors { count: u64, last: String },
    #[error("source {symbol} sent a row that cannot be read")]
    Row { symbol: String, source: ekuiper_host::CodecError },
    #[error("source {symbol} gave {got} of {wanted} rows within {after:?}")]
    TooFew { symbol: String, got: u64, wanted: u64, after: Duration },
    #[cfg(feature = "bench")]
    #[error(transparent)]
    Bench(#[from] ekuiper_bench::Error),
    #[cfg(feature = "bench")]
    #[error("cannot find this command's executable")]
    OwnProgram(#[source] std::io::Error),
    #[error(
        "cannot install the Ctrl-C handler: raise the limit of open files (ulimit -n), of processes and threads (ulimit -u), or of memory (ulimit -v)"
    )]
    Signals(#[source] std::io::Error),
    #[error("cannot start a thread: raise the limit of processes and threads (ulimit -u), or of memory (ulimit -v)")]
    Thread(#[source] std::io::Error),
}

impl From<ekuiper_manager::Error> for Error {
    fn from(error: ekuiper_manager::Error) -> Self {
        Self::Manager(Box::new(error))
    }
}

impl From<ekuiper_manager::archive::ArchiveError> for Error {
    fn from(error: ekuiper_manager::archive::ArchiveError) -> Self {
        Self::Archive(Box::new(error))
    }
}

impl Error {
    /// Returns whether another try is pointless for now: the host has given up
    /// the plugin.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Host(ekuiper_host::Error::Broken { .. } | ekuiper_host::Error::Stopped))
    }

    /// Returns the exit code: 2 for a wrong invocation, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            #[cfg(feature = "bench")]
            Self::Bench(ekuiper_bench::Error::Unknown { .. }) => 2,
            Self::Argument { .. }
            | Self::LongInteger { .. }
            | Self::NotAnObject { .. }
            | Self::ConfigWithoutSymbol { .. }
            | Self::NoTarget { .. }
            | Self::RepeatOfRows
            | Self::EngineUrl { .. }
            | Self::NoPluginName { .. }
            | Self::PluginName { .. }
            | Self::AttachedName { .. }
            | Self::AttachedForNothing
            | Self::NoName { .. }
            | Self::SdkOfPython
            | Self::MeasuredByAll { .. }
            | Self::Python { .. }
            | Self::ServedToAll { .. } => 2,
            Self::Interrupted => INTERRUPTED,
            _ => 1,
        }
    }

    /// Returns whether the error concerns one record only, so that the next may
    /// succeed.
    pub(crate) fn concerns_one_record(&self) -> bool {
        use ekuiper_host::Error as Host;
        matches!(
            self,
            Self::MissingField { .. }
                | Self::NoObject { .. }
                | Self::UnreadableRow { .. }
                | Self::NoBoolean { .. }
                | Self::FullWindow { .. }
                | Self::Row { .. }
                | Self::Host(
                    Host::Source { .. }
                        | Host::Message { .. }
                        | Host::Overrun { .. }
                        | Host::Function { .. }
                        | Host::Sink { .. }
                        | Host::OutcomeUnknown { .. }
                )
        )
    }
}

/// Ends the sentence that a plugin does not describe itself.
fn undescribed(failure: Option<&str>) -> String {
    let needed = ", as one on an official SDK does not: write NAME.json beside it";
    match failure {
        Some(failure) if python_advice(failure).is_some() || is_own_failure(failure) => format!(": {failure}"),
        Some(failure) => format!(" ({failure}){needed}"),
        None => needed.into(),
    }
}

/// Whether a plugin in Python has failed by itself. The official SDK takes
/// `--describe` for its launch options, which are JSON.
fn is_own_failure(failure: &str) -> bool {
    let exception = failure.split([':', ' ']).next().unwrap_or_default();
    (exception.ends_with("Error") || exception.ends_with("Exception")) && !exception.ends_with("JSONDecodeError")
}

/// Describes invalid JSON in one line, with the column.
pub(crate) fn column(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((problem, _)) => format!("{problem} at column {}", error.column()),
        None => text,
    }
}

/// Returns the part of a long text around a place (from 1), or a whole short
/// text. The excerpt is part of a sentence, so control characters are escaped.
pub(crate) fn excerpt(text: &[u8], place: usize) -> String {
    if text.len() <= EXCERPT {
        return printable::excerpt(&String::from_utf8_lossy(text)).into_owned();
    }
    let start = place.saturating_sub(EXCERPT / 2).min(text.len() - EXCERPT);
    let piece = String::from_utf8_lossy(&text[start..start + EXCERPT]);
    // A cut may split a character at either end.
    let piece = printable::excerpt(piece.trim_matches('\u{fffd}'));
    let before = if start > 0 { "…" } else { "" };
    let after = if start + EXCERPT < text.len() { "…" } else { "" };
    format!("{before}{piece}{after} ({} bytes)", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_around_the_place() {
        assert_eq!(excerpt(b"{\"a\":", 5), "{\"a\":");
        let long = format!("{}!{}", "ä".repeat(500), "b".repeat(1000));
        let cut = excerpt(long.as_bytes(), 1001);
        assert!(cut.starts_with("…ä") && cut.contains("ä!bb") && cut.ends_with("b… (2001 bytes)"), "{cut}");
        assert!(cut.len() < 120, "{cut}");
        assert!(excerpt(long.as_bytes(), 1).starts_with("ää"));
        assert!(excerpt(long.as_bytes(), 99_999).ends_with("b (2001 bytes)"));
    }
}
