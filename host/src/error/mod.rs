//! Errors between an engine and its plugins.

mod facts;
mod kind;
mod refused;
mod subject;
mod words;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_core::Chain;
use ekuiper_core::message::SymbolKind;
use ekuiper_core::printable::excerpt;
use ekuiper_core::transport::TransportError;

use crate::process::exit::Exit;
pub use kind::ErrorKind;
pub(crate) use refused::{folder_error, start_error, system_error, transport_error};
pub use subject::{ErrorDelivery, Subject};
use words::{broken, collected_of, crashed, duplicate, early, gone, in_use, lost, no_manifest, said, tail};

/// Result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of this crate. Each text names the plugin and the symbol, and says
/// what to do where that is known. The cause is not part of the text:
/// [`Chain`] shows both.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plugins folder, or a plugin's folder, cannot be read.
    #[error("cannot read the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Reason.
        source: Arc<std::io::Error>,
    },
    /// A plugin's folder has no manifest.
    #[error("{}", no_manifest(folder, name, *found))]
    NoManifest {
        /// The plugin's folder.
        folder: PathBuf,
        /// The plugin's name, taken from its folder.
        name: String,
        /// Number of JSON files in the folder: none, or several.
        found: usize,
    },
    /// A manifest cannot be read, or is invalid.
    #[error("cannot use {}", path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// Reason.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Two folders contain a plugin of the same name.
    #[error("{}", duplicate(name, first, second))]
    DuplicatePlugin {
        /// The name.
        name: String,
        /// The folder found first.
        first: PathBuf,
        /// The folder found second.
        second: PathBuf,
    },
    /// Two plugins serve a symbol of the same kind and name.
    #[error("{kind} {symbol} is in two plugins, {first} and {second}: remove one, or rename the symbol")]
    DuplicateSymbol {
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
        /// The plugin found first.
        first: String,
        /// The plugin found second.
        second: String,
    },
    /// No plugin serves this symbol.
    #[error("there is no {kind} {}: {known}", excerpt(symbol))]
    NoSuchSymbol {
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
        /// The symbols of this kind that the plugins serve.
        known: String,
    },
    /// No plugin has this name.
    #[error("there is no plugin {}", excerpt(.0))]
    NoSuchPlugin(String),
    /// A plugin's executable cannot be run on this machine.
    #[error("plugin {plugin}: {} {reason}", path.display())]
    Executable {
        /// The plugin.
        plugin: String,
        /// Its executable.
        path: PathBuf,
        /// Reason, and what to do.
        reason: String,
    },
    /// A program needed to run the plugin is not installed.
    #[error("plugin {plugin}: {program} was not found: {hint}")]
    ProgramNotFound {
        /// The plugin.
        plugin: String,
        /// The program.
        program: String,
        /// Remedy.
        hint: &'static str,
    },
    /// A Python plugin's virtual environment does not exist, or cannot be
    /// created.
    #[error("plugin {plugin}: its environment {} {reason}", folder.display())]
    Environment {
        /// The plugin.
        plugin: String,
        /// The environment's folder.
        folder: PathBuf,
        /// Reason, with the installer's last lines.
        reason: String,
    },
    /// The plugin's [options](crate::PluginOptions) are wrong, or cannot be kept
    /// on this machine.
    #[error("the options of plugin {plugin}: {problem}")]
    PluginOption {
        /// The plugin.
        plugin: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The operating system failed to start the plugin.
    #[error("plugin {plugin}: cannot start {command}")]
    Spawn {
        /// The plugin.
        plugin: String,
        /// The command line.
        command: String,
        /// Reason.
        source: Arc<std::io::Error>,
    },
    /// The host has exhausted a resource of the operating system. A shortage is
    /// not the plugin's fault: the host retries a start with a growing pause
    /// until the shortage is over, and does not count it as a crash.
    #[error("{what}: this host has run out of {resource}: {remedy}")]
    Shortage {
        /// What needed the resource: a plugin, or one of its channels.
        what: Subject,
        /// The exhausted resource.
        resource: &'static str,
        /// Remedy.
        remedy: &'static str,
        /// The operating system's error.
        source: Arc<std::io::Error>,
    },
    /// The operating system refuses something that depends neither on a plugin
    /// nor on its files: a thread, a pipe, an event queue.
    #[error("{what} cannot get {resource}")]
    System {
        /// What needs it: the host, or a plugin's process.
        what: Subject,
        /// What the system refuses.
        resource: &'static str,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// The socket folder cannot be created or written.
    #[error("cannot use {} as the socket folder (choose another with ipc_dir, --ipc-dir or TMPDIR)", path.display())]
    SocketFolder {
        /// The folder.
        path: PathBuf,
        /// Reason.
        source: Arc<std::io::Error>,
    },
    /// No transport of this name is built in.
    #[error("unknown transport {name}: this host is built with {built}")]
    UnknownTransport {
        /// The requested name.
        name: String,
        /// The transports that are built in.
        built: String,
    },
    /// A channel cannot be opened or used.
    #[error("{what}: the channel failed")]
    Transport {
        /// The channel, with its plugin and symbol.
        what: Subject,
        /// Reason.
        source: Arc<TransportError>,
    },
    /// A name, a config or a value cannot be sent.
    #[error("{what} failed")]
    Message {
        /// The call or symbol that it belongs to.
        what: Subject,
        /// Reason.
        source: Arc<ekuiper_core::Error>,
    },
    /// Two sources, sinks or functions need the same socket: one was opened
    /// twice, or two pairs of rule and operator yield the same name.
    #[error("{}", in_use(wanted.words(), owner, address))]
    InUse {
        /// The symbol to be opened.
        wanted: Subject,
        /// The symbol that holds the socket.
        owner: String,
        /// The socket.
        address: String,
    },
    /// The plugin reports that it does not serve a symbol of its manifest.
    #[error(
        "plugin {plugin}: its manifest lists {kind} {symbol}, which the plugin {}: correct the manifest, or rebuild the plugin",
        match instead { Some(other) => format!("serves as a {other}"), None => "does not serve".to_owned() }
    )]
    NotServed {
        /// The plugin.
        plugin: String,
        /// The symbol's kind in the manifest.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
        /// The kind of the plugin's symbol of this name, if there is one.
        instead: Option<SymbolKind>,
    },
    /// The plugin ended before its handshake.
    #[error("plugin {plugin} ended before its handshake ({exit}){}", early(exit, hint))]
    EarlyExit {
        /// The plugin.
        plugin: String,
        /// How the process ended, and its last output.
        exit: Exit,
        /// Likely cause; empty where none is known.
        hint: String,
    },
    /// The plugin runs, but did not complete its handshake in time.
    #[error(
        "plugin {plugin} did not complete its handshake within {after:?}{note}: is it a portable plugin, and does it serve the name {plugin}?"
    )]
    NoHandshake {
        /// The plugin.
        plugin: String,
        /// The host's `init_timeout`.
        after: Duration,
        /// The plugin's output so far, if any.
        note: String,
    },
    /// The plugin sent something else instead of a handshake.
    #[error("plugin {plugin} sent {said:?} instead of a handshake: it does not speak the portable-plugin protocol")]
    Garbage {
        /// The plugin.
        plugin: String,
        /// Beginning of what it sent.
        said: String,
    },
    /// A function cannot have a [pool](crate::FunctionPool) of several
    /// processes, because its plugin listens at fixed addresses.
    #[error(
        "plugin {plugin}: function {symbol} cannot have a pool of {size}: two processes of this plugin would listen at the same addresses in /tmp, as an official SDK does; use Host::function or a pool of 1, or build the plugin with our SDK"
    )]
    NotPoolable {
        /// The plugin.
        plugin: String,
        /// The function.
        symbol: String,
        /// The size of the pool.
        size: usize,
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
        /// The plugin's error text.
        text: String,
    },
    /// The plugin did not answer in time.
    #[error("plugin {plugin} did not answer within {after:?}: {what}")]
    Timeout {
        /// The plugin.
        plugin: String,
        /// The unanswered request.
        what: Subject,
        /// The deadline that passed, as a duration.
        after: Duration,
    },
    /// A call's deadline passed while it waited behind earlier calls, or for
    /// its plugin: it was not executed.
    #[error(
        "plugin {plugin}: function {symbol} was not called: the deadline of {after:?} passed before the call was sent"
    )]
    Expired {
        /// The plugin.
        plugin: String,
        /// The function.
        symbol: String,
        /// The deadline that passed, as a duration.
        after: Duration,
    },
    /// Too many calls wait to be sent: this one was not made.
    #[error(
        "plugin {plugin}: function {symbol} was not called: the calls that wait have reached the limit of {limit} bytes (call_queue): make fewer at a time, or raise the limit"
    )]
    QueueFull {
        /// The plugin.
        plugin: String,
        /// The function.
        symbol: String,
        /// The host's `call_queue`, in bytes.
        limit: usize,
    },
    /// The plugin takes no columns: it is on an official SDK, on ours without its
    /// feature `arrow`, or supervises itself.
    #[error(
        "plugin {plugin}: {symbol} was not given columns: the plugin takes rows only: send rows, or build it on ekuiper-sdk with the feature arrow"
    )]
    NoColumns {
        /// The plugin.
        plugin: String,
        /// The symbol.
        symbol: String,
    },
    /// The plugin crashed, or its connection ended, between the request and the
    /// answer: whether the request was carried out is unknown.
    #[error("plugin {plugin}: outcome unknown: {what}: {}", lost(exit))]
    OutcomeUnknown {
        /// The plugin.
        plugin: String,
        /// The unanswered request.
        what: Subject,
        /// How the process ended; `None` while it is alive.
        exit: Option<Exit>,
    },
    /// The plugin's process has ended.
    #[error("plugin {plugin} ended ({exit}){}", tail(exit))]
    Exited {
        /// The plugin.
        plugin: String,
        /// How the process ended, and its last output.
        exit: Exit,
    },
    /// The plugin crashed, and was not restarted in time.
    #[error("plugin {plugin} has crashed and {}", crashed(exit, source.is_some()))]
    Away {
        /// The plugin.
        plugin: String,
        /// How the process ended, and its last output.
        exit: Option<Exit>,
        /// Why the last restart failed: its program is gone, for example.
        /// `None` if there was none, or if that process has ended, too.
        source: Option<Reason>,
    },
    /// The plugin is being [stopped](crate::Host::stop), and was not started
    /// again in time.
    #[error("plugin {plugin} is being stopped, and has not been started again yet")]
    Stopping {
        /// The plugin.
        plugin: String,
    },
    /// The plugin is being updated, and the new version was not ready in time.
    #[error("plugin {plugin} is being updated, and its new version is not ready yet")]
    Updating {
        /// The plugin.
        plugin: String,
    },
    /// The plugin was not updated, and stays at its version.
    #[error("plugin {plugin} was not updated to version {to:?} and stays at version {from:?}")]
    Update {
        /// The plugin.
        plugin: String,
        /// The version before and after the attempt.
        from: String,
        /// The version of the failed update.
        to: String,
        /// Reason.
        source: Arc<Error>,
    },
    /// The new version of a plugin lacks symbols that are in use.
    #[error(
        "the new version of plugin {plugin} lacks symbols in use: {symbols}: close them first, or keep them in the new version"
    )]
    MissingSymbols {
        /// The plugin.
        plugin: String,
        /// Kinds and names of the missing symbols.
        symbols: String,
    },
    /// The trial of a plugin's new version was aborted by a crash of the
    /// running version.
    #[error("plugin {plugin} crashed during the trial of its new version: retry once it runs again")]
    TrialEnded {
        /// The plugin.
        plugin: String,
    },
    /// The plugin crashed too often, and is not restarted for a while.
    #[error("plugin {plugin} {}", broken(*pause, exit, source.is_some()))]
    Broken {
        /// The plugin.
        plugin: String,
        /// The pause before the next restart.
        pause: Duration,
        /// How the last process ended, and its last output.
        exit: Option<Exit>,
        /// Why the last restart failed, as in [`Error::Away`].
        source: Option<Reason>,
    },
    /// The plugin's process was replaced, because one of its symbols hung and
    /// blocked the others.
    #[error("the process of plugin {plugin} was replaced, because it hung in {hung}")]
    Replaced {
        /// The plugin.
        plugin: String,
        /// The command in which it hung.
        hung: String,
    },
    /// The plugin was restarted after a crash, but this source or sink was not.
    #[error("{what} could not be restarted after a crash: {cause}")]
    NotRestored {
        /// The source or sink.
        what: Subject,
        /// Reason.
        cause: String,
    },
    /// The function reported an error.
    #[error("{}", said(SymbolKind::Function, symbol, text))]
    Function {
        /// The plugin.
        plugin: String,
        /// The function.
        symbol: String,
        /// The function's error text.
        text: String,
    },
    /// The source reported an error, after which it may continue.
    #[error("{}", said(SymbolKind::Source, symbol, text))]
    Source {
        /// The plugin.
        plugin: String,
        /// The source.
        symbol: String,
        /// The source's error text.
        text: String,
    },
    /// The queue of a source on an official SDK is full, because nobody read
    /// it. Everything in the queue has been delivered; what the source sent
    /// later is lost, and the source is restarted.
    #[error(
        "the queue of source {symbol} is full ({messages} messages, {bytes} bytes), because nobody read it: \
         later messages are lost, and the source is restarted; read it faster, or raise source_queue"
    )]
    Overrun {
        /// The plugin.
        plugin: String,
        /// The source.
        symbol: String,
        /// Number of messages in the queue.
        messages: usize,
        /// Size of the queue, in bytes.
        bytes: usize,
    },
    /// The sink rejected the message.
    #[error("{}", said(SymbolKind::Sink, symbol, text))]
    Sink {
        /// The plugin.
        plugin: String,
        /// The sink.
        symbol: String,
        /// The sink's error text.
        text: String,
    },
    /// A sink has ended, and not all messages sent to it are known to have been
    /// collected. All others were.
    #[error(
        "plugin {plugin}: {missing} of {sent} messages to sink {symbol} are not known to have been collected: {reason}"
    )]
    NotCollected {
        /// The plugin.
        plugin: String,
        /// The sink.
        symbol: String,
        /// Number of messages not known to have been collected. Messages whose
        /// failure was returned to their sender do not count.
        missing: u64,
        /// Number of messages sent.
        sent: u64,
        /// Reason, and what to do.
        reason: String,
    },
    /// A sink has collected everything that was sent to it (except what
    /// [`Sink::send`](crate::Sink::send) and the like reported as failed), but
    /// stopping it has failed. The sink may still run in its plugin.
    #[error(
        "plugin {plugin}: sink {symbol} has collected {}, but was not stopped",
        collected_of(*collected, *sent)
    )]
    NotStopped {
        /// The plugin.
        plugin: String,
        /// The sink.
        symbol: String,
        /// Number of messages collected.
        collected: u64,
        /// Number of messages sent.
        sent: u64,
        /// Why the sink was not stopped.
        source: Reason,
    },
    /// The sink did not acknowledge an earlier message, so later
    /// acknowledgements cannot be matched to messages.
    #[error("sink {symbol} did not acknowledge an earlier message: close it and open it again")]
    SinkBroken {
        /// The plugin.
        plugin: String,
        /// The sink.
        symbol: String,
    },
    /// The config of a source or sink is not a JSON object.
    #[error("the config of {kind} {symbol} must be a JSON object")]
    Config {
        /// The plugin.
        plugin: String,
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
    },
    /// The host was shut down, the plugin was removed, or the handle was stopped.
    #[error("the host was shut down, the plugin was removed, or the handle was stopped")]
    Stopped,
}

/// The error that is the cause of another one, without the names that the other
/// one gives already.
#[derive(Clone, Debug)]
pub struct Reason(pub Arc<Error>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason_alone())
    }
}

impl std::error::Error for Reason {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.reasons_cause()
    }
}

impl Error {
    /// Returns the error of a symbol that was not restarted.
    pub(crate) fn not_restored(what: Subject, cause: &Self) -> Self {
        Self::NotRestored { what, cause: cause.reason() }
    }

    /// Returns the reason alone, with its causes, to follow a text that names
    /// the plugin and the symbol.
    pub(crate) fn reason(&self) -> String {
        match self.reasons_cause() {
            Some(cause) => format!("{}: {}", self.reason_alone(), Chain(cause)),
            None => self.reason_alone(),
        }
    }

    fn reason_alone(&self) -> String {
        match self {
            Self::Refused { command, text, .. } => format!("the plugin did not {command} it: {text}"),
            Self::Timeout { after, what, .. } => {
                let problem =
                    what.words().split_once(": ").map_or_else(String::new, |(_, problem)| format!(": {problem}"));
                format!("the plugin did not answer within {after:?}{problem}")
            }
            Self::OutcomeUnknown { exit, .. } => format!("outcome unknown: {}", lost(exit)),
            Self::Exited { exit, .. } => format!("the plugin ended ({exit}){}", tail(exit)),
            Self::Executable { path, reason, .. } => format!("its executable {} {}", path.display(), gone(reason)),
            Self::ProgramNotFound { program, hint, .. } => format!("{program} was not found: {hint}"),
            Self::Environment { folder, reason, .. } => format!("its environment {} {reason}", folder.display()),
            Self::Spawn { command, .. } => format!("cannot start {command}"),
            Self::Transport { source, .. } => source.to_string(),
            Self::Message { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// Returns the text of an error that concerns one row of many: the
    /// function's own, or that its message or its answer is too long.
    ///
    /// # Errors
    /// The error concerns the others, too.
    pub(crate) fn into_row_error(self) -> Result<String, Self> {
        match self {
            Self::Function { text, .. } => Ok(text),
            Self::Transport { ref source, .. } if matches!(**source, TransportError::TooLong { .. }) => {
                Ok(source.to_string())
            }
            error => Err(error),
        }
    }

    /// Returns the cause of [`reason_alone`](Error::reason_alone).
    fn reasons_cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        use std::error::Error;
        match self {
            Self::Transport { source, .. } => source.source(),
            Self::Message { source, .. } => source.source(),
            other => other.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_names_a_symbol_twice_before_its_reason() {
        let (symbol, plugin) = (|| "slow".to_owned(), || "p".to_owned());
        let own = |text: &str| Error::Sink { plugin: plugin(), symbol: symbol(), text: text.into() }.to_string();
        assert_eq!([own("sink slow: it is full"), own("it is full")], ["sink slow: it is full"; 2]);
        let refused = || Error::Refused {
            plugin: plugin(),
            command: "stop".into(),
            kind: SymbolKind::Sink,
            symbol: symbol(),
            text: "not now".into(),
        };
        let stopped = Error::NotStopped {
            plugin: plugin(),
            symbol: symbol(),
            collected: 1,
            sent: 1,
            source: Reason(refused().into()),
        };
        let lost = Error::not_restored("sink slow of r/o/0 (plugin p)".into(), &refused());
        let transport = Error::Transport {
            what: "sink slow of r/o/0 (plugin p)".into(),
            source: TransportError::Disconnected.into(),
        };
        let cut_off = Error::not_restored("sink slow of r/o/0 (plugin p)".into(), &transport);
        for error in [stopped, lost, cut_off] {
            let text = Chain(&error).to_string();
            assert_eq!((text.matches("slow").count(), text.matches("plugin p").count()), (1, 1), "{text}");
        }
    }

    #[test]
    fn a_broken_plugin_s_last_end_is_a_clause_of_its_own() {
        let broken = |tail: &str| {
            let exit = Some(Exit { code: None, signal: Some(6), memory_limit: None, tail: tail.into() });
            Error::Broken { plugin: "p".into(), pause: Duration::from_secs(30), exit, source: None }.to_string()
        };
        assert!(broken("").ends_with("; it last ended with signal 6 and wrote nothing"), "{}", broken(""));
        assert!(broken("boo").ends_with("it last ended with signal 6 and wrote:\nboo"), "{}", broken("boo"));
    }
}
