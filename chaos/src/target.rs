//! What is known of a plugin: what was asked of it, when it was killed, and
//! when it was back.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::lock;
use crate::plan::Who;
use crate::timing::Times;

/// A plugin, through all its processes and hosts.
pub(crate) struct Target {
    pub(crate) who: Who,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) calls: Mutex<Ledger>,
    pub(crate) messages: Mutex<Ledger>,
    kills: Mutex<Vec<Kill>>,
    /// How many kills there were, for whoever asks often.
    killed: AtomicUsize,
    /// From a kill to the failure of a call that was under way.
    pub(crate) noticed: Mutex<Times>,
}

/// One violent end.
#[derive(Clone, Debug)]
struct Kill {
    at: Instant,
    pid: u32,
    /// It had run for long: its restart is at once.
    single: bool,
    /// The host said that all symbols are back.
    restored: Option<Duration>,
    /// Who has used it again, and when.
    used: Vec<Option<Duration>>,
}

impl Target {
    pub(crate) fn new(who: Who, name: String, folder: PathBuf) -> Self {
        Self {
            who,
            name,
            folder,
            calls: Mutex::default(),
            messages: Mutex::default(),
            kills: Mutex::default(),
            killed: AtomicUsize::new(0),
            noticed: Mutex::default(),
        }
    }

    /// It is about to be killed: to be called right before. `posts` many use it.
    pub(crate) fn kill(&self, pid: u32, single: bool, posts: usize) {
        let mut kills = lock(&self.kills);
        kills.push(Kill { at: Instant::now(), pid, single, restored: None, used: vec![None; posts] });
        self.killed.store(kills.len(), Ordering::SeqCst);
    }

    pub(crate) fn kills(&self) -> usize {
        self.killed.load(Ordering::SeqCst)
    }

    /// A call that began at `started` has failed just now, because the process
    /// is gone. Notes how long that took, if it was killed; whether it was.
    pub(crate) fn failed(&self, started: Instant) -> bool {
        let now = Instant::now();
        let kills = lock(&self.kills);
        let Some(kill) = kills.iter().rev().find(|kill| kill.at <= now) else { return false };
        if kill.at < started {
            return false;
        }
        lock(&self.noticed).add(now - kill.at);
        true
    }

    /// The host says that the process `pid` serves with all symbols.
    pub(crate) fn restored(&self, pid: u32) {
        let now = Instant::now();
        for kill in lock(&self.kills).iter_mut().filter(|kill| kill.restored.is_none() && kill.pid != pid) {
            kill.restored = Some(now - kill.at);
        }
    }

    /// Whether the host has said so since the last kill.
    pub(crate) fn is_restored(&self) -> bool {
        lock(&self.kills).last().is_none_or(|kill| kill.restored.is_some())
    }

    /// The `index`th of its users has used it with success, through the
    /// process `pid`, or, where that is not known, since `started`. `seen` is
    /// the user's own note.
    pub(crate) fn used(&self, index: usize, started: Instant, pid: Option<u32>, seen: &mut usize) {
        if *seen == self.kills() {
            return;
        }
        let now = Instant::now();
        let mut kills = lock(&self.kills);
        for kill in &mut kills[*seen..] {
            if !pid.map_or(started > kill.at, |pid| pid != kill.pid) {
                return;
            }
            if let Some(place) = kill.used.get_mut(index) {
                *place = Some(now - kill.at);
            }
            *seen += 1;
        }
    }

    /// After single kills: until the host said that all symbols are back, and
    /// until each of its users had used it with success.
    pub(crate) fn away(&self) -> (Times, Times) {
        let (mut restored, mut used) = (Times::default(), Times::default());
        for kill in lock(&self.kills).iter().filter(|kill| kill.single) {
            kill.restored.iter().for_each(|time| restored.add(*time));
            if let Some(longest) = kill.used.iter().copied().max().flatten()
                && kill.used.iter().all(Option::is_some)
            {
                used.add(longest);
            }
        }
        (restored, used)
    }
}
