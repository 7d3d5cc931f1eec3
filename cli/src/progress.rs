//! Live counters on stderr, when it is a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::console;

/// How often the line is drawn again at most.
const INTERVAL: Duration = Duration::from_millis(100);

/// A line that is drawn over itself.
#[derive(Debug)]
pub(crate) struct Progress {
    visible: bool,
    started: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { visible: std::io::stderr().is_terminal(), started: Instant::now(), drawn: None }
    }

    /// Whether it is drawn at all.
    pub(crate) fn is_visible(&self) -> bool {
        self.visible
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Draws the counters, unless they stand there and that was done a moment
    /// ago.
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

/// `1234567` as `1,234,567`.
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

/// Per second; 0 when no time has passed.
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
        assert_eq!(rate(10, Duration::from_millis(500)), 20);
        assert_eq!(rate(10, Duration::ZERO), 0);
    }
}
