//! Instants at a distance that a user has set, of any length.

use std::time::{Duration, Instant};

/// Maximum distance of a deadline: an instant further away may not exist.
pub const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Returns the instant after this time, or after [`FAR`] if that is shorter.
pub fn later(at: Instant, time: Duration) -> Instant {
    // `FAR` is what an instant has room for, many times over.
    at + time.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_is_too_long() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        let mut at = now;
        for _ in 0..100 {
            at = later(at, Duration::MAX);
        }
        assert_eq!(at, now + 100 * FAR);
    }
}
