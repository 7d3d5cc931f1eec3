//! Delays of the machine itself: threads that only sleep measure how late they
//! are woken. Measurements taken at such a time say more about the machine than
//! about a plugin.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::load::turns::Turns;
use crate::priority::{Priority, favor_this_thread};
use crate::timing::Times;
use ekuiper_core::sync::lock;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Duration of a sleep: a processor that pauses for longer than this and
/// [`PAUSED`] is noticed.
const NAP: Duration = Duration::from_millis(2);

/// Delay from which a thread counts as woken late.
const LATE: Duration = Duration::from_millis(10);

/// Delay from which a processor counts as paused. A thread of real-time priority
/// has no others to wait for.
const PAUSED: Duration = Duration::from_millis(2);

/// Delays measured by the threads.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// When a thread should have been woken, and when it was.
    late: Mutex<Vec<(Instant, Instant)>>,
    lags: Mutex<Times>,
    /// When a heartbeat of the engine on tasks was due, and when it came.
    beats: Mutex<Vec<(Instant, Instant)>>,
    /// The system refuses real-time priority.
    is_shared: AtomicBool,
    pub(crate) turns: Turns,
}

/// How late the heartbeats of the engine on tasks were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beats {
    pub(crate) all: Times,
    /// Those during which no processor paused.
    pub(crate) on_time: Times,
    /// Executors and watches had real-time priority.
    pub(crate) is_favored: bool,
}

impl Machine {
    /// Records a heartbeat.
    pub(crate) fn beat(&self, due: Instant, came: Instant) {
        lock(&self.beats).push((due, came));
    }

    /// Gives the calling thread real-time priority, if possible.
    pub(crate) fn favor_this_thread(&self, priority: Priority) {
        if !favor_this_thread(priority) {
            self.is_shared.store(true, Ordering::Relaxed);
        }
    }

    /// Returns how late the heartbeats were.
    pub(crate) fn beats(&self) -> Beats {
        let mut beats = Beats { is_favored: !self.is_shared.load(Ordering::Relaxed), ..Beats::default() };
        for (due, came) in lock(&self.beats).iter() {
            beats.all.add(came.saturating_duration_since(*due));
            if *came - *due < PAUSED || !self.was_later(*due, *came, PAUSED) {
                beats.on_time.add(came.saturating_duration_since(*due));
            }
        }
        beats
    }

    /// Sleeps on a processor and reads the clock until the run is over.
    pub(crate) fn sleep(&self, processor: usize, over: &AtomicBool) {
        self.favor_this_thread(Priority::Watch);
        let mut own = CpuSet::new();
        own.set(processor);
        // One that the process may not use does not hold it up either.
        if sched_setaffinity(None, &own).is_err() {
            return;
        }
        while !over.load(Ordering::SeqCst) {
            let due = Instant::now() + NAP;
            std::thread::sleep(NAP);
            let woken = Instant::now();
            lock(&self.lags).add(woken - due);
            if woken - due > PAUSED {
                lock(&self.late).push((due, woken));
            }
        }
    }

    /// Returns whether a thread was woken late in an interval.
    pub(crate) fn was_late(&self, from: Instant, to: Instant) -> bool {
        self.was_later(from, to, LATE)
    }

    fn was_later(&self, from: Instant, to: Instant, than: Duration) -> bool {
        lock(&self.late).iter().any(|(due, woken)| *woken - *due > than && *due < to && from < *woken)
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
            Machine { late: Mutex::new(vec![(at(10), at(30))]), lags: Mutex::default(), ..Machine::default() };
        assert!(
            machine.was_late(at(0), at(11)) && machine.was_late(at(29), at(40)) && machine.was_late(at(15), at(16))
        );
        assert!(!machine.was_late(at(0), at(10)) && !machine.was_late(at(30), at(40)));
    }
}
