//! What is known of a plugin: what was asked of it, when it was killed, and
//! when it was back.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::batches::Batch;
use crate::ledger::Ledger;
use crate::lock;
use crate::plan::Who;
use crate::shortage;
use crate::timing::Times;

/// A plugin, through all its processes and hosts.
pub(crate) struct Target {
    pub(crate) who: Who,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) calls: Mutex<Ledger>,
    pub(crate) messages: Mutex<Ledger>,
    pub(crate) batches: Mutex<Vec<Batch>>,
    /// Sources that ended by themselves, with all their rows.
    pub(crate) ended: AtomicUsize,
    kills: Mutex<Vec<Kill>>,
    /// How many kills there were, for whoever asks often.
    killed: AtomicUsize,
    /// How often its files began or ceased not to grow.
    pub(crate) fillings: AtomicUsize,
    /// How often its sockets were deleted, which may keep a connection from
    /// being made.
    pub(crate) deletions: AtomicUsize,
    /// The host is out of descriptors, and no crash counts.
    pub(crate) is_short: AtomicBool,
}

/// How long a process had served when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Not at all yet.
    Starting,
    /// Not long.
    Young,
    /// Long enough for its end to be one by itself.
    Stable,
}

/// One violent end.
#[derive(Clone, Debug)]
struct Kill {
    at: Instant,
    pid: u32,
    /// The process was gone: on a busy machine it takes a while to die.
    died: Option<Instant>,
    /// When the calls failed that were under way.
    failures: Vec<Instant>,
    /// It has not been given the time to end in order.
    crash: bool,
    /// It had run for long, too, and the host was short of nothing: its restart
    /// is at once.
    single: bool,
    /// How many shortages had begun or ended by then.
    shortages: u64,
    /// It was being started.
    starting: bool,
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
            batches: Mutex::default(),
            ended: AtomicUsize::new(0),
            kills: Mutex::default(),
            killed: AtomicUsize::new(0),
            fillings: AtomicUsize::new(0),
            deletions: AtomicUsize::new(0),
            is_short: AtomicBool::new(false),
        }
    }

    /// It is about to be killed, or told to end where that is no `crash`: to be
    /// called right before. `posts` many use it.
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

    /// A call that began at `started` has failed just now, because the process
    /// is gone. Notes how long that took, if it was killed; whether it was.
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

    /// The process that was killed last is gone by now.
    pub(crate) fn died(&self) {
        if let Some(kill) = lock(&self.kills).last_mut() {
            kill.died = Some(Instant::now());
        }
    }

    /// Until a call that was under way failed: since the kill; the same where
    /// `on_time` says so of the time between; since the process's end, which
    /// the end of its sockets precedes.
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

    /// The host says that the process `pid` serves with all symbols.
    pub(crate) fn restored(&self, pid: u32) {
        let now = Instant::now();
        for kill in lock(&self.kills).iter_mut().filter(|kill| kill.restored.is_none() && kill.pid != pid) {
            kill.restored = Some(now - kill.at);
            kill.single &= kill.shortages == shortage::changes();
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

    /// After single kills: until the host said that all symbols are back.
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
                // Not when it was killed once more before.
                && kills.get(index + 1).is_none_or(|next| kill.at + longest < next.at)
            {
                away.used.add(longest);
            }
        }
        away
    }
}

/// Times from a kill to the failure of a call that was under way.
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
    /// The same as `restored` where it was killed before it had been restored:
    /// with the pause that the host makes between two crashes.
    pub(crate) after_start: Times,
}
