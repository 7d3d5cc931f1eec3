//! The restart policy of a crashed process: backoff with jitter, and a breaker
//! that ends a crash loop. Without clock or process: the caller reports events
//! and their instants.
//!
//! A host uses it for its plugins, a plugin's own supervisor for its worker.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use ekuiper_core::restart::{Crashes, RestartPolicy, Verdict};
//!
//! let mut crashes = Crashes::new(RestartPolicy::default());
//! let now = Instant::now();
//! crashes.started(now);
//! assert_eq!(crashes.crashed(now, 0.5), Verdict::After(Duration::ZERO));
//! assert_eq!(crashes.crashed(now, 0.0), Verdict::After(Duration::from_millis(100)));
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::instant::FAR;

/// The backoff and the breaker of restarts after crashes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RestartPolicy {
    /// Pause before the second of several restarts in a row; the first one is
    /// immediate. The pause doubles with each restart. Default: 100 ms.
    pub first_pause: Duration,
    /// Maximum pause. Default: 10 s.
    pub max_pause: Duration,
    /// Random share of a pause, from 0 to 1, so that processes that crashed
    /// together do not restart together. Default: 0.2.
    pub jitter: f64,
    /// Time that a process must run to count as recovered. Default: 10 s.
    pub stable_after: Duration,
    /// Number of crashes within [`break_window`](Self::break_window) that opens
    /// the breaker. Default: 5; 0: never.
    pub break_after: u32,
    /// Window in which crashes count for the breaker. Default: 60 s.
    pub break_window: Duration,
    /// Time for which an open breaker stays open before one more restart is
    /// tried. Default: 30 s.
    pub break_pause: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(100),
            max_pause: Duration::from_secs(10),
            jitter: 0.2,
            stable_after: Duration::from_secs(10),
            break_after: 5,
            break_window: Duration::from_secs(60),
            break_pause: Duration::from_secs(30),
        }
    }
}

/// The decision after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Restart the process after this pause.
    After(Duration),
    /// The breaker is open: wait this long, then restart once.
    Broken(Duration),
}

/// The crash history of one process.
#[derive(Debug)]
pub struct Crashes {
    policy: RestartPolicy,
    /// Crashes within the window.
    recent: VecDeque<Instant>,
    /// Crashes since the process last counted as recovered.
    in_a_row: u32,
    started: Option<Instant>,
}

impl Crashes {
    /// Creates an empty history.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, recent: VecDeque::new(), in_a_row: 0, started: None }
    }

    /// Records that the process runs.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Records that the process crashed or could not be restarted, and decides
    /// what to do. `chance` is a random number from 0 to 1.
    pub fn crashed(&mut self, now: Instant, chance: f64) -> Verdict {
        let ran = self.started.take().map(|started| now.saturating_duration_since(started));
        if ran.is_some_and(|ran| ran >= self.policy.stable_after) {
            self.reset();
        }
        self.recent.retain(|crash| now.saturating_duration_since(*crash) < self.policy.break_window);
        self.recent.push_back(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let limit = self.policy.break_after as usize;
        if limit > 0 && self.recent.len() >= limit {
            return Verdict::Broken(self.policy.break_pause);
        }
        Verdict::After(self.pause(chance))
    }

    /// Forgets all crashes, which closes the breaker.
    pub fn reset(&mut self) {
        self.recent.clear();
        self.in_a_row = 0;
    }

    fn pause(&self, chance: f64) -> Duration {
        let Some(doublings) = self.in_a_row.checked_sub(2) else { return Duration::ZERO };
        let pause = self.policy.first_pause.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
        let jitter = self.policy.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0);
        // An unbounded one multiplied by 1 would be too long.
        pause.min(self.policy.max_pause).min(FAR).mul_f64(1.0 - jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn crashes() -> (Crashes, Instant) {
        (Crashes::new(RestartPolicy::default()), Instant::now())
    }

    #[test]
    fn the_first_restart_is_at_once_and_pauses_double() {
        let policy = RestartPolicy { break_after: 0, ..RestartPolicy::default() };
        let (mut crashes, now) = (Crashes::new(policy), Instant::now());
        let pauses: Vec<_> = (0..10)
            .map(|_| match crashes.crashed(now, 0.0) {
                Verdict::After(pause) => pause.as_millis(),
                Verdict::Broken(_) => panic!("the breaker is off"),
            })
            .collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        // Any number of crashes: no overflow.
        for _ in 0..200 {
            crashes.crashed(now, 0.0);
        }
    }

    #[test]
    fn chance_shortens_a_pause_by_the_jitter_at_most() {
        let (mut crashes, now) = crashes();
        crashes.crashed(now, 1.0);
        assert_eq!(crashes.crashed(now, 1.0), Verdict::After(Duration::from_millis(80)));
    }

    #[test]
    fn a_crash_loop_opens_the_breaker_and_one_try_at_a_time_follows() {
        let (mut crashes, mut now) = crashes();
        for _ in 0..4 {
            crashes.started(now);
            now += SECOND;
            assert!(matches!(crashes.crashed(now, 0.0), Verdict::After(_)));
        }
        crashes.started(now);
        now += SECOND;
        assert_eq!(crashes.crashed(now, 0.0), Verdict::Broken(30 * SECOND));
        // The one restart after the pause fails: the breaker opens again.
        now += 30 * SECOND;
        assert_eq!(crashes.crashed(now, 0.0), Verdict::Broken(30 * SECOND));
        // A manual reset.
        crashes.reset();
        assert_eq!(crashes.crashed(now, 0.0), Verdict::After(Duration::ZERO));
    }

    #[test]
    fn who_has_run_for_long_has_recovered() {
        let (mut crashes, mut now) = crashes();
        for _ in 0..100 {
            crashes.started(now);
            now += 10 * SECOND;
            assert_eq!(crashes.crashed(now, 0.0), Verdict::After(Duration::ZERO));
        }
    }

    #[test]
    fn crashes_long_apart_are_no_loop() {
        let policy = RestartPolicy { stable_after: 1000 * SECOND, ..RestartPolicy::default() };
        let (mut crashes, mut now) = (Crashes::new(policy), Instant::now());
        for _ in 0..20 {
            crashes.started(now);
            now += 20 * SECOND;
            assert!(matches!(crashes.crashed(now, 0.0), Verdict::After(_)));
        }
    }
}
