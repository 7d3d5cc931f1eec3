//! One process of a pool: the calls that it has, and how many it may have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Wake;
use std::time::{Duration, Instant};

use ekuiper_transport_ipc::wait::deadline_after;

use super::call::Entry;
use super::dispatch::Pool;
use crate::Error;
use crate::function::command::Command;
use crate::function::pipeline::Pipeline;
use crate::function::route::FunctionConnection;
use crate::plugin::Plugin;
use crate::plugin::members::Member;

/// How much work a process is given at a time: long against the time that a
/// message takes, short against what an engine notices.
const WORK: Duration = Duration::from_millis(1);

/// Time after which a process that has done none of its work is known to be
/// slow: the calls that it was given and that were not sent are taken back.
const STALL: Duration = Duration::from_millis(10);

/// Maximum number of calls that a process is given at a time.
const MAX_CALLS: usize = 1024;

/// Number of calls after which earlier ones count half.
const MEMORY: u32 = 64;

/// Pause before a start that has failed is tried again; doubles up to
/// [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A process of a pool.
pub(super) struct Lane {
    pub(super) phase: Phase,
    /// The path to the process, once it has been started.
    pub(super) pipeline: Option<Arc<Pipeline>>,
    /// Keeps a further process.
    pub(super) member: Option<Arc<Member>>,
    /// Woken by the pipeline.
    pub(super) watcher: Arc<Watcher>,
    /// Calls that it has, until their messages are answered.
    pub(super) given: Vec<Given>,
    /// It has not answered in time, and may still be executing that call.
    pub(super) is_hung: bool,
    /// Calls were taken back since it has last done some of its work.
    has_stalled: bool,
    /// Number of starts in a row that have failed.
    failures: u32,
    /// Maximum number of calls, which doubles each time that it is reached: how
    /// long the next ones take is only a guess.
    limit: usize,
    /// How long the last calls have taken, and their number.
    work: Duration,
    calls: u32,
    /// When it was given work, or has last done some.
    mark: Instant,
}

/// What can be done with a process.
pub(super) enum Phase {
    /// It is started when calls wait for it.
    Idle,
    /// A thread starts it, or waits for its restart.
    Connecting { is_restart: bool },
    /// It has been connected.
    Ready,
    /// It could not be started, in an attempt that began at `since`.
    Failed { error: Error, since: Instant, retry_at: Instant },
}

/// A call that a process has.
pub(super) struct Given {
    pub(super) entry: Arc<Entry>,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) command: Arc<Command>,
    pub(super) row: usize,
    /// The caller has the outcome; the process may still be executing it.
    pub(super) is_told: bool,
}

/// Tells the pool that something has happened to the calls of a process.
pub(super) struct Watcher {
    pub(super) pool: Weak<Pool>,
    pub(super) has_news: AtomicBool,
}

impl Wake for Watcher {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(pool) = self.pool.upgrade() {
            self.has_news.store(true, Ordering::SeqCst);
            pool.advance();
        }
    }
}

impl Lane {
    pub(super) fn new(pool: Weak<Pool>) -> Self {
        Self {
            phase: Phase::Idle,
            pipeline: None,
            member: None,
            watcher: Arc::new(Watcher { pool, has_news: AtomicBool::new(false) }),
            given: Vec::new(),
            is_hung: false,
            has_stalled: false,
            failures: 0,
            limit: 1,
            work: Duration::ZERO,
            calls: 0,
            mark: Instant::now(),
        }
    }

    /// Returns the function's connection, if the process can be called.
    pub(super) fn usable(&self) -> Option<FunctionConnection> {
        match self.phase {
            Phase::Ready => self.pipeline.as_ref()?.route.usable(),
            _ => None,
        }
    }

    /// Returns whether the process, which has been connected, is started only
    /// when it is needed: it was stopped, or updated.
    pub(super) fn is_stopped(&self, first: &Plugin) -> bool {
        let plugin = self.member.as_ref().map_or(first, |member| member.plugin());
        matches!(self.phase, Phase::Ready) && plugin.is_idle()
    }

    /// Returns whether a start that has failed is to be tried again: the pause is
    /// over, or the process has been restarted, reset or updated meanwhile.
    pub(super) fn may_be_retried(&self, first: &Plugin, now: Instant) -> bool {
        let plugin = self.member.as_ref().map_or(first, |member| member.plugin());
        match &self.phase {
            Phase::Failed { since, retry_at, .. } => *retry_at <= now || plugin.has_recovered_since(*since),
            _ => false,
        }
    }

    /// Returns how many calls it may have at a time: one, unless they are short.
    pub(super) fn room(&self) -> usize {
        let each = self.work.as_nanos() / u128::from(self.calls.max(1));
        usize::try_from(WORK.as_nanos() / each.max(1)).unwrap_or(MAX_CALLS).clamp(1, self.limit)
    }

    pub(super) fn has_room(&self) -> bool {
        self.given.len() < self.room()
    }

    /// Adds a call that it was given at this time.
    pub(super) fn add(&mut self, given: Given, since: Instant) {
        if self.given.is_empty() {
            self.mark = since;
        }
        self.given.push(given);
    }

    /// Returns when the process is known to be slow, if other calls wait behind
    /// the one that it executes.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        (self.given.len() > 1 && !self.has_stalled).then(|| self.mark + STALL)
    }

    /// Records that the process is slow; returns its pipeline, which takes calls
    /// back.
    pub(super) fn stall(&mut self, now: Instant) -> Option<Arc<Pipeline>> {
        self.has_stalled = true;
        // From now on one call at a time, until calls are short again.
        (self.work, self.calls, self.limit) = (now - self.mark, 1, 1);
        self.pipeline.clone()
    }

    /// Returns the calls that have an outcome which their callers do not know,
    /// and forgets those whose messages are answered.
    pub(super) fn reap(&mut self) -> Vec<Given> {
        let (mut news, mut done) = (Vec::new(), 0);
        let is_full = self.given.len() >= self.limit;
        for mut given in std::mem::take(&mut self.given) {
            let is_settled = given.command.is_settled();
            let is_news = !given.is_told && (is_settled || given.command.is_over(given.row));
            done += u32::from(is_settled);
            match (is_settled, is_news) {
                (true, true) => news.push(given),
                (true, false) => {}
                (false, is_news) => {
                    if is_news {
                        given.is_told = true;
                        news.push(given.copy());
                    }
                    self.given.push(given);
                }
            }
        }
        if done > 0 {
            let now = Instant::now();
            (self.has_stalled, self.is_hung) = (false, false);
            self.work += now - std::mem::replace(&mut self.mark, now);
            self.calls += done;
            if is_full {
                self.limit = (2 * self.limit).min(MAX_CALLS);
            }
            while self.calls > MEMORY {
                (self.work, self.calls) = (self.work / 2, self.calls / 2);
            }
        }
        news
    }

    /// Records that the process can be called.
    pub(super) fn connected(&mut self, pipeline: Arc<Pipeline>) {
        (self.phase, self.failures) = (Phase::Ready, 0);
        self.pipeline = Some(pipeline);
    }

    /// Records that the process cannot be started, or is not back yet, as an
    /// attempt found that began at `since`: it may have been reset meanwhile.
    pub(super) fn failed(&mut self, error: Error, since: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(MAX_PAUSE);
        self.failures += 1;
        self.phase = Phase::Failed { error, since, retry_at: deadline_after(pause) };
    }
}

impl Given {
    fn copy(&self) -> Self {
        let Self { entry, pipeline, command, row, is_told } = self;
        Self {
            entry: entry.clone(),
            pipeline: pipeline.clone(),
            command: command.clone(),
            row: *row,
            is_told: *is_told,
        }
    }
}
