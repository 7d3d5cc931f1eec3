//! The state of a plugin, and the events in its life.

use std::fmt;
use std::ops::AddAssign;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ekuiper_core::message::SymbolKind;
use serde::Serialize;

use crate::counted::counted;
use crate::event_stream::{EventQueue, EventStream};
use crate::health::{LastError, SymbolHealth, SymbolTotals, seconds, seconds_of_some};
use crate::process::exit::Exit;
use crate::sync::lock;

/// The `tracing` target of events.
const TARGET: &str = "ekuiper_host::event";

/// State of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PluginState {
    /// The plugin has not been needed yet.
    Idle,
    /// The process has been started and has not completed its handshake, or its
    /// symbols are being restored.
    Starting,
    /// The plugin is ready.
    Running,
    /// The process is being replaced by one of another version.
    Updating,
    /// The plugin crashed, and is restarted after a pause.
    BackingOff,
    /// The plugin crashed too often, and is restarted only after a longer
    /// pause.
    Broken,
    /// The process is being [stopped](crate::Host::stop) until the plugin is
    /// needed again.
    Stopping,
    /// The host is shut down, or the plugin is removed.
    Stopped,
}

impl PluginState {
    /// All states.
    pub(crate) const ALL: [Self; 8] = [
        Self::Idle,
        Self::Starting,
        Self::Running,
        Self::Updating,
        Self::BackingOff,
        Self::Broken,
        Self::Stopping,
        Self::Stopped,
    ];

    /// Returns the state's name, as it is serialized.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Updating => "updating",
            Self::BackingOff => "backing_off",
            Self::Broken => "broken",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// Status of a plugin, and the health of its symbols.
///
/// Times are serialized in seconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The plugin's name.
    pub plugin: String,
    /// Its version, from its manifest.
    pub version: String,
    /// Current state.
    pub state: PluginState,
    /// Time since the state was entered.
    #[serde(serialize_with = "seconds")]
    pub since: Duration,
    /// Process id, while the process is alive.
    pub pid: Option<u32>,
    /// Number of the latest process, from 1; 0 before the first.
    pub generation: u64,
    /// Number of restarts after a crash.
    pub restarts: u64,
    /// Number of processes that were ready and ended unexpectedly. One that was
    /// killed counts once it is known how it ended, a moment after its end; not
    /// the process of an update that has failed to take over.
    pub crashes: u64,
    /// Time since the process has completed its handshake, while it is alive.
    #[serde(serialize_with = "seconds_of_some")]
    pub uptime: Option<Duration>,
    /// Resident memory of the process and its descendants, in bytes, while the
    /// process is alive. Pages that processes share count for each. A
    /// descendant whose parent has ended does not count.
    pub resident: Option<u64>,
    /// How the last process ended, if one has.
    pub last_exit: Option<Exit>,
    /// The last crash or failed start, if there was one.
    pub last_error: Option<LastError>,
    /// Symbols in use, functions first. Sources and sinks are restored after a
    /// crash until they are closed, and a function as long as the plugin lives.
    pub symbols: Vec<SymbolHealth>,
    /// What each symbol that was ever used has done so far; functions first,
    /// then by name.
    pub totals: Vec<SymbolTotals>,
    /// Counters of calls and messages, of symbols that were closed, too.
    pub traffic: Traffic,
    /// Further processes of its [function pools](crate::FunctionPool). What
    /// they are called for is among `symbols` and in `traffic`.
    pub members: Vec<MemberStatus>,
    /// What these have done, with those that have ended since.
    pub member_totals: MemberTotals,
}

/// What the further processes of a plugin's
/// [function pools](crate::FunctionPool) have done since the plugin was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemberTotals {
    /// Number of processes that were started.
    pub processes: u64,
    /// Number of restarts after a crash.
    pub restarts: u64,
    /// Number of processes that were ready and ended unexpectedly.
    pub crashes: u64,
}

impl AddAssign for MemberTotals {
    fn add_assign(&mut self, other: Self) {
        let Self { processes, restarts, crashes } = other;
        self.processes += processes;
        self.restarts += restarts;
        self.crashes += crashes;
    }
}

/// Counters of calls to a plugin, and of messages to and from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Traffic {
    /// Function calls, whether or not they could be sent.
    pub calls: u64,
    /// Answers to function calls, including errors.
    pub answers: u64,
    /// Messages to sinks.
    pub messages_out: u64,
    /// Acknowledgements of messages, including failures.
    pub acks: u64,
    /// Messages from sources, including errors.
    pub messages_in: u64,
    /// Messages to sinks that will never be known to have been collected,
    /// because of a crash, or because the sink was closed, stopped or shut down
    /// before. An upper bound of the messages lost. Messages whose failure was
    /// returned to their sender do not count.
    pub lost: u64,
    /// Messages rejected by sinks without acknowledgements, as far as their
    /// plugins report it; plugins on our SDKs do.
    pub refused: u64,
    /// Restarts of sources on an official SDK because nobody read them.
    pub overruns: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self { calls, answers, messages_out, acks, messages_in, lost, refused, overruns } = other;
        self.calls += calls;
        self.answers += answers;
        self.messages_out += messages_out;
        self.acks += acks;
        self.messages_in += messages_in;
        self.lost += lost;
        self.refused += refused;
        self.overruns += overruns;
    }
}

/// A further process of a plugin: a member of its
/// [function pools](crate::FunctionPool).
///
/// Times are serialized in seconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The member's number, from 1: member 0 is the plugin's ordinary process,
    /// to which [`Status`] belongs.
    pub member: usize,
    /// Current state: [`Idle`](PluginState::Idle) until the load needs it.
    pub state: PluginState,
    /// Time since the state was entered.
    #[serde(serialize_with = "seconds")]
    pub since: Duration,
    /// Process id, while the process is alive.
    pub pid: Option<u32>,
    /// Number of the latest process, from 1; 0 before the first.
    pub generation: u64,
    /// Number of restarts after a crash.
    pub restarts: u64,
    /// Time since the process has completed its handshake, while it is alive.
    #[serde(serialize_with = "seconds_of_some")]
    pub uptime: Option<Duration>,
    /// Resident memory of the process and its descendants, in bytes, while the
    /// process is alive. Pages that processes share count for each. A
    /// descendant whose parent has ended does not count.
    pub resident: Option<u64>,
    /// How the last process ended, if one has.
    pub last_exit: Option<Exit>,
    /// Why the last start failed, unless a later one has succeeded.
    pub start_error: Option<String>,
}

/// An event in the life of a plugin.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The plugin.
    pub plugin: String,
    /// The process: 0, or the number of a [function
    /// pool](crate::FunctionPool)'s further process.
    pub member: usize,
    /// Kind of the event.
    pub kind: EventKind,
}

/// Kind of an [`Event`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// The plugin is ready for the first time.
    Started {
        /// Process id.
        pid: u32,
    },
    /// The host listens for the process of an attached plugin, which somebody
    /// else starts.
    Awaited {
        /// Where the plugin is to connect: `ipc:///tmp/plugin_mirror.ipc`.
        address: String,
    },
    /// The process ended unexpectedly.
    Crashed {
        /// How the process ended.
        exit: Exit,
    },
    /// The plugin will be restarted after this pause.
    BackingOff {
        /// The pause.
        pause: Duration,
    },
    /// The plugin crashed too often, and will be restarted only after this
    /// pause.
    Broken {
        /// The pause.
        pause: Duration,
    },
    /// A restart failed, and will be retried.
    RestartFailed {
        /// Reason.
        error: String,
    },
    /// The plugin, or one of its symbols, could not be started because the host
    /// has exhausted a resource of the operating system. Not a crash; retried
    /// after this pause.
    Shortage {
        /// The exhausted resource, and what to do.
        error: String,
        /// The pause.
        pause: Duration,
    },
    /// A process of a [function pool](crate::FunctionPool) could not be started,
    /// which is tried again; the pool goes on with the others.
    StartFailed {
        /// Reason.
        error: String,
    },
    /// The plugin was restarted, with all its symbols.
    Restored {
        /// Process id of the new process.
        pid: u32,
        /// Time since the crash.
        away: Duration,
        /// Number of symbols restored.
        symbols: usize,
    },
    /// A symbol could not be restored.
    SymbolLost {
        /// The symbol's kind.
        kind: SymbolKind,
        /// The symbol's name.
        symbol: String,
        /// Reason.
        error: String,
    },
    /// The plugin was replaced by another version.
    Updated {
        /// The old version.
        from: String,
        /// The new version.
        to: String,
    },
    /// An update failed, and the plugin stays at its version.
    UpdateFailed {
        /// Reason.
        error: String,
    },
    /// The process was [stopped](crate::Host::stop), and is started when the
    /// plugin is needed again.
    Stopped,
    /// Messages to a sink may be lost: in a crash, or because the sink ended
    /// before it was known to have collected them.
    Lost {
        /// The sink.
        symbol: String,
        /// Upper bound of the number of messages lost.
        messages: u64,
    },
    /// The queue of a source on an official SDK is full, because nobody read
    /// it. The source is restarted once its reader has emptied the queue.
    Overrun {
        /// The source.
        symbol: String,
    },
}

/// Formats the event for people.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.member {
            0 => write!(f, "plugin {} ", self.plugin)?,
            member => write!(f, "plugin {} (pool member {member}) ", self.plugin)?,
        }
        match &self.kind {
            EventKind::Started { pid } => write!(f, "is ready (pid {pid})"),
            EventKind::Awaited { address } => write!(f, "is waited for at {address}"),
            EventKind::Crashed { exit } if exit.tail.is_empty() => write!(f, "crashed ({exit})"),
            EventKind::Crashed { exit } => write!(f, "crashed ({exit}), it last wrote:\n{}", exit.tail),
            EventKind::BackingOff { pause } if pause.is_zero() => f.write_str("is being restarted"),
            EventKind::BackingOff { pause } => write!(f, "will be restarted in {pause:.0?}"),
            EventKind::Broken { pause } => write!(f, "keeps crashing: it will be restarted in {pause:.0?}"),
            EventKind::RestartFailed { error } => write!(f, "could not be restarted: {error}"),
            EventKind::StartFailed { error } => write!(f, "could not be started: {error}"),
            EventKind::Shortage { error, pause } => write!(f, "will be restarted in {pause:.0?}: {error}"),
            EventKind::Restored { pid, away, symbols } => {
                write!(f, "was restored after {away:.0?}, with {} (pid {pid})", counted(*symbols as u64, "symbol"))
            }
            EventKind::SymbolLost { kind, symbol, error } => {
                write!(f, "was restored without {kind} {symbol}: {error}")
            }
            EventKind::Updated { from, to } => write!(f, "was updated from version {from:?} to {to:?}"),
            EventKind::UpdateFailed { error } => write!(f, "could not be updated: {error}"),
            EventKind::Stopped => f.write_str("was stopped, until it is needed again"),
            EventKind::Lost { symbol, messages } => {
                write!(f, "may have lost {} to sink {symbol}", counted(*messages, "message"))
            }
            EventKind::Overrun { symbol } => {
                write!(f, "has filled the queue of source {symbol}, which nobody reads")
            }
        }
    }
}

/// Sends events of one process of each plugin to subscribers, and logs them.
#[derive(Debug)]
pub(crate) struct Events {
    subscribers: Arc<Subscribers>,
    /// Number of the process.
    member: usize,
}

#[derive(Debug)]
struct Subscribers {
    channels: Mutex<Vec<SyncSender<Event>>>,
    streams: Mutex<Vec<Weak<EventQueue>>>,
    /// Maximum number of events queued for a subscriber that does not read;
    /// further events are dropped for this subscriber.
    queue: usize,
}

impl Events {
    pub(crate) fn new(queue: usize) -> Self {
        let subscribers = Subscribers { channels: Mutex::default(), streams: Mutex::default(), queue: queue.max(1) };
        Self { subscribers: Arc::new(subscribers), member: 0 }
    }

    /// Returns those of another process of each plugin.
    pub(crate) fn of_member(&self, member: usize) -> Self {
        Self { subscribers: self.subscribers.clone(), member }
    }

    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(self.subscribers.queue);
        lock(&self.subscribers.channels).push(sender);
        receiver
    }

    pub(crate) fn stream(&self) -> EventStream {
        let (stream, queue) = EventStream::new(self.subscribers.queue);
        lock(&self.subscribers.streams).push(Arc::downgrade(&queue));
        stream
    }

    /// Ends the streams.
    pub(crate) fn close(&self) {
        let streams = std::mem::take(&mut *lock(&self.subscribers.streams));
        streams.iter().filter_map(Weak::upgrade).for_each(|stream| stream.close());
    }

    pub(crate) fn tell(&self, plugin: &str, kind: EventKind) {
        let event = Event { plugin: plugin.to_owned(), member: self.member, kind };
        match &event.kind {
            EventKind::Started { .. }
            | EventKind::Awaited { .. }
            | EventKind::Restored { .. }
            | EventKind::Updated { .. }
            | EventKind::Stopped => {
                tracing::info!(target: TARGET, "{event}")
            }
            _ => tracing::warn!(target: TARGET, "{event}"),
        }
        lock(&self.subscribers.channels)
            .retain(|subscriber| !matches!(subscriber.try_send(event.clone()), Err(TrySendError::Disconnected(_))));
        lock(&self.subscribers.streams).retain(|stream| {
            let stream = stream.upgrade();
            stream.iter().for_each(|stream| stream.push(&event));
            stream.is_some()
        });
    }
}
