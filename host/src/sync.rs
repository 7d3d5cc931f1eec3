//! The only way to lock a mutex in this crate. A lock that is held during a
//! wait is a [`DeadlineLock`](ekuiper_transport_ipc::lock::DeadlineLock).

pub(crate) use ekuiper_core::sync::{lock, wait, wait_while};

use std::sync::{Condvar, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

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
        task.into_iter().for_each(Waker::wake);
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
