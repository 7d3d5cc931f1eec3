//! Turns of tasks: how long each has kept the executor from the others, and why.
//! A turn that neither computes nor blocks is long only where its thread waits
//! for a processor.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::timing::Times;

/// Duration from which a turn is a stall of the executor.
pub(crate) const STALL: Duration = Duration::from_millis(5);

/// The turns of all tasks.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Summary>);

/// What the turns were like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Turns in which the task gave its processor back: it slept, or waited for
    /// a lock, another thread, or a disk.
    pub(crate) blocked: Times,
    /// Turns in which the thread was executed for [`STALL`].
    pub(crate) computed: Times,
    /// Other turns of at least [`STALL`]: their thread waited for a processor.
    pub(crate) waited: Times,
    /// All turns.
    pub(crate) count: u64,
    /// The task and the duration of the longest that has blocked.
    pub(crate) longest: Option<(String, Duration)>,
}

impl Turns {
    pub(crate) fn summary(&self) -> Summary {
        lock(&self.0).clone()
    }

    fn add(&self, task: &str, took: Duration, used: &Used) {
        let mut summary = lock(&self.0);
        summary.count += 1;
        if used.blocks > 0 {
            summary.blocked.add(took);
            if summary.longest.as_ref().is_none_or(|(_, longest)| took > *longest) {
                summary.longest = Some((task.to_owned(), took));
            }
        } else if used.executed >= STALL {
            summary.computed.add(took);
        } else if took >= STALL {
            summary.waited.add(took);
        }
    }
}

/// A task whose turns are measured.
pub(crate) struct Measured<'a, F> {
    pub(crate) task: Pin<Box<F>>,
    pub(crate) name: String,
    pub(crate) turns: &'a Turns,
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (began, before) = (Instant::now(), Used::now());
        let polled = self.task.as_mut().poll(cx);
        let took = began.elapsed();
        self.turns.add(&self.name, took, &Used::now().since(&before));
        polled
    }
}

/// What the kernel has counted of a thread.
struct Used {
    executed: Duration,
    /// How often it has given its processor back.
    blocks: i64,
}

impl Used {
    fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread may read its own usage");
        let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let executed = Duration::from_micros(u64::try_from(microseconds).unwrap_or_default());
        Self { executed, blocks: usage.voluntary_context_switches() }
    }

    fn since(&self, before: &Self) -> Self {
        Self { executed: self.executed.saturating_sub(before.executed), blocks: self.blocks - before.blocks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn summary_of(turn: impl Fn()) -> Summary {
        let turns = Turns::default();
        let task = Box::pin(poll_fn(|_| {
            turn();
            Poll::Ready(())
        }));
        futures::executor::block_on(Measured { task, name: "a task".into(), turns: &turns });
        turns.summary()
    }

    #[test]
    fn a_turn_that_sleeps_has_blocked() {
        let summary = summary_of(|| std::thread::sleep(STALL));
        let (task, took) = summary.longest.unwrap();
        assert_eq!((task.as_str(), summary.blocked.count(), summary.count), ("a task", 1, 1));
        assert!(took >= STALL);
    }

    #[test]
    fn a_turn_that_computes_has_not() {
        let summary = summary_of(|| {
            let before = Used::now();
            while Used::now().since(&before).executed < STALL * 2 {}
        });
        assert_eq!((summary.blocked.count(), summary.computed.count()), (0, 1));
    }
}
