//! Whether the machine itself is late: threads that only sleep notice how long
//! after its time one is woken. What was measured meanwhile says more about
//! the machine than about a plugin.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lock;
use crate::timing::Times;

/// How long they sleep.
const NAP: Duration = Duration::from_millis(5);

/// From when on a thread is woken late.
pub(crate) const LATE: Duration = Duration::from_millis(10);

/// How many of them there are, so that each processor of a small machine is
/// likely to be looked at.
pub(crate) const SLEEPERS: usize = 2;

/// What they have noticed.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// When one should have been woken late, and when it was.
    late: Mutex<Vec<(Instant, Instant)>>,
    lags: Mutex<Times>,
}

impl Machine {
    /// Sleeps, and looks at the clock, until it is over.
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

    /// Whether a thread was late at some time in between.
    pub(crate) fn was_late(&self, from: Instant, to: Instant) -> bool {
        lock(&self.late).iter().any(|(due, woken)| *due < to && from < *woken)
    }

    /// How late the threads were.
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
        let machine = Machine { late: Mutex::new(vec![(at(10), at(30))]), lags: Mutex::default() };
        assert!(
            machine.was_late(at(0), at(11)) && machine.was_late(at(29), at(40)) && machine.was_late(at(15), at(16))
        );
        assert!(!machine.was_late(at(0), at(10)) && !machine.was_late(at(30), at(40)));
    }
}
