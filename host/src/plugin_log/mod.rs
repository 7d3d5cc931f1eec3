//! The lines that plugins write: their levels, their limit, and their way to
//! `tracing` and the engine's own listeners.
//!
//! One thread of the host delivers them, from a queue of bounded length: neither
//! a plugin nor the host waits for a log that is slow or blocked.

mod levels;
mod output;
mod rate;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ekuiper_transport_ipc::wait::deadline_after;
use serde::Serialize;

use crate::sync::lock;

pub(crate) use output::{OutputReader, PluginOutput};

/// Maximum number of lines that wait for their delivery.
const QUEUE: usize = 1024;

/// Interval of the attempts to get a mark into a full queue.
const RETRY: Duration = Duration::from_millis(2);

/// The severity of a [`LogLine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogLevel {
    /// Something has failed: also `CRITICAL`, `FATAL`, a traceback or a panic.
    Error,
    /// Something may be wrong.
    Warn,
    /// Also a line without any level.
    Info,
    /// For the plugin's author.
    Debug,
    /// Step by step.
    Trace,
}

impl LogLevel {
    /// Returns the level's name: `error` to `trace`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no [`LogLevel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is error, warn, info, debug or trace")]
pub struct NoSuchLevel;

impl FromStr for LogLevel {
    type Err = NoSuchLevel;

    fn from_str(name: &str) -> Result<Self, NoSuchLevel> {
        let levels = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];
        levels.into_iter().find(|level| level.name() == name).ok_or(NoSuchLevel)
    }
}

/// A line that a plugin has written to its stdout or stderr, or the host's count
/// of lines that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// Name of the plugin.
    pub plugin: String,
    /// Id of the process that wrote the line.
    pub pid: u32,
    /// Time at which the host read it.
    pub time: SystemTime,
    /// Level that the line itself shows, or [`LogLevel::Info`].
    pub level: LogLevel,
    /// The line, without the colours of a terminal, its other control characters
    /// escaped. At most 4,096 bytes of it, and a note of its length if it was
    /// longer.
    pub text: String,
}

impl LogLine {
    /// Passes the line to `tracing`, with the target `plugin`.
    fn trace(&self) {
        let Self { plugin, text, .. } = self;
        let plugin = plugin.as_str();
        match self.level {
            LogLevel::Error => tracing::error!(target: "plugin", plugin, "{text}"),
            LogLevel::Warn => tracing::warn!(target: "plugin", plugin, "{text}"),
            LogLevel::Info => tracing::info!(target: "plugin", plugin, "{text}"),
            LogLevel::Debug => tracing::debug!(target: "plugin", plugin, "{text}"),
            LogLevel::Trace => tracing::trace!(target: "plugin", plugin, "{text}"),
        }
    }
}

/// What an engine has called with each line.
pub(crate) type Listener = Arc<dyn Fn(&LogLine) + Send + Sync>;

/// The log of a host's plugins.
#[derive(Clone)]
pub(crate) struct PluginLog {
    listeners: Vec<Listener>,
    /// Maximum number of lines per second and process.
    rate: u64,
    /// The queue, once there was a line. The thread that reads it ends when the
    /// last copy of this is dropped.
    queue: Arc<Mutex<Option<SyncSender<Entry>>>>,
}

/// Entry of the queue.
enum Entry {
    Line(LogLine),
    /// Answered when all that came before it was delivered.
    Mark(mpsc::Sender<()>),
}

impl Default for PluginLog {
    fn default() -> Self {
        Self { listeners: Vec::new(), rate: rate::DEFAULT, queue: Arc::default() }
    }
}

impl fmt::Debug for PluginLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginLog").field("listeners", &self.listeners.len()).field("rate", &self.rate).finish()
    }
}

impl PluginLog {
    pub(crate) fn listen(&mut self, listener: Listener) {
        self.listeners.push(listener);
    }

    pub(crate) fn limit(&mut self, lines: u64) {
        self.rate = lines;
    }

    /// Queues a line; returns whether there was room for it.
    fn add(&self, line: LogLine) -> bool {
        let mut queue = lock(&self.queue);
        if queue.is_none() {
            *queue = self.start();
        }
        queue.as_ref().is_some_and(|queue| queue.try_send(Entry::Line(line)).is_ok())
    }

    /// Queues a line, as soon as there is room for it.
    fn add_late(&self, line: LogLine) {
        let queue = lock(&self.queue).clone();
        let _ = queue.map(|queue| queue.send(Entry::Line(line)));
    }

    fn start(&self) -> Option<SyncSender<Entry>> {
        let (queue, entries) = mpsc::sync_channel(QUEUE);
        let listeners = self.listeners.clone();
        let deliver = move || deliver(&entries, &listeners);
        std::thread::Builder::new().name("ekuiper-log".into()).spawn(deliver).ok()?;
        Some(queue)
    }

    /// Waits until the lines so far were delivered, at most for this time.
    pub(crate) fn flush(&self, patience: Duration) {
        let Some(queue) = lock(&self.queue).clone() else { return };
        let give_up = deadline_after(patience);
        let (reached, is_reached) = mpsc::channel();
        let mut mark = Entry::Mark(reached);
        loop {
            match queue.try_send(mark) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(_)) if Instant::now() >= give_up => return,
                Err(TrySendError::Full(entry)) => mark = entry,
            }
            std::thread::sleep(RETRY);
        }
        let _ = is_reached.recv_timeout(give_up.saturating_duration_since(Instant::now()));
    }
}

fn deliver(entries: &Receiver<Entry>, listeners: &[Listener]) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                // The code of others: what it does wrong costs its own line.
                let _ = catch_unwind(AssertUnwindSafe(|| line.trace()));
                for listener in listeners {
                    let _ = catch_unwind(AssertUnwindSafe(|| listener(&line)));
                }
            }
            Entry::Mark(reached) => drop(reached.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_that_users_give_them() {
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace] {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(serde_json::to_value(level).unwrap(), level.name());
        }
        assert_eq!("loud".parse::<LogLevel>(), Err(NoSuchLevel));
        assert!(LogLevel::Error < LogLevel::Warn);
    }
}
