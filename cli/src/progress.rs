//! Live counters on stderr, if it is a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::console;

/// Minimum time between two redraws.
const INTERVAL: Duration = Duration::from_millis(100);

/// A line of counters that is redrawn in place.
#[derive(Debug)]
pub(crate) struct Progress {
    visible: bool,
    started: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { visible: std::io::stderr().is_terminal() && !console::is_dumb(), started: Instant::now(), drawn: None }
    }

    /// Starts without a line of counters.
    pub(crate) fn hidden() -> Self {
        Self { visible: false, started: Instant::now(), drawn: None }
    }

    /// Returns whether the line is drawn at all.
    pub(crate) fn is_visible(&self) -> bool {
        self.visible
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Redraws the counters, unless the line is on the screen and recent.
    pub(crate) fn update(&mut self, text: impl FnOnce(Duration) -> String) {
        let is_due = || self.drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL) || !console::has_counters();
        if self.visible && is_due() {
            self.drawn = Some(Instant::now());
            console::counters(&text(self.started.elapsed()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        console::clear_counters();
    }
}

/// Formats `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of things: `1 error`, `1,234 errors`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Returns the rate per second; 0 when no time has passed.
pub(crate) fn rate(count: u64, elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { (count as f64 / seconds).round() as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "row"), counted(1000, "row")], ["1 row", "1,000 rows"]);
        assert_eq!(rate(10, Duration::from_millis(500)), 20);
        assert_eq!(rate(10, Duration::ZERO), 0);
    }
}
