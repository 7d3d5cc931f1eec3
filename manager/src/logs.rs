//! The last lines that plugins have written, and the readers that follow them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ekuiper_core::sync::lock;
use ekuiper_host::{LogLevel, LogLine};
use tokio::sync::broadcast::{self, Receiver, Sender};

/// Number of lines that are kept of each plugin: one that writes much displaces
/// no other's.
const KEPT: usize = 1000;

/// Number of plugins whose lines are kept, installed or not.
const PLUGINS: usize = 100;

/// Number of lines that wait for a reader.
const WAITING: usize = 1024;

/// Maximum number of readers that follow.
pub(crate) const READERS: usize = 64;

/// The log of a manager's plugins.
pub(crate) struct Logs(Mutex<Kept>);

struct Kept {
    plugins: BTreeMap<String, VecDeque<Arc<Entry>>>,
    /// Number of the next line.
    next: u64,
    /// `None` once the readers have been ended.
    readers: Option<Sender<Arc<Entry>>>,
}

/// A line, and its place among all lines.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Grows from line to line, also from one run of the manager to the next.
    pub(crate) number: u64,
    pub(crate) line: LogLine,
}

/// Which lines a reader wants.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) plugin: Option<String>,
    /// The least severe level.
    pub(crate) level: LogLevel,
    /// Those after this number.
    pub(crate) after: u64,
    /// Number of the last lines.
    pub(crate) lines: usize,
}

impl Wanted {
    pub(crate) fn includes(&self, entry: &Entry) -> bool {
        entry.number > self.after
            && entry.line.level <= self.level
            && self.plugin.as_ref().is_none_or(|plugin| *plugin == entry.line.plugin)
    }
}

/// What gives each later line.
pub(crate) type Follower = Receiver<Arc<Entry>>;

/// Why lines cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CannotFollow {
    /// There are [`READERS`] already.
    TooMany,
    Ended,
}

impl Default for Logs {
    fn default() -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let next = u64::try_from(micros).unwrap_or_default();
        Self(Mutex::new(Kept { plugins: BTreeMap::new(), next, readers: Some(Sender::new(WAITING)) }))
    }
}

impl Logs {
    pub(crate) fn add(&self, line: &LogLine) {
        let mut kept = lock(&self.0);
        let entry = Arc::new(Entry { number: kept.next, line: line.clone() });
        kept.next += 1;
        let lines = kept.plugins.entry(line.plugin.clone()).or_default();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(entry.clone());
        if kept.plugins.len() > PLUGINS {
            let last = |(_, lines): &(&String, &VecDeque<Arc<Entry>>)| lines.back().map(|entry| entry.number);
            let oldest = kept.plugins.iter().min_by_key(last).map(|(name, _)| name.clone());
            oldest.and_then(|name| kept.plugins.remove(&name));
        }
        // An error only says that nobody follows.
        let _ = kept.readers.as_ref().map(|readers| readers.send(entry));
    }

    /// Returns whether lines of this plugin are kept.
    pub(crate) fn has(&self, plugin: &str) -> bool {
        lock(&self.0).plugins.contains_key(plugin)
    }

    /// Returns the last of the lines that are wanted, in their order.
    pub(crate) fn last(&self, wanted: &Wanted) -> Vec<Arc<Entry>> {
        lock(&self.0).last(wanted)
    }

    /// The same, and what gives all later lines.
    pub(crate) fn follow(&self, wanted: &Wanted) -> Result<(Vec<Arc<Entry>>, Follower), CannotFollow> {
        let kept = lock(&self.0);
        let readers = kept.readers.as_ref().ok_or(CannotFollow::Ended)?;
        if readers.receiver_count() >= READERS {
            return Err(CannotFollow::TooMany);
        }
        Ok((kept.last(wanted), readers.subscribe()))
    }

    /// Ends those that follow.
    pub(crate) fn end(&self) {
        lock(&self.0).readers = None;
    }
}

impl Kept {
    fn last(&self, wanted: &Wanted) -> Vec<Arc<Entry>> {
        let all = self.plugins.values().flatten();
        let mut lines: Vec<_> = all.filter(|entry| wanted.includes(entry)).cloned().collect();
        lines.sort_unstable_by_key(|entry| entry.number);
        lines.split_off(lines.len().saturating_sub(wanted.lines))
    }
}

/// What a follower reads next.
pub(crate) enum Next {
    Line(Arc<Entry>),
    /// So many lines came faster than they were read.
    LeftOut(u64),
    End,
}

/// Waits for the next line that is wanted.
pub(crate) async fn next(receiver: &mut Follower, wanted: &Wanted) -> Next {
    loop {
        match receiver.recv().await {
            Ok(entry) if wanted.includes(&entry) => return Next::Line(entry),
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(count)) => return Next::LeftOut(count),
            Err(broadcast::error::RecvError::Closed) => return Next::End,
        }
    }
}
