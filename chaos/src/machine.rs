//! Delays of the machine itself: threads that only sleep measure how late they
//! are woken. Measurements taken at such a time say more about the machine than
//! about a plugin.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::timing::Times;
use ekuiper_core::sync::lock;

/// Duration of a sleep.
const NAP: Duration = Duration::from_millis(5);

/// Delay from which a thread counts as woken late.
pub(crate) const LATE: Duration = Duration::from_millis(10);

/// Number of threads, so that each processor of a small machine is likely to be
/// covered.
pub(crate) const SLEEPERS: usize = 2;

/// Delays measured by the threads.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// When a thread should have been woken, and when it was.
    late: Mutex<Vec<(Instant, Instant)>>,
    lags: Mutex<Times>,
    /// When a heartbeat of the engine on tasks was due, and when it came.
    beats: Mutex<Vec<(Instant, Instant)>>,
}

/// How late the heartbeats of the engine on tasks were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beats {
    pub(crate) all: Times,
    /// Those during which no sleeping thread was woken late.
    pub(crate) on_time: Times,
}

impl Machine {
    /// Records a heartbeat.
    pub(crate) fn beat(&self, due: Instant, came: Instant) {
        lock(&self.beats).push((due, came));
    }

    /// Returns how late the heartbeats were.
    pub(crate) fn beats(&self) -> Beats {
        let mut beats = Beats::default();
        for (due, came) in lock(&self.beats).iter() {
            beats.all.add(came.saturating_duration_since(*due));
            if *came - *due < LATE || !self.was_late(*due, *came) {
                beats.on_time.add(came.saturating_duration_since(*due));
            }
        }
        beats
    }

    /// Sleeps and reads the clock until the run is over.
    pub(crate) fn sleep(&self, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            let due = Instant::now() + NAP;
            std::thread::sleep(NAP);
            let woken = Instant::now();
            lock(&self.lags).add(woken - due);
            if woken - due > LATE {
                lock(&self.late).push((due, woken));
            }
        }
    }

    /// Returns whether a thread was woken late in an interval.
    pub(crate) fn was_late(&self, from: Instant, to: Instant) -> bool {
        lock(&self.late).iter().any(|(due, woken)| *due < to && from < *woken)
    }

    /// Returns the delays.
    pub(crate) fn lags(&self) -> Times {
        lock(&self.lags).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let machine =
            Machine { late: Mutex::new(vec![(at(10), at(30))]), lags: Mutex::default(), beats: Mutex::default() };
        assert!(
            machine.was_late(at(0), at(11)) && machine.was_late(at(29), at(40)) && machine.was_late(at(15), at(16))
        );
        assert!(!machine.was_late(at(0), at(10)) && !machine.was_late(at(30), at(40)));
    }
}
