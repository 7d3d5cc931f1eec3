//! A post: one thread that uses one symbol of a plugin, its orders, and its
//! progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::target::Target;

/// What a post uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A function that answers at once.
    Fast,
    /// A slow function: a call is nearly always in flight.
    Slow,
    /// A sink with acknowledgements.
    Sink,
    /// A source.
    Source,
    /// Many functions, so that there is much to restore.
    Many,
    /// A sink shared by several threads.
    Crowd,
    /// Sinks without acknowledgements, closed while there is much to collect.
    SlowSink,
    /// Sources that end by themselves.
    EndingSource,
    /// Many calls at a time, of a task.
    TaskCalls,
    /// A sink with acknowledgements, of a task.
    TaskSink,
    /// A source, of a task.
    TaskSource,
}

impl Role {
    /// Returns whether a task of the engine on tasks has the post.
    pub(crate) fn is_task(self) -> bool {
        matches!(self, Self::TaskCalls | Self::TaskSink | Self::TaskSource)
    }
}

/// Posts of each plugin; first those that are always active.
pub(crate) const ROLES: [Role; 13] = [
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
    Role::TaskCalls,
    Role::TaskSink,
    Role::TaskSource,
];

/// Number of posts that are always active.
pub(crate) const STEADY: usize = 6;

/// State of a post; see the module.
pub(crate) struct Post {
    pub(crate) target: Arc<Target>,
    pub(crate) role: Role,
    pub(crate) index: usize,
    began: Instant,
    /// Milliseconds from `began` to the start of the current wait, plus one; 0
    /// without a wait.
    waits_since: AtomicU64,
    /// Milliseconds from `began` to the last success, plus one.
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

    /// Returns the post's name for people.
    pub(crate) fn name(&self) -> String {
        format!("{} {:?} {}", self.target.who, self.role, self.index)
    }

    fn since_beginning(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_millis() as u64 + 1
    }

    /// Marks the start of a wait.
    pub(crate) fn waits(&self) -> Waiting<'_> {
        self.waits_since.store(self.since_beginning(Instant::now()), Ordering::SeqCst);
        Waiting(self)
    }

    /// Returns the duration of the current wait.
    pub(crate) fn has_waited(&self) -> Duration {
        match self.waits_since.load(Ordering::SeqCst) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.since_beginning(Instant::now()).saturating_sub(since)),
        }
    }

    /// Records a success that began at `started`, in the process `pid` if that
    /// is known.
    pub(crate) fn succeeds(&self, started: Instant, pid: Option<u32>, seen: &mut usize) {
        self.succeeded.store(self.since_beginning(started), Ordering::SeqCst);
        self.target.used(self.index, started, pid, seen);
    }

    /// Returns whether something that began after `at` has succeeded.
    pub(crate) fn has_succeeded_since(&self, at: Instant) -> bool {
        self.succeeded.load(Ordering::SeqCst) > self.since_beginning(at)
    }

    /// Orders the post to close its handle and open it again.
    pub(crate) fn tell_to_reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_to_reopen(&self) -> bool {
        self.reopen.swap(false, Ordering::SeqCst)
    }

    /// Orders the post, or its sink, to pause once, for this many milliseconds.
    pub(crate) fn tell_to_pause(&self, millis: u64) {
        self.pause.store(millis, Ordering::SeqCst);
    }

    pub(crate) fn pause(&self) -> u64 {
        self.pause.swap(0, Ordering::SeqCst)
    }
}

/// Guard of a waiting post.
pub(crate) struct Waiting<'a>(&'a Post);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waits_since.store(0, Ordering::SeqCst);
    }
}
