//! How long calls and acknowledgements take, as a histogram.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use histogram::{AtomicHistogram, Bucket, Histogram};
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Buckets per power of two, as a power of two: a bucket is at most a sixteenth
/// of its values wide.
const GROUPING_POWER: u8 = 4;

/// Unit of all times, in nanoseconds: shorter ones differ by nothing that
/// matters.
pub(super) const UNIT: u64 = 64;

/// Power of two of the first value that is too long to be told apart: 18
/// minutes.
const MAX_POWER: u8 = 34;

const LONGEST: u64 = (1 << MAX_POWER) - 1;

/// The histogram of one symbol, recorded by any number of threads without a
/// lock. `hdrhistogram` is no choice for that: it records through `&mut`, and
/// its synchronized variant blocks whoever reads it.
pub(super) struct Recorder {
    buckets: AtomicHistogram,
    /// The longest time, in nanoseconds.
    max: AtomicU64,
}

impl Recorder {
    pub(super) fn new() -> Self {
        let buckets = AtomicHistogram::new(GROUPING_POWER, MAX_POWER);
        let buckets = buckets.unwrap_or_else(|_| unreachable!("the powers are in range"));
        Self { buckets, max: AtomicU64::new(0) }
    }

    /// Records a time, of this many rows.
    pub(super) fn record(&self, time: Duration, rows: u64) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Nothing is longer than the longest.
        let _ = self.buckets.add((nanoseconds / UNIT).min(LONGEST), rows);
        if nanoseconds > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(nanoseconds, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> Latency {
        let buckets = self.buckets.load();
        Latency { buckets, max: Duration::from_nanos(self.max.load(Ordering::Relaxed)) }
    }
}

/// Times of calls or acknowledgements since the symbol was opened, as a
/// histogram whose buckets are at most 6.25 % wide (64 ns below 1 µs).
///
/// Serialized as `count`, and `mean`, `p50`, `p90`, `p99`, `p999` and `max` in
/// seconds.
#[derive(Clone, PartialEq)]
pub struct Latency {
    buckets: Histogram,
    max: Duration,
}

impl Latency {
    /// Returns the number of times that were recorded.
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// Returns the time that this part of the rows (from 0 to 1) did not
    /// exceed: `quantile(0.99)` is the 99th percentile. At most 6.25 % (or 64
    /// ns) above the exact value, and zero if nothing was recorded.
    pub fn quantile(&self, part: f64) -> Duration {
        let bucket = self.buckets.quantile_bucket(part.clamp(0.0, 1.0)).ok().flatten();
        bucket.map_or(Duration::ZERO, |bucket| end(&bucket).min(self.max))
    }

    /// Returns the mean, as far as the buckets tell; zero if nothing was
    /// recorded.
    pub fn mean(&self) -> Duration {
        let count = self.count();
        if count == 0 { Duration::ZERO } else { Duration::from_secs_f64(self.sum().as_secs_f64() / count as f64) }
    }

    /// Returns the sum of all times, as far as the buckets tell.
    pub fn sum(&self) -> Duration {
        let middle = |bucket: &Bucket| (bucket.start() + bucket.end() + 1) as f64 / 2.0 * UNIT as f64;
        let nanoseconds: f64 = self.filled().map(|bucket| middle(&bucket) * bucket.count() as f64).sum();
        Duration::from_secs_f64(nanoseconds / 1e9)
    }

    /// Returns the longest time, exactly; zero if nothing was recorded.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// Returns the buckets that are not empty, from the shortest times to the
    /// longest: the upper bound of a bucket's times, and their number.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.filled().map(|bucket| (end(&bucket), bucket.count()))
    }

    /// Adds the times of another histogram.
    pub(super) fn add(&mut self, other: &Self) {
        // All have the same buckets.
        if let Ok(sum) = self.buckets.wrapping_add(&other.buckets) {
            self.buckets = sum;
        }
        self.max = self.max.max(other.max);
    }

    fn filled(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.buckets.iter().filter(|bucket| bucket.count() > 0)
    }
}

fn end(bucket: &Bucket) -> Duration {
    Duration::from_nanos((bucket.end() + 1) * UNIT)
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Latency");
        shown.field("count", &self.count());
        for (name, part) in PARTS {
            shown.field(name, &self.quantile(part));
        }
        shown.field("max", &self.max).finish()
    }
}

/// The quantiles that are shown.
const PARTS: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Latency", 3 + PARTS.len())?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("mean", &self.mean().as_secs_f64())?;
        for (name, part) in PARTS {
            fields.serialize_field(name, &self.quantile(part).as_secs_f64())?;
        }
        fields.serialize_field("max", &self.max.as_secs_f64())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_sixteenth_of_the_exact_ones() {
        let recorder = Recorder::new();
        (1..=10_000).for_each(|number| recorder.record(Duration::from_micros(number), 1));
        let latency = recorder.read();
        assert_eq!((latency.count(), latency.max()), (10_000, Duration::from_millis(10)));
        for (part, exact) in [(0.0, 1e-6), (0.5, 5e-3), (0.9, 9e-3), (0.99, 9.9e-3), (1.0, 10e-3)] {
            let shown = latency.quantile(part).as_secs_f64();
            assert!(exact <= shown + 1e-9 && shown <= exact * 1.0625 + 64e-9, "{part}: {shown} instead of {exact}");
        }
        let mean = latency.mean().as_secs_f64();
        assert!((mean - 5e-3).abs() < 0.2e-3, "{mean}");
        assert_eq!(latency.buckets().map(|(_, count)| count).sum::<u64>(), 10_000);
    }

    #[test]
    fn no_time_is_too_short_or_too_long_and_none_is_zero() {
        let recorder = Recorder::new();
        let nothing = recorder.read();
        assert_eq!((nothing.count(), nothing.quantile(0.5), nothing.mean()), (0, Duration::ZERO, Duration::ZERO));
        recorder.record(Duration::ZERO, 2);
        recorder.record(Duration::MAX, 3);
        let latency = recorder.read();
        assert_eq!((latency.count(), latency.quantile(0.3)), (5, Duration::from_nanos(UNIT)));
        assert!(latency.quantile(1.0) > Duration::from_secs(1000), "{latency:?}");
    }

    #[test]
    fn its_serialized_form_is_in_seconds() {
        let recorder = Recorder::new();
        recorder.record(Duration::from_millis(250), 4);
        let value = serde_json::to_value(recorder.read()).unwrap();
        assert_eq!((&value["count"], &value["max"], &value["p99"]), (&4.into(), &0.25.into(), &0.25.into()));
    }
}
