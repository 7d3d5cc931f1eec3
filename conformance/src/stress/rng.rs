//! Reproducible random numbers: splitmix64.

use std::time::Duration;

/// A random number generator.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// Creates the generator with this seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws the next number.
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.draw() % (high - low + 1)
    }

    /// Draws true in `percent` of 100 cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// Draws a time from zero to `most` milliseconds.
    pub(super) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.between(0, most * 1000))
    }

    /// Creates a separate generator for another thread.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.draw())
    }
}
