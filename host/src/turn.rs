//! Who may use a channel: one caller after the other, each waiting no longer
//! than its deadline.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::site::lock;

/// A lock that is waited for until a deadline.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    is_taken: Mutex<bool>,
    is_free: Condvar,
}

impl Turn {
    /// The turn; `None` when others have it until the deadline.
    pub(crate) fn take(&self, deadline: Instant) -> Option<Taken<'_>> {
        let mut is_taken = lock(&self.is_taken);
        while *is_taken {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            is_taken = self.is_free.wait_timeout(is_taken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *is_taken = true;
        Some(Taken(self))
    }
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a>(&'a Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_taken) = false;
        self.0.is_free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_at_a_time_and_nobody_waits_for_ever() {
        let turn = Turn::default();
        let first = turn.take(Instant::now()).unwrap();
        assert!(turn.take(Instant::now() + Duration::from_millis(5)).is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| turn.take(Instant::now() + Duration::from_secs(60)).is_some());
            drop(first);
            assert!(second.join().unwrap());
        });
        assert!(turn.take(Instant::now()).is_some());
    }
}
