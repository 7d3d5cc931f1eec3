//! Times, their distribution, and the promises about them.

use std::time::Duration;

/// Beyond how many times a promised time the command fails. Below that, the
/// report says whether the promise held: a machine that others load at the
/// same time may be late by itself.
pub const LENIENCE: u32 = 10;

/// Times of one kind.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// All of two.
    pub fn join(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).copied().collect())
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this part of them, from 0 to 1, does not exceed; of none,
    /// zero.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
    }

    /// The usual three: p50, p99 and the longest.
    pub fn summary(&self) -> [Duration; 3] {
        [0.5, 0.99, 1.0].map(|part| self.quantile(part))
    }
}

/// A time in milliseconds.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let mut times = Times::default();
        assert_eq!(times.quantile(0.99), Duration::ZERO);
        (1..=200).rev().for_each(|time| times.add(Duration::from_millis(time)));
        assert_eq!(times.summary(), [100, 198, 200].map(Duration::from_millis));
    }
}
