//! Rate limit for repeated log lines (fault 20: 407 MB of log in five minutes).
//!
//! Every warning and error that a peer can cause passes a [`Throttle`], one for
//! each kind of line: a peer that repeats something a thousand times a second
//! writes one line a second to this process's log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Minimum time between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets a line pass at most once a second, and counts the suppressed ones.
///
/// ```
/// use std::time::{Duration, Instant};
/// use ekuiper_core::throttle::Throttle;
///
/// static REFUSED: Throttle = Throttle::new();
/// let now = Instant::now();
/// assert_eq!(REFUSED.pass(now), Some(0));
/// assert_eq!(REFUSED.pass(now), None);
/// assert_eq!(REFUSED.pass(now + Duration::from_secs(1)), Some(1));
/// ```
#[derive(Debug, Default)]
pub struct Throttle(Mutex<ThrottleState>);

#[derive(Debug, Default)]
struct ThrottleState {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// Creates a throttle that has not let any line pass.
    pub const fn new() -> Self {
        Self(Mutex::new(ThrottleState { last: None, held_back: 0 }))
    }

    /// Returns how many lines were suppressed since the last one if the line
    /// may be written now, `None` otherwise.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_with_the_number_of_the_others() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.pass(start), Some(0));
        for _ in 0..5 {
            assert_eq!(throttle.pass(start + PAUSE / 2), None);
        }
        assert_eq!(throttle.pass(start + PAUSE), Some(5));
        assert_eq!(throttle.pass(start + PAUSE * 3), Some(0));
    }
}
