//! Who may use a channel: one caller after the other, each waiting no longer
//! than its deadline.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::site::lock;

/// A lock that is waited for until a deadline.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    state: Mutex<State>,
    is_free: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// How many wait: where nobody does, nobody is woken, which would be a
    /// system call.
    waiting: usize,
}

impl Turn {
    /// The turn; `None` when others have it until the deadline.
    pub(crate) fn take(&self, deadline: Instant) -> Option<Taken<'_>> {
        let mut state = lock(&self.state);
        while state.is_taken {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state.waiting += 1;
            state = self.is_free.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        state.is_taken = true;
        Some(Taken(self))
    }
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a>(&'a Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.is_taken = false;
        let somebody_waits = state.waiting > 0;
        drop(state);
        if somebody_waits {
            self.0.is_free.notify_one();
        }
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
