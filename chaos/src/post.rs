//! A post: one thread that uses one symbol of a plugin, what it is told to do,
//! and whether it gets on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::target::Target;

/// What it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A function that answers at once.
    Fast,
    /// One that takes its time: there is nearly always a call under way.
    Slow,
    /// A sink with acknowledgements.
    Sink,
    /// A source.
    Source,
    /// Many functions, so that there is much to restore.
    Many,
    /// A sink that several threads share.
    Crowd,
    /// Sinks without acknowledgements, closed while there is much to collect.
    SlowSink,
    /// Sources that end by themselves.
    EndingSource,
}

/// Those who use each plugin; first those who do so all the time.
pub(crate) const ROLES: [Role; 10] = [
    Role::Fast,
    Role::Fast,
    Role::Slow,
    Role::Sink,
    Role::Sink,
    Role::Source,
    Role::Many,
    Role::Crowd,
    Role::SlowSink,
    Role::EndingSource,
];

/// How many of them use it all the time.
pub(crate) const STEADY: usize = 6;

/// See the module.
pub(crate) struct Post {
    pub(crate) target: Arc<Target>,
    pub(crate) role: Role,
    pub(crate) index: usize,
    began: Instant,
    /// Milliseconds from `began` to the start of what it waits for now, plus
    /// one; 0: it does not wait.
    waits_since: AtomicU64,
    /// The same, of its last success.
    succeeded: AtomicU64,
    reopen: AtomicBool,
    pause: AtomicU64,
    pub(crate) over: AtomicBool,
}

impl Post {
    pub(crate) fn all(targets: &[Arc<Target>]) -> Vec<Arc<Self>> {
        let began = Instant::now();
        let posts = |target: &Arc<Target>| {
            let target = target.clone();
            ROLES.into_iter().enumerate().map(move |(index, role)| {
                Arc::new(Self {
                    target: target.clone(),
                    role,
                    index,
                    began,
                    waits_since: AtomicU64::new(0),
                    succeeded: AtomicU64::new(0),
                    reopen: AtomicBool::new(false),
                    pause: AtomicU64::new(0),
                    over: AtomicBool::new(false),
                })
            })
        };
        targets.iter().flat_map(posts).collect()
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        format!("{} {:?} {}", self.target.who, self.role, self.index)
    }

    fn since_beginning(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_millis() as u64 + 1
    }

    /// Something is waited for.
    pub(crate) fn waits(&self) -> Waiting<'_> {
        self.waits_since.store(self.since_beginning(Instant::now()), Ordering::SeqCst);
        Waiting(self)
    }

    /// For how long it has waited.
    pub(crate) fn has_waited(&self) -> Duration {
        match self.waits_since.load(Ordering::SeqCst) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.since_beginning(Instant::now()).saturating_sub(since)),
        }
    }

    /// What began at `started` was done by the process `pid`, if that is known.
    pub(crate) fn succeeds(&self, started: Instant, pid: Option<u32>, seen: &mut usize) {
        self.succeeded.store(self.since_beginning(started), Ordering::SeqCst);
        self.target.used(self.index, started, pid, seen);
    }

    /// Whether it did something with success that it began after `at`.
    pub(crate) fn has_succeeded_since(&self, at: Instant) -> bool {
        self.succeeded.load(Ordering::SeqCst) > self.since_beginning(at)
    }

    /// It is to close its handle and to open it again.
    pub(crate) fn tell_to_reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_to_reopen(&self) -> bool {
        self.reopen.swap(false, Ordering::SeqCst)
    }

    /// It, or its sink, is to pause once, for so many milliseconds.
    pub(crate) fn tell_to_pause(&self, millis: u64) {
        self.pause.store(millis, Ordering::SeqCst);
    }

    pub(crate) fn pause(&self) -> u64 {
        self.pause.swap(0, Ordering::SeqCst)
    }
}

/// Until it is dropped, the post waits.
pub(crate) struct Waiting<'a>(&'a Post);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waits_since.store(0, Ordering::SeqCst);
    }
}
