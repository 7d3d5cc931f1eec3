//! The only way to lock a mutex in this crate, and the only way to wake a task.
//! A lock that is held during a wait is a
//! [`DeadlineLock`](ekuiper_transport_ipc::lock::DeadlineLock).

pub(crate) use ekuiper_core::sync::lock;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ekuiper_core::sync;
use ekuiper_core::throttle::Throttle;

use crate::blocking;

/// Waits for a notification, for at most `time`; see [`sync::wait`].
#[inline]
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, time: Option<Duration>) -> MutexGuard<'a, T> {
    blocking::check();
    sync::wait(condvar, guard, time)
}

/// Waits while `condition` holds, for at most `time`.
#[inline]
pub(crate) fn wait_while<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    blocking::check();
    sync::wait_while(condvar, guard, time, condition)
}

/// Wakes tasks. A waker is code of the engine's runtime: one that panics must
/// neither end a thread of the host, nor keep others from being woken.
pub(crate) fn wake_tasks(wakers: impl IntoIterator<Item = Waker>) {
    static PANICS: Throttle = Throttle::new();
    for waker in wakers {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err()
            && let Some(others) = PANICS.pass(Instant::now())
        {
            tracing::error!(others, "the waker of a task panicked: the task may not be polled again");
        }
    }
}

/// A condition variable for threads and for one task: a later task's waker
/// replaces the former one's. A handle is polled by one task at a time.
#[derive(Default)]
pub(crate) struct Changed {
    condvar: Condvar,
    task: Mutex<Option<Waker>>,
}

impl Changed {
    /// Wakes all threads that wait, and the task.
    pub(crate) fn notify_all(&self) {
        self.condvar.notify_all();
        let task = lock(&self.task).take();
        wake_tasks(task);
    }

    /// Waits for a notification, for at most `time`.
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>, time: Option<Duration>) -> MutexGuard<'a, T> {
        wait(&self.condvar, guard, time)
    }

    /// Has `waker` woken by the next notification.
    pub(crate) fn register_task(&self, waker: &Waker) {
        let former = lock(&self.task).replace(waker.clone());
        // Its drop may run anything, so not under the lock.
        drop(former);
    }
}

/// Number of items in a row after which other tasks have a turn.
const TURN: u32 = 128;

/// What a task does in a row, where it needs to wait for nothing: an executor
/// gives others a turn only when it waits.
#[derive(Default)]
pub(crate) struct InARow(u32);

impl InARow {
    /// Lets other tasks have a turn if this one has had its own.
    pub(crate) fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.0 < TURN {
            return Poll::Ready(());
        }
        self.0 = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts one item, unless the task waits for it.
    pub(crate) fn count<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        self.0 = if polled.is_ready() { self.0 + 1 } else { 0 };
        polled
    }
}

/// Has one thread at a time do what several may ask for. No thread waits for
/// its turn: the one that has it does the others' work.
#[derive(Default)]
pub(crate) struct Turns {
    /// Number of requests that are not dealt with.
    asked: AtomicUsize,
}

impl Turns {
    /// Calls `work`, once more for requests made meanwhile, unless another
    /// thread does that.
    pub(crate) fn take(&self, mut work: impl FnMut()) {
        if self.asked.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        // If the work panics, the next request is dealt with.
        let unwinding = Unwinding(&self.asked);
        let mut seen = 1;
        loop {
            work();
            match self.asked.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return std::mem::forget(unwinding),
                Err(now) => seen = now,
            }
        }
    }
}

/// Lets another thread have the turn after a panic in this one.
struct Unwinding<'a>(&'a AtomicUsize);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}
