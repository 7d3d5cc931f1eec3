//! What can go wrong between an engine and its plugins.

mod kind;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ekuiper_core::message::SymbolKind;
use ekuiper_core::transport::TransportError;
use rustix::io::Errno;

use crate::process::{Exit, LAST_WORDS};
pub use kind::ErrorKind;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. Each text names the plugin and the symbol,
/// and says what to do where that is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder of plugins, or a plugin's folder, cannot be read.
    #[error("cannot read the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A plugin's folder has no manifest.
    #[error("{}", no_manifest(folder, name, *found))]
    NoManifest {
        /// The plugin's folder.
        folder: PathBuf,
        /// The plugin's name, from its folder.
        name: String,
        /// How many JSON files there are in it: none, or several.
        found: usize,
    },
    /// A manifest cannot be read, or says something impossible.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two folders have a plugin of one name.
    #[error("{}", duplicate(name, first, second))]
    DuplicatePlugin {
        /// The name.
        name: String,
        /// The folder that was found first.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
    },
    /// Two plugins serve a symbol of one kind and name.
    #[error("{kind} {symbol} is in two plugins, {first} and {second}: remove one, or rename the symbol")]
    DuplicateSymbol {
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
        /// The plugin that was found first.
        first: String,
        /// The other one.
        second: String,
    },
    /// No plugin serves this symbol.
    #[error("there is no {kind} {symbol}: {known}")]
    NoSuchSymbol {
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
        /// What there is instead.
        known: String,
    },
    /// There is no plugin of this name.
    #[error("there is no plugin {0}")]
    NoSuchPlugin(String),
    /// A plugin's executable cannot be run on this machine.
    #[error("plugin {plugin}: {} {reason}", path.display())]
    Executable {
        /// The plugin.
        plugin: String,
        /// Its executable.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A program that runs the plugin is not installed.
    #[error("plugin {plugin}: {program} was not found: {hint}")]
    ProgramNotFound {
        /// The plugin.
        plugin: String,
        /// The program.
        program: String,
        /// What to do.
        hint: &'static str,
    },
    /// The virtual environment of a Python plugin is not there, or cannot be
    /// made.
    #[error("plugin {plugin}: its environment {} {reason}", folder.display())]
    Environment {
        /// The plugin.
        plugin: String,
        /// The environment.
        folder: PathBuf,
        /// What is wrong with it, with the installer's last lines.
        reason: String,
    },
    /// The operating system did not start the plugin.
    #[error("plugin {plugin}: cannot start {command}: {source}")]
    Spawn {
        /// The plugin.
        plugin: String,
        /// The command line.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The operating system gives this host no more of something. That is no
    /// plugin's fault: one that was to be started is started again with a
    /// growing pause until the shortage is over, and it does not count as a
    /// crash.
    #[error("{what}: this host can have no more {resource} ({source}): {remedy}")]
    Shortage {
        /// What needed it: a plugin, or one of its channels.
        what: String,
        /// What there is no more of.
        resource: &'static str,
        /// What to do.
        remedy: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The folder for the sockets cannot be made or written.
    #[error("cannot use {} as the socket folder: {source}; choose another with ipc_dir (--ipc-dir) or TMPDIR", path.display())]
    SocketFolder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A transport of this name is not built in.
    #[error("transport {name} is not built in: this host has {built}")]
    UnknownTransport {
        /// The name that was asked for.
        name: String,
        /// The transports that there are.
        built: String,
    },
    /// A channel cannot be opened or used.
    #[error("{what}: {source}")]
    Transport {
        /// Which channel, of which plugin and symbol.
        what: String,
        /// Why not.
        source: TransportError,
    },
    /// A name, a config or a value cannot be sent.
    #[error("{what}: {source}")]
    Message {
        /// For what.
        what: String,
        /// Why not.
        source: ekuiper_core::Error,
    },
    /// Two sources, sinks or functions come to one socket: the same one was
    /// opened twice, or two rules and operators make the same name.
    #[error("{}", in_use(wanted, owner, address))]
    InUse {
        /// What was to be opened.
        wanted: String,
        /// What has the socket.
        owner: String,
        /// The socket.
        address: String,
    },
    /// What this caller and another waited for has failed: a batch of calls, or
    /// a start. The other has the error itself.
    #[error("{text}")]
    Shared {
        /// The kind of the other error.
        kind: ErrorKind,
        /// The other error's words.
        text: String,
    },
    /// The plugin says itself that it does not serve what its manifest says.
    #[error(
        "plugin {plugin}: its manifest lists {kind} {symbol}, and the plugin has none: correct the manifest, or build the plugin anew"
    )]
    NotServed {
        /// The plugin.
        plugin: String,
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
    },
    /// The plugin ended before it shook hands.
    #[error("plugin {plugin} ended before its handshake ({exit}){}", early(exit, hint))]
    EarlyExit {
        /// The plugin.
        plugin: String,
        /// How it ended, and what it last wrote.
        exit: Exit,
        /// What may be wrong with it; empty where nothing is known.
        hint: String,
    },
    /// The plugin runs, and did not shake hands in time.
    #[error(
        "plugin {plugin} did not shake hands within {after:?}{note}: is it a portable plugin, and does it serve the name {plugin}?"
    )]
    NoHandshake {
        /// The plugin.
        plugin: String,
        /// `init_timeout`.
        after: Duration,
        /// What it wrote meanwhile, if anything.
        note: String,
    },
    /// The plugin began with something that no plugin says.
    #[error("plugin {plugin} said {said:?} instead of shaking hands: it does not speak the portable-plugin protocol")]
    Garbage {
        /// The plugin.
        plugin: String,
        /// The beginning of what it said.
        said: String,
    },
    /// The plugin refused a command.
    #[error("plugin {plugin} did not {command} {kind} {symbol}: {text}")]
    Refused {
        /// The plugin.
        plugin: String,
        /// `start` or `stop`.
        command: String,
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
        /// The plugin's own words.
        text: String,
    },
    /// The plugin did not answer in time.
    #[error("plugin {plugin} did not answer within {after:?}: {what}")]
    Timeout {
        /// The plugin.
        plugin: String,
        /// What was asked of it.
        what: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The plugin died, or its connection ended, after it had been asked and
    /// before it answered: whether it did what it was asked is unknown.
    #[error("plugin {plugin}: outcome unknown: {what}: {}", lost(exit))]
    OutcomeUnknown {
        /// The plugin.
        plugin: String,
        /// What was asked of it.
        what: String,
        /// How it ended; `None` when its process lives.
        exit: Option<Exit>,
    },
    /// The plugin's process has ended.
    #[error("plugin {plugin} ended ({exit}){}", tail(exit))]
    Exited {
        /// The plugin.
        plugin: String,
        /// How it ended, and what it last wrote.
        exit: Exit,
    },
    /// The plugin has crashed, and was not back in time.
    #[error("plugin {plugin} has crashed and is not back yet{}", crashed(exit))]
    Away {
        /// The plugin.
        plugin: String,
        /// How it ended, and what it last wrote.
        exit: Option<Exit>,
    },
    /// The plugin is being updated, and the new version did not serve in time.
    #[error("plugin {plugin} is being updated, and its new version does not serve yet")]
    Updating {
        /// The plugin.
        plugin: String,
    },
    /// The plugin was not updated: the version that it had goes on.
    #[error("plugin {plugin} was not updated to version {to:?}, version {from:?} goes on: {source}")]
    Update {
        /// The plugin.
        plugin: String,
        /// The version that it has.
        from: String,
        /// The version that it should have had.
        to: String,
        /// Why not.
        source: Box<Error>,
    },
    /// The new version of a plugin lacks symbols that are live.
    #[error("the new version of plugin {plugin} lacks what is live: {symbols}: close them first, or put them back")]
    MissingSymbols {
        /// The plugin.
        plugin: String,
        /// Which: kinds and names.
        symbols: String,
    },
    /// The trial of a plugin's new version was broken off.
    #[error("plugin {plugin} crashed while its new version was tried: try again when it serves")]
    TrialEnded {
        /// The plugin.
        plugin: String,
    },
    /// The plugin crashes again and again, and is left alone for a while.
    #[error(
        "plugin {plugin} crashes again and again: it is started once more after {pause:?}, or by reset(){}",
        last(exit)
    )]
    Broken {
        /// The plugin.
        plugin: String,
        /// How long it is left alone.
        pause: Duration,
        /// How it last ended, and what it last wrote.
        exit: Option<Exit>,
    },
    /// The plugin's process was replaced, because one of its symbols hung and
    /// held up the others.
    #[error("plugin {plugin} was replaced: it hung in {hung}")]
    Replaced {
        /// The plugin.
        plugin: String,
        /// In which command.
        hung: String,
    },
    /// The plugin is back after a crash, and this source or sink is not.
    #[error("{what} could not be started again after a crash: {cause}")]
    NotRestored {
        /// Which source or sink.
        what: String,
        /// Why not.
        cause: String,
    },
    /// The function reported an error.
    #[error("{}", said(SymbolKind::Function, symbol, text))]
    Function {
        /// The function.
        symbol: String,
        /// Its own words.
        text: String,
    },
    /// The source reported an error. It may go on after it.
    #[error("{}", said(SymbolKind::Source, symbol, text))]
    Source {
        /// The source.
        symbol: String,
        /// Its own words.
        text: String,
    },
    /// A source on an official SDK was not read for so long that what it sent
    /// fills its queue. All that is there has been delivered; what it sent
    /// after that is lost, and it is started again.
    #[error(
        "source {symbol} sent more than is kept for it ({messages} messages, {bytes} bytes) while nobody read: \
         what it sent after that is lost, and it is started again; read it faster, or raise source_queue"
    )]
    Overrun {
        /// The source.
        symbol: String,
        /// How many messages were kept.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The sink did not take the message.
    #[error("{}", said(SymbolKind::Sink, symbol, text))]
    Sink {
        /// The sink.
        symbol: String,
        /// Its own words.
        text: String,
    },
    /// A sink has ended, and not everything that was sent to it is known to
    /// have been collected. The others were.
    #[error(
        "plugin {plugin}: {missing} of {sent} messages to sink {symbol} are not known to have been collected: {reason}"
    )]
    NotCollected {
        /// The plugin.
        plugin: String,
        /// The sink.
        symbol: String,
        /// How many messages are not known to have been collected. Those whose
        /// failure was returned to whoever sent them are not among them.
        missing: u64,
        /// How many messages were sent.
        sent: u64,
        /// Why, and what to do.
        reason: String,
    },
    /// A sink was closed, and has collected everything that was sent to it
    /// (but what [`Sink::send`](crate::Sink::send) and the like reported as
    /// failed); only its stop has failed. It may still run in its plugin.
    #[error(
        "plugin {plugin}: sink {symbol} has collected everything ({collected} messages), but was not stopped: {}",
        source.reason()
    )]
    NotStopped {
        /// The plugin.
        plugin: String,
        /// The sink.
        symbol: String,
        /// How many messages were collected.
        collected: u64,
        /// Why it was not stopped.
        source: Box<Error>,
    },
    /// The sink did not acknowledge an earlier message: acknowledgements can
    /// no longer be told apart.
    #[error("sink {symbol} did not acknowledge an earlier message: close it and open it again")]
    SinkBroken {
        /// The sink.
        symbol: String,
    },
    /// A source's or sink's config is not a JSON object.
    #[error("the config of {kind} {symbol} must be a JSON object")]
    Config {
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
    },
    /// The host, or the handle, has been closed.
    #[error("the host is shut down, or the handle was stopped")]
    Stopped,
}

/// A transport's error, with what it happened to.
pub(crate) fn transport_error(what: String) -> impl FnOnce(TransportError) -> Error {
    move |source| match source {
        TransportError::Io { source, .. } if short_of(&source).is_some() => shortage(what, source),
        source => Error::Transport { what, source },
    }
}

/// What a host has too little of when the system refuses it something so, and
/// what to do about it.
fn short_of(error: &std::io::Error) -> Option<(&'static str, &'static str)> {
    const FILES: &str = "raise its limit of open files (ulimit -n, LimitNOFILE), or open less at a time";
    const SYSTEM_FILES: &str = "raise the machine's limit of open files (fs.file-max)";
    const MEMORY: &str = "raise its limit of memory (ulimit -v, memory.max), or start fewer plugins";
    const PROCESSES: &str = "raise its limit of processes and threads (ulimit -u, pids.max), or of memory, which their \
stacks need (ulimit -v), or start fewer plugins";
    match (Errno::from_io_error(error), error.kind()) {
        (Some(Errno::MFILE), _) => Some(("file descriptors", FILES)),
        (Some(Errno::NFILE), _) => Some(("file descriptors, nor can others", SYSTEM_FILES)),
        (Some(Errno::NOMEM | Errno::NOBUFS), _) | (_, io::ErrorKind::OutOfMemory) => Some(("memory", MEMORY)),
        (Some(Errno::AGAIN), _) | (_, io::ErrorKind::WouldBlock) => Some(("processes or threads", PROCESSES)),
        _ => None,
    }
}

/// The error for what the system has refused.
fn shortage(what: String, source: std::io::Error) -> Error {
    let (resource, remedy) = short_of(&source).unwrap_or(("resources", "see the system's error"));
    Error::Shortage { what, resource, remedy, source }
}

/// The error for a plugin that was not started: this host's shortage, or what
/// `other` makes of it.
pub(crate) fn start_error(plugin: &str, source: std::io::Error, other: impl FnOnce(std::io::Error) -> Error) -> Error {
    match short_of(&source) {
        Some(_) => shortage(format!("plugin {plugin}"), source),
        None => other(source),
    }
}

/// The error for a host that cannot be made: its shortage, or its folder's
/// fault.
pub(crate) fn folder_error(path: PathBuf) -> impl FnOnce(std::io::Error) -> Error {
    move |source| match short_of(&source) {
        Some(_) => shortage("the host cannot start".into(), source),
        None => Error::SocketFolder { path, source },
    }
}

impl Error {
    /// `what` was not started again.
    pub(crate) fn not_restored(what: String, cause: &Self) -> Self {
        Self::NotRestored { what, cause: cause.reason() }
    }

    /// Whether it is this host's own shortage, and nobody else's fault.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Self::Shortage { .. })
    }

    /// The error of a start that a plugin has refused or not answered: this
    /// host's shortage, if there is one just now. Without descriptors it accepts
    /// no connection, and a plugin that is not connected starts nothing.
    pub(crate) fn or_shortage(self) -> Self {
        if !matches!(self, Self::Refused { .. } | Self::Timeout { .. }) {
            return self;
        }
        match std::fs::File::open("/dev/null") {
            Err(source) if short_of(&source).is_some() => shortage(self.to_string(), source),
            _ => self,
        }
    }

    /// What has gone wrong, after words that name the plugin and the symbol.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Refused { command, text, .. } => format!("the plugin did not {command} it: {text}"),
            Self::Timeout { after, what, .. } => {
                let problem = what.split_once(": ").map_or_else(String::new, |(_, problem)| format!(": {problem}"));
                format!("the plugin did not answer within {after:?}{problem}")
            }
            Self::OutcomeUnknown { exit, .. } => format!("outcome unknown: {}", lost(exit)),
            Self::Exited { exit, .. } => format!("the plugin ended ({exit}){}", tail(exit)),
            Self::Transport { source, .. } => source.to_string(),
            Self::Message { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// The same, for another caller that it concerns: of the same batch, or of
    /// the same start.
    pub(crate) fn for_another_caller(&self) -> Self {
        match self {
            Self::OutcomeUnknown { plugin, what, exit } => {
                Self::OutcomeUnknown { plugin: plugin.clone(), what: what.clone(), exit: exit.clone() }
            }
            Self::Timeout { plugin, what, after } => {
                Self::Timeout { plugin: plugin.clone(), what: what.clone(), after: *after }
            }
            Self::Exited { plugin, exit } => Self::Exited { plugin: plugin.clone(), exit: exit.clone() },
            Self::Shortage { what, resource, remedy, source } => Self::Shortage {
                what: what.clone(),
                resource,
                remedy,
                source: match source.raw_os_error() {
                    Some(number) => std::io::Error::from_raw_os_error(number),
                    None => std::io::Error::new(source.kind(), source.to_string()),
                },
            },
            Self::EarlyExit { plugin, exit, hint } => {
                Self::EarlyExit { plugin: plugin.clone(), exit: exit.clone(), hint: hint.clone() }
            }
            Self::NoHandshake { plugin, after, note } => {
                Self::NoHandshake { plugin: plugin.clone(), after: *after, note: note.clone() }
            }
            Self::Garbage { plugin, said } => Self::Garbage { plugin: plugin.clone(), said: said.clone() },
            Self::NotServed { plugin, kind, symbol } => {
                Self::NotServed { plugin: plugin.clone(), kind: *kind, symbol: symbol.clone() }
            }
            Self::Executable { plugin, path, reason } => {
                Self::Executable { plugin: plugin.clone(), path: path.clone(), reason: reason.clone() }
            }
            Self::Refused { plugin, command, kind, symbol, text } => Self::Refused {
                plugin: plugin.clone(),
                command: command.clone(),
                kind: *kind,
                symbol: symbol.clone(),
                text: text.clone(),
            },
            Self::Function { symbol, text } => Self::Function { symbol: symbol.clone(), text: text.clone() },
            Self::Stopped => Self::Stopped,
            other => Self::Shared { kind: other.kind(), text: other.to_string() },
        }
    }
}

/// A symbol's own words, which may begin with its name.
fn said(kind: SymbolKind, symbol: &str, text: &str) -> String {
    let name = format!("{kind} {symbol}: ");
    if text.starts_with(&name) { text.to_owned() } else { name + text }
}

fn in_use(wanted: &str, owner: &str, address: &str) -> String {
    if wanted == owner {
        return format!("{wanted} is open already: close it first, or open another instance");
    }
    format!("{wanted} and {owner} would both use {address}: rename one of them, or give the rules different ids")
}

fn no_manifest(folder: &Path, name: &str, found: usize) -> String {
    let folder = folder.display();
    match found {
        0 => format!("{folder} has no manifest: a plugin named {name} needs a file {name}.json there"),
        found => format!(
            "{folder} has no manifest: of its {found} JSON files none is {name}.json: a plugin named {name} needs a \
             manifest of that name"
        ),
    }
}

fn duplicate(name: &str, first: &Path, second: &Path) -> String {
    let (first, second) = (first.display(), second.display());
    if first.to_string() == second.to_string() {
        return format!("plugin {name} in {first} is given twice: leave one out");
    }
    format!(
        "plugin {name} is in two folders, {first} and {second}: leave one out, or give it another name \
         (its manifest's file, and what its program says)"
    )
}

/// What a plugin that has ended before its handshake lacks, and what it wrote.
fn early(exit: &Exit, hint: &str) -> String {
    match (hint.is_empty(), exit.tail.is_empty()) {
        (true, true) => ", it wrote nothing".into(),
        (true, _) => tail(exit),
        (_, true) => format!(", it wrote nothing: {hint}"),
        _ => format!(": {hint}; it last wrote:\n{}", exit.tail),
    }
}

fn tail(exit: &Exit) -> String {
    match exit.tail.as_str() {
        "" => format!(", it wrote nothing in its last {LAST_WORDS:?}"),
        tail => format!(", it last wrote:\n{tail}"),
    }
}

fn crashed(exit: &Option<Exit>) -> String {
    exit.as_ref().map_or_else(String::new, |exit| format!(" ({exit}){}", tail(exit)))
}

fn last(exit: &Option<Exit>) -> String {
    exit.as_ref().map_or_else(String::new, |exit| match exit.tail.as_str() {
        "" => format!("; it last ended with {exit} and wrote nothing"),
        tail => format!("; it last ended with {exit} and wrote:\n{tail}"),
    })
}

fn lost(exit: &Option<Exit>) -> String {
    match exit {
        Some(exit) => format!("it ended ({exit}){}", tail(exit)),
        None => "its connection ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that the system refuses has many causes; the folder is none.
    #[test]
    fn a_hosts_shortage_is_not_its_folders_fault() {
        for (number, limits) in
            [(libc::EAGAIN, ["ulimit -u", "ulimit -v"]), (libc::EMFILE, ["ulimit -n", "LimitNOFILE"])]
        {
            let error = folder_error("/tmp".into())(std::io::Error::from_raw_os_error(number)).to_string();
            assert!(limits.iter().all(|limit| error.contains(limit)) && !error.contains("ipc_dir"), "{error}");
        }
        let error = folder_error("/tmp".into())(std::io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(error.contains("ipc_dir"), "{error}");
    }

    #[test]
    fn no_error_names_a_symbol_twice_before_its_reason() {
        let (symbol, plugin) = (|| "slow".to_owned(), || "p".to_owned());
        let own = |text: &str| Error::Sink { symbol: symbol(), text: text.into() }.to_string();
        assert_eq!([own("sink slow: it is full"), own("it is full")], ["sink slow: it is full"; 2]);
        let refused = || Error::Refused {
            plugin: plugin(),
            command: "stop".into(),
            kind: SymbolKind::Sink,
            symbol: symbol(),
            text: "not now".into(),
        };
        let stopped =
            Error::NotStopped { plugin: plugin(), symbol: symbol(), collected: 1, source: Box::new(refused()) };
        let lost = Error::not_restored("sink slow of r/o/0 (plugin p)".into(), &refused());
        let transport =
            Error::Transport { what: "sink slow of r/o/0 (plugin p)".into(), source: TransportError::Disconnected };
        let cut_off = Error::not_restored("sink slow of r/o/0 (plugin p)".into(), &transport);
        for error in [stopped, lost, cut_off] {
            let text = error.to_string();
            assert_eq!((text.matches("slow").count(), text.matches("plugin p").count()), (1, 1), "{text}");
        }
    }

    #[test]
    fn a_broken_plugin_s_last_end_is_a_clause_of_its_own() {
        let broken = |tail: &str| {
            let exit = Some(Exit { code: None, signal: Some(6), tail: tail.into() });
            Error::Broken { plugin: "p".into(), pause: Duration::from_secs(30), exit }.to_string()
        };
        assert!(broken("").ends_with("or by reset(); it last ended with signal 6 and wrote nothing"), "{}", broken(""));
        assert!(broken("boo").ends_with("it last ended with signal 6 and wrote:\nboo"), "{}", broken("boo"));
    }
}
