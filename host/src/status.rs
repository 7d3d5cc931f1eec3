//! What is known of a plugin, and what happens to it.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use ekuiper_core::message::{Meta, SymbolKind};

use crate::process::Exit;
use crate::sync::lock;

/// The `tracing` target of events.
const TARGET: &str = "ekuiper_host::event";

/// What a plugin is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginState {
    /// It has not been needed yet.
    Idle,
    /// Its process has been started and has not shaken hands, or its symbols
    /// are being started again.
    Starting,
    /// It serves.
    Running,
    /// Its process is replaced by one of another version.
    Updating,
    /// It has crashed, and is started again after a pause.
    BackingOff,
    /// It has crashed again and again: it is left alone for a while.
    Broken,
    /// The host is shut down.
    Stopped,
}

/// A symbol that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveSymbol {
    /// What it is.
    pub kind: SymbolKind,
    /// Its name.
    pub name: String,
    /// For which rule, operator and instance; empty for a function.
    pub meta: Meta,
}

/// What is known of a plugin.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// What it is doing.
    pub state: PluginState,
    /// For how long it has been doing that.
    pub since: Duration,
    /// Its process, if there is one.
    pub pid: Option<u32>,
    /// Which process of it that is, from 1; 0 before the first.
    pub generation: u64,
    /// How often it was started again after a crash.
    pub restarts: u64,
    /// How its last process ended, if one has.
    pub last_exit: Option<Exit>,
    /// What runs, and is started again after a crash.
    pub live: Vec<LiveSymbol>,
    /// How much went in and out.
    pub traffic: Traffic,
}

/// How much went to a plugin and came from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Calls of functions.
    pub calls: u64,
    /// Answers to them, errors included.
    pub answers: u64,
    /// Messages to sinks.
    pub messages_out: u64,
    /// Acknowledgements of them, failures included.
    pub acks: u64,
    /// Messages from sources, errors included.
    pub messages_in: u64,
    /// Messages to sinks that are not known to have been collected, and will
    /// not be: a crash may have lost them, or their sink was closed, stopped or
    /// shut down before. At most so many are lost. Those whose failure was
    /// returned to whoever sent them do not count.
    pub lost: u64,
    /// Messages that sinks without acknowledgements did not take, as far as
    /// their plugins tell: those of our SDKs do.
    pub refused: u64,
    /// How often a source on an official SDK had to be started again since
    /// nobody read what it sent.
    pub overruns: u64,
}

/// Counts [`Traffic`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: Counter,
    pub(crate) answers: Counter,
    pub(crate) messages_out: Counter,
    pub(crate) acks: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) lost: Counter,
    pub(crate) refused: Counter,
    pub(crate) overruns: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            calls: self.calls.get(),
            answers: self.answers.get(),
            messages_out: self.messages_out.get(),
            acks: self.acks.get(),
            messages_in: self.messages_in.get(),
            lost: self.lost.get(),
            refused: self.refused.get(),
            overruns: self.overruns.get(),
        }
    }
}

/// What happened to a plugin.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The plugin.
    pub plugin: String,
    /// What happened.
    pub kind: EventKind,
}

/// See [`Event`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// It serves for the first time.
    Started {
        /// Its process.
        pid: u32,
    },
    /// Its process ended without having been told to.
    Crashed {
        /// How it ended.
        exit: Exit,
    },
    /// It will be started again after this pause.
    BackingOff {
        /// The pause.
        pause: Duration,
    },
    /// It has crashed again and again: it is left alone for this long.
    Broken {
        /// The pause.
        pause: Duration,
    },
    /// It could not be started again; that is tried once more.
    RestartFailed {
        /// Why not.
        error: String,
    },
    /// It, or one of its symbols, could not be started since the operating
    /// system gives this host no more of something: no crash, tried again
    /// after this pause.
    Shortage {
        /// What there is no more of, and what to do.
        error: String,
        /// The pause.
        pause: Duration,
    },
    /// It serves again, with all its symbols.
    Restored {
        /// Its new process.
        pid: u32,
        /// Since the crash.
        away: Duration,
        /// How many symbols were started again.
        symbols: usize,
    },
    /// One symbol could not be started again.
    SymbolLost {
        /// What it is.
        kind: SymbolKind,
        /// Its name.
        symbol: String,
        /// Why not.
        error: String,
    },
    /// It is replaced by another version.
    Updated {
        /// The version that it had.
        from: String,
        /// The version that it has.
        to: String,
    },
    /// It could not be updated: the version that it had goes on.
    UpdateFailed {
        /// Why not.
        error: String,
    },
    /// Messages to a sink may be lost: in a crash, or since the sink has ended
    /// before it was known to have collected them. At most so many.
    Lost {
        /// The sink.
        symbol: String,
        /// How many.
        messages: u64,
    },
    /// A source on an official SDK sent more than is kept for it while nobody
    /// read. It is started again as soon as its reader has come so far.
    Overrun {
        /// The source.
        symbol: String,
    },
}

/// For people.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {} ", self.plugin)?;
        match &self.kind {
            EventKind::Started { pid } => write!(f, "serves (pid {pid})"),
            EventKind::Crashed { exit } if exit.tail.is_empty() => write!(f, "crashed ({exit})"),
            EventKind::Crashed { exit } => write!(f, "crashed ({exit}), it last wrote:\n{}", exit.tail),
            EventKind::BackingOff { pause } if pause.is_zero() => f.write_str("is started again"),
            EventKind::BackingOff { pause } => write!(f, "is started again after {pause:.0?}"),
            EventKind::Broken { pause } => write!(f, "crashes again and again: it is left alone for {pause:.0?}"),
            EventKind::RestartFailed { error } => write!(f, "could not be started again: {error}"),
            EventKind::Shortage { error, pause } => write!(f, "is started again after {pause:.0?}: {error}"),
            EventKind::Restored { pid, away, symbols } => {
                write!(f, "serves again after {away:.0?}, with {symbols} symbols (pid {pid})")
            }
            EventKind::SymbolLost { kind, symbol, error } => {
                write!(f, "is back without {kind} {symbol}: {error}")
            }
            EventKind::Updated { from, to } => write!(f, "was updated from version {from:?} to {to:?}"),
            EventKind::UpdateFailed { error } => write!(f, "could not be updated: {error}"),
            EventKind::Lost { symbol, messages } => {
                write!(f, "may have lost {messages} messages to sink {symbol}")
            }
            EventKind::Overrun { symbol } => {
                write!(f, "has sent more from source {symbol} than is kept for it while nobody reads")
            }
        }
    }
}

/// Tells subscribers.
#[derive(Debug)]
pub(crate) struct Events {
    subscribers: Mutex<Vec<SyncSender<Event>>>,
    /// How many events wait for a subscriber that does not read; those that
    /// come then are dropped for it.
    queue: usize,
}

impl Events {
    pub(crate) fn new(queue: usize) -> Self {
        Self { subscribers: Mutex::default(), queue }
    }

    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(self.queue.max(1));
        lock(&self.subscribers).push(sender);
        receiver
    }

    pub(crate) fn tell(&self, plugin: &str, kind: EventKind) {
        let event = Event { plugin: plugin.to_owned(), kind };
        match &event.kind {
            EventKind::Started { .. } | EventKind::Restored { .. } | EventKind::Updated { .. } => {
                tracing::info!(target: TARGET, "{event}")
            }
            _ => tracing::warn!(target: TARGET, "{event}"),
        }
        lock(&self.subscribers)
            .retain(|subscriber| !matches!(subscriber.try_send(event.clone()), Err(TrySendError::Disconnected(_))));
    }
}
