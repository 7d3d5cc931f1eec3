//! Errors of the command itself.

use std::path::PathBuf;
use std::time::Duration;

use ekuiper_core::printable;
use ekuiper_core::text::TextError;

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
    #[error("line {line} of stdin is longer than a message may be ({longest} bytes); it begins with {text}")]
    LongLine { line: u64, longest: usize, text: String },
    #[error("line {line} of stdin and all lines after it were not sent")]
    Unsent { line: u64, source: Box<Error> },
    #[error("the outcome of line {line} of stdin is unknown, and the lines after it were not sent")]
    Unanswered { line: u64, source: Box<Error> },
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
    #[error("{} is not in the plugin's folder", path.display())]
    Outside { path: PathBuf },
    #[error("{} is neither a file nor a folder, and cannot be packaged", path.display())]
    OddFile { path: PathBuf },
    #[error("the name {path:?} is not UTF-8, and cannot be packaged")]
    OddName { path: PathBuf },
    #[error("{} is a link to a folder: put the folder itself there, or leave it out", path.display())]
    LinkedFolder { path: PathBuf },
    #[error("{symbol} is a sink: watch a pipeline that ends in it")]
    WatchedSink { symbol: String },
    #[error("cannot {action} at {url} (is an engine running there, and is that its REST address?)")]
    NoEngine { url: String, action: &'static str, source: Box<ureq::Error> },
    #[error("{url} is no URL that this command understands: http://HOST:PORT, without TLS")]
    EngineUrl { url: String },
    #[error("what answers at {url} is no eKuiper: its REST interface is at port 9081 by default")]
    NotAnEngine { url: String },
    #[error("the engine at {url} refuses to {action}: {message}")]
    EngineRefuses { url: String, action: &'static str, message: String },
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
    #[error("row {row} has no field {field}, which function {function} takes")]
    MissingField { row: u64, field: String, function: String },
    #[error("{count} consecutive errors without a row in between: --max-errors sets the limit; the last: {last}")]
    TooManyErrors { count: u64, last: String },
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
            | Self::EngineUrl { .. }
            | Self::PluginName { .. }
            | Self::NoName { .. }
            | Self::SdkOfPython => 2,
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
        Some(failure) if !advice(failure).is_empty() => format!(": {failure}"),
        Some(failure) => format!(" ({failure}){needed}"),
        None => needed.into(),
    }
}

/// What to do about a failure of a plugin in Python that its output explains;
/// empty otherwise.
pub(crate) fn advice(text: &str) -> &'static str {
    if text.contains("No module named 'ekuiper") {
        "; install the module ekuiper into this Python (`cargo xtask python` in a checkout of ekuiper-plugins builds its \
         wheel), or name another Python by --python-bin"
    } else if text.contains("cannot import name ") && text.contains(" from 'ekuiper") {
        "; this Python has the official package of that name, which lacks it: install the module ekuiper instead \
         (`cargo xtask python` in a checkout of ekuiper-plugins builds its wheel), or name another Python by --python-bin"
    } else {
        ""
    }
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
