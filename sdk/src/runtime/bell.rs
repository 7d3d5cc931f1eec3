//! Lets the control thread wait for its symbols, and for the plugin's end.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Rung by whoever has changed something that the control thread waits for.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// The plugin is to end.
    ending: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed.
    pub(super) fn ring(&self) {
        // Under the lock, so that it cannot come between a look and a wait.
        let _ending = self.lock();
        self.rung.notify_all();
    }

    /// The plugin is to end: waits that heed it are over.
    pub(super) fn end(&self) {
        *self.lock() = true;
        self.rung.notify_all();
    }

    pub(super) fn is_ending(&self) -> bool {
        *self.lock()
    }

    /// Waits until `done` is true; false when `deadline` comes first, or, for
    /// who heeds it, the plugin's end.
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
            ending = self.rung.wait_timeout(ending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What ends a wait besides its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heed {
    /// The plugin's end.
    End,
    /// Nothing: this wait is a part of that end.
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
