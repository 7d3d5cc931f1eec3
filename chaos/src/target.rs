//! State of a plugin: its calls and messages, its kills, and its restarts.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::batches::Batch;
use crate::ledger::Ledger;
use crate::plan::Who;
use crate::shortage;
use crate::timing::Times;
use ekuiper_core::sync::lock;

/// A plugin, across all its processes and hosts.
pub(crate) struct Target {
    pub(crate) who: Who,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) calls: Mutex<Ledger>,
    pub(crate) messages: Mutex<Ledger>,
    pub(crate) batches: Mutex<Vec<Batch>>,
    /// Number of sources that ended by themselves, with all their rows.
    pub(crate) ended: AtomicUsize,
    kills: Mutex<Vec<Kill>>,
    /// Number of kills, for frequent queries.
    killed: AtomicUsize,
    /// Number of times that its files stopped or resumed growing.
    pub(crate) fillings: AtomicUsize,
    /// Number of times that its sockets were deleted, which may prevent a
    /// connection.
    pub(crate) deletions: AtomicUsize,
    /// Number of times that it was stopped or resumed by a signal.
    pub(crate) stops: AtomicUsize,
    /// The host is short of descriptors, so no crash counts.
    pub(crate) is_short: AtomicBool,
}

/// How long a process had served when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Not at all.
    Starting,
    /// A short time.
    Young,
    /// Long enough for its end to count as isolated.
    Stable,
}

/// One violent end.
#[derive(Clone, Debug)]
struct Kill {
    at: Instant,
    pid: u32,
    /// When the process was gone: on a busy machine, dying takes a while.
    died: Option<Instant>,
    /// When the calls in flight failed.
    failures: Vec<Instant>,
    /// The process was not given time to end gracefully.
    crash: bool,
    /// An isolated crash, while the host had no shortage: its restart is
    /// immediate.
    single: bool,
    /// Shortage counter at the kill.
    shortages: u64,
    /// The process was being started.
    starting: bool,
    /// Time until the host reported that all symbols are restored.
    restored: Option<Duration>,
    /// Time until each user used the plugin with success.
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
            batches: Mutex::default(),
            ended: AtomicUsize::new(0),
            kills: Mutex::default(),
            killed: AtomicUsize::new(0),
            fillings: AtomicUsize::new(0),
            deletions: AtomicUsize::new(0),
            stops: AtomicUsize::new(0),
            is_short: AtomicBool::new(false),
        }
    }

    /// Records that a process is about to be killed, or told to end if it is no
    /// `crash`. Called immediately before, with the number of its `posts`.
    pub(crate) fn kill(&self, pid: u32, crash: bool, age: Age, posts: usize) {
        let mut kills = lock(&self.kills);
        kills.push(Kill {
            at: Instant::now(),
            pid,
            died: None,
            failures: Vec::new(),
            crash,
            single: crash && age == Age::Stable && !shortage::is_short(),
            shortages: shortage::changes(),
            starting: age == Age::Starting,
            restored: None,
            used: vec![None; posts],
        });
        self.killed.store(kills.len(), Ordering::SeqCst);
    }

    pub(crate) fn kills(&self) -> usize {
        self.killed.load(Ordering::SeqCst)
    }

    /// Records the failure of a call that began at `started`, because the
    /// process is gone; returns whether it was killed.
    pub(crate) fn failed(&self, started: Instant) -> bool {
        let now = Instant::now();
        match lock(&self.kills).last_mut() {
            Some(kill) if kill.at >= started => {
                kill.failures.push(now);
                true
            }
            _ => false,
        }
    }

    /// Records that the killed process is gone.
    pub(crate) fn died(&self) {
        if let Some(kill) = lock(&self.kills).last_mut() {
            kill.died = Some(Instant::now());
        }
    }

    /// Returns the times until calls in flight failed: since the kill; since
    /// the kill, if `on_time` holds for the interval; and since the process's
    /// end, which the end of its sockets precedes.
    pub(crate) fn noticed(&self, on_time: impl Fn(Instant, Instant) -> bool) -> Noticed {
        let mut noticed = Noticed::default();
        for kill in lock(&self.kills).iter().filter(|kill| kill.crash) {
            for failure in &kill.failures {
                noticed.since_kill.add(*failure - kill.at);
                if on_time(kill.at, *failure) {
                    noticed.on_time.add(*failure - kill.at);
                }
                kill.died.iter().for_each(|died| noticed.since_end.add(failure.saturating_duration_since(*died)));
            }
        }
        noticed
    }

    /// Records the host's report that the process `pid` serves with all
    /// symbols.
    pub(crate) fn restored(&self, pid: u32) {
        let now = Instant::now();
        for kill in lock(&self.kills).iter_mut().filter(|kill| kill.restored.is_none() && kill.pid != pid) {
            kill.restored = Some(now - kill.at);
            kill.single &= kill.shortages == shortage::changes();
        }
    }

    /// Returns whether the host has reported that since the last kill.
    pub(crate) fn is_restored(&self) -> bool {
        lock(&self.kills).last().is_none_or(|kill| kill.restored.is_some())
    }

    /// Records that the user `index` has used the plugin with success, through
    /// the process `pid` or, if that is not known, since `started`. `seen` is
    /// the user's own state.
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

    /// Returns the times, after isolated kills, until the host reported all
    /// symbols restored.
    pub(crate) fn away(&self, on_time: impl Fn(Instant, Instant) -> bool) -> Away {
        let mut away = Away::default();
        let kills = lock(&self.kills);
        for kill in kills.iter().filter(|kill| kill.starting) {
            kill.restored.iter().for_each(|restored| away.after_start.add(*restored));
        }
        for (index, kill) in kills.iter().enumerate().filter(|(_, kill)| kill.single) {
            if let Some(restored) = kill.restored {
                away.restored.add(restored);
                if on_time(kill.at, kill.at + restored) {
                    away.on_time.add(restored);
                }
            }
            if let Some(longest) = kill.used.iter().copied().max().flatten()
                && kill.used.iter().all(Option::is_some)
                // Not if it was killed again before.
                && kills.get(index + 1).is_none_or(|next| kill.at + longest < next.at)
            {
                away.used.add(longest);
            }
        }
        away
    }
}

/// Times from a kill to the failure of a call in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct Noticed {
    pub(crate) since_kill: Times,
    pub(crate) on_time: Times,
    pub(crate) since_end: Times,
}

/// Times from a kill until the plugin serves again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Away {
    pub(crate) restored: Times,
    pub(crate) on_time: Times,
    /// Until each of its users had used it with success.
    pub(crate) used: Times,
    /// As `restored`, if it was killed before it had been restored: including
    /// the host's pause between two crashes.
    pub(crate) after_start: Times,
}
