//! Times, their distribution, and the promises about them.

use std::time::Duration;

/// Multiple of a promised time beyond which the command fails. Below it, the
/// report says whether the promise held: a machine under other load may itself
/// be late.
pub const LENIENCE: u32 = 10;

/// Times of one kind.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Returns the times of both.
    pub fn join(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Returns the number of times.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns how many times are longer than this.
    pub fn above(&self, limit: Duration) -> usize {
        self.0.iter().filter(|time| **time > limit).count()
    }

    /// Returns the time that this part of them, from 0 to 1, does not exceed;
    /// zero without times.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
    }

    /// Returns p50, p99 and the maximum.
    pub fn summary(&self) -> [Duration; 3] {
        [0.5, 0.99, 1.0].map(|part| self.quantile(part))
    }
}

/// Returns a time in milliseconds.
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
