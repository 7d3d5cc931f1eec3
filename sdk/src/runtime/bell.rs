//! The wakeup of the control thread, which waits for its symbols and for the
//! plugin's shutdown.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use ekuiper_core::sync::{lock, wait};

/// A wakeup, rung by each thread that changes a state for which the control
/// thread waits.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Whether the plugin is shutting down.
    ending: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        lock(&self.ending)
    }

    /// Wakes the waiting thread to check its condition again.
    pub(super) fn ring(&self) {
        // Under the lock, so that no wakeup is lost between a check and a wait.
        let _ending = self.lock();
        self.rung.notify_all();
    }

    /// Marks the plugin as shutting down, which ends all waits with
    /// [`Heed::End`].
    pub(super) fn end(&self) {
        *self.lock() = true;
        self.rung.notify_all();
    }

    pub(super) fn is_ending(&self) -> bool {
        *self.lock()
    }

    /// Waits until `done` returns true, and returns true. Returns false at
    /// `deadline`, or, with [`Heed::End`], when the plugin shuts down.
    pub(super) fn wait(&self, deadline: Instant, heed: Heed, mut done: impl FnMut() -> bool) -> bool {
        let mut ending = self.lock();
        loop {
            if done() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (*ending && heed == Heed::End) {
                return false;
            }
            ending = wait(&self.rung, ending, Some(left));
        }
    }
}

/// The event that ends a wait besides its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heed {
    /// The plugin's shutdown.
    End,
    /// No event: the wait is part of the shutdown.
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wait_ends_with_its_event_its_deadline_or_the_end() {
        let bell = Bell::default();
        let soon = || Instant::now() + Duration::from_secs(20);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| bell.wait(soon(), Heed::End, || done.load(Ordering::SeqCst)));
            done.store(true, Ordering::SeqCst);
            bell.ring();
            assert!(waiter.join().unwrap());
            assert!(!bell.wait(Instant::now(), Heed::End, || false));
            let waiter = scope.spawn(|| bell.wait(soon(), Heed::End, || false));
            bell.end();
            assert!(!waiter.join().unwrap());
            let waiter = scope.spawn(|| bell.wait(soon(), Heed::Nothing, || !done.load(Ordering::SeqCst)));
            done.store(false, Ordering::SeqCst);
            bell.ring();
            assert!(waiter.join().unwrap(), "the end itself may be waited in");
        });
    }
}
