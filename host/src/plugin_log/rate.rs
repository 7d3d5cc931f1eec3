//! How many lines of a process are passed on, and how many are left out.

use std::time::{Duration, Instant};

/// Default number of lines per second.
pub(super) const DEFAULT: u64 = 1000;

/// Time within which that number of lines is passed on.
const WINDOW: Duration = Duration::from_secs(1);

/// Limit of one process's lines.
#[derive(Debug)]
pub(super) struct RateLimit {
    most: u64,
    window_ends: Option<Instant>,
    passed: u64,
    left_out: u64,
}

impl RateLimit {
    pub(super) fn new(most: u64) -> Self {
        Self { most, window_ends: None, passed: 0, left_out: 0 }
    }

    /// Returns whether a line is passed on; otherwise it is counted.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        if self.window_ends.is_none_or(|end| now >= end) {
            self.window_ends = Some(now + WINDOW);
            self.passed = 0;
        }
        let passes = self.passed < self.most;
        if passes {
            self.passed += 1;
        } else {
            self.left_out += 1;
        }
        passes
    }

    /// Counts lines that were left out for another reason.
    pub(super) fn leave_out(&mut self, lines: u64) {
        self.left_out += lines;
    }

    /// Returns the time at which the lines left out are to be told, if there are
    /// any.
    pub(super) fn report_due(&self) -> Option<Instant> {
        self.window_ends.filter(|_| self.left_out > 0)
    }

    /// Returns how many lines were left out since the last report. The next one
    /// is due a window later.
    pub(super) fn report(&mut self, now: Instant) -> u64 {
        self.window_ends = Some(now + WINDOW);
        self.passed = 0;
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_passed_on_or_counted() {
        let (start, mut limit) = (Instant::now(), RateLimit::new(2));
        let pass = |limit: &mut RateLimit, at: Duration| limit.pass(start + at);
        assert_eq!(limit.report_due(), None);
        assert_eq!([0, 0, 0, 0].map(|_| pass(&mut limit, Duration::ZERO)), [true, true, false, false]);
        assert_eq!(limit.report_due(), Some(start + WINDOW));
        assert_eq!(limit.report(start + WINDOW), 2);
        assert_eq!(limit.report_due(), None);
        assert!(pass(&mut limit, WINDOW));
        limit.leave_out(7);
        assert_eq!(limit.report(start + WINDOW * 2), 7);
    }

    #[test]
    fn a_window_ends_without_a_report() {
        let (start, mut limit) = (Instant::now(), RateLimit::new(1));
        assert!(limit.pass(start));
        assert!(limit.pass(start + WINDOW));
        assert!(!limit.pass(start + WINDOW));
    }
}
