//! Busy-polling before blocking.
//!
//! Waking a blocked thread costs more than a short call takes. So a waiting
//! thread first busy-polls, for at most
//! [`Options::spin`](ekuiper_core::transport::Options), if that has paid off
//! recently. It does not if spinning has not paid off, if another thread wants
//! its processor, or if half the processors are spinning already, since the
//! other side needs one as well.

use std::hint;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::transport::MAX_SPIN;

/// Number of processor pauses between two polls: a poll takes the locks that
/// the sender needs.
const PAUSES: usize = 4;

/// A poll with its pauses that takes this long was preempted by another thread.
const PREEMPTED: Duration = Duration::from_micros(10);

/// Approximate time to wake a thread; a wait of up to this time plus the
/// spinning time would have been short without blocking.
const WAKING: Duration = Duration::from_micros(30);

/// Maximum number of waits in a row without spinning: large enough that futile
/// spinning does not show in a hundredth of the calls.
const MAX_SKIP: u32 = 1023;

/// Number of skipped waits that a short one counts for: it suggests that
/// spinning may pay off again.
const SHORT_COUNTS: u32 = 2;

/// A success earns a credit of 1. Futile spinning costs as much time as several
/// successes save; one that was preempted also costs the other threads theirs.
const VAIN_COSTS: u32 = 4;
const PREEMPTED_COSTS: u32 = 8;

/// Maximum credit. With this much, a spinner is trusted again at once after its
/// next failure.
const MAX_CREDIT: u32 = 16;

/// Busy-polls when that is likely to pay off.
#[derive(Debug)]
pub(crate) struct Spinner {
    budget: Duration,
    habit: Habit,
}

impl Spinner {
    /// Creates a spinner that spins for at most `budget`; never when that is
    /// zero.
    pub(crate) fn new(budget: Duration) -> Self {
        // A second processor is needed: the other side must send meanwhile.
        let budget = if most_spinning() == 0 { Duration::ZERO } else { budget.min(MAX_SPIN) };
        Self { budget, habit: Habit::default() }
    }

    /// Calls `look` until it finds something, if that is likely to pay off.
    /// `None`: the caller should block.
    pub(crate) fn spin<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.budget.is_zero() || !self.habit.wants_to() {
            return None;
        }
        let _permit = SpinPermit::take()?;
        let start = Instant::now();
        let mut last = start;
        loop {
            let found = look();
            let now = Instant::now();
            if now.duration_since(last) >= PREEMPTED {
                // Whether successful or not: another thread wanted this
                // processor.
                self.habit.failed(PREEMPTED_COSTS);
                return found;
            }
            if found.is_some() {
                self.habit.paid();
                return found;
            }
            if now.duration_since(start) >= self.budget {
                self.habit.failed(VAIN_COSTS);
                return None;
            }
            last = now;
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
        }
    }

    /// Blocks by calling `sleep`, and learns from its duration.
    pub(crate) fn sleep<T>(&mut self, sleep: impl FnOnce() -> T) -> T {
        if self.budget.is_zero() {
            return sleep();
        }
        let start = Instant::now();
        let slept = sleep();
        if start.elapsed() < self.budget + WAKING {
            self.habit.slept_shortly();
        }
        slept
    }
}

/// The statistics of earlier waits: spinning has to pay off in four of five.
#[derive(Debug, Default)]
struct Habit {
    credit: u32,
    /// The number of waits left to skip.
    skip: u32,
    /// The number of waits skipped last time.
    back_off: u32,
}

impl Habit {
    fn wants_to(&mut self) -> bool {
        let wants_to = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        wants_to
    }

    fn paid(&mut self) {
        self.credit = (self.credit + 1).min(MAX_CREDIT);
        if self.credit == MAX_CREDIT {
            self.back_off = 0;
        }
    }

    fn failed(&mut self, costs: u32) {
        self.credit = self.credit.saturating_sub(costs);
        if self.credit == 0 {
            self.back_off = (self.back_off * 2 + costs / VAIN_COSTS).min(MAX_SKIP);
            self.skip = self.back_off;
        }
    }

    fn slept_shortly(&mut self) {
        self.skip = self.skip.saturating_sub(SHORT_COUNTS);
    }
}

/// The number of threads of this process that are spinning.
static SPINNING: AtomicUsize = AtomicUsize::new(0);

/// The maximum number of spinning threads: half the processors.
fn most_spinning() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from) / 2)
}

/// A permit to spin.
struct SpinPermit;

impl SpinPermit {
    fn take() -> Option<Self> {
        let permit = Self;
        // If there are too many, the permit is dropped and thereby returned.
        (SPINNING.fetch_add(1, Ordering::Relaxed) < most_spinning()).then_some(permit)
    }
}

impl Drop for SpinPermit {
    fn drop(&mut self) {
        SPINNING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns in how many of `waits` waits the habit wants to spin, if each is
    /// `wait`.
    fn looks(habit: &mut Habit, waits: usize, mut wait: impl FnMut(&mut Habit, bool)) -> usize {
        (0..waits)
            .filter(|_| {
                let looks = habit.wants_to();
                wait(habit, looks);
                looks
            })
            .count()
    }

    #[test]
    fn it_looks_as_long_as_that_pays() {
        let mut habit = Habit::default();
        assert_eq!(looks(&mut habit, 1000, |habit, _| habit.paid()), 1000);
    }

    #[test]
    fn it_gives_up_what_does_not_pay_and_tries_again_now_and_then() {
        let mut habit = Habit::default();
        let vain = |habit: &mut Habit| habit.failed(VAIN_COSTS);
        let all = looks(&mut habit, 10_000, |habit, looks| {
            if looks {
                vain(habit)
            }
        });
        assert!((15..30).contains(&all), "{all}");
        // Spinning that was futile for long pays off again as soon as it is
        // tried.
        let again = looks(&mut habit, 3000, |habit, looks| {
            if looks {
                habit.paid()
            }
        });
        assert!(again > 1900, "{again}");
        // One failure does not end that.
        vain(&mut habit);
        assert!(habit.wants_to());
    }

    #[test]
    fn what_pays_half_the_time_is_left_alone() {
        let mut habit = Habit::default();
        let mut pays = false;
        let all = looks(&mut habit, 10_000, |habit, looks| {
            if looks {
                pays = !pays;
                if pays { habit.paid() } else { habit.failed(VAIN_COSTS) }
            }
        });
        assert!(all < 200, "{all}");
    }

    #[test]
    fn a_processor_that_others_want_is_left_to_them_sooner() {
        let after = |costs| {
            let mut habit = Habit { credit: MAX_CREDIT, ..Habit::default() };
            looks(&mut habit, 300, |habit, looks| {
                if looks {
                    habit.failed(costs)
                }
            })
        };
        assert!(after(PREEMPTED_COSTS) < after(VAIN_COSTS));
    }

    #[test]
    fn short_waits_bring_the_next_look_nearer() {
        let until = |short: bool| {
            let mut habit = Habit { skip: MAX_SKIP, ..Habit::default() };
            let mut until = 0;
            while !habit.wants_to() {
                until += 1;
                if short {
                    habit.slept_shortly();
                }
            }
            until
        };
        assert!(until(true) * 2 < until(false));
    }

    #[test]
    fn without_a_budget_it_never_looks() {
        let mut spinner = Spinner::new(Duration::ZERO);
        assert_eq!(spinner.spin(|| -> Option<()> { panic!("it looked") }), None);
        assert_eq!(spinner.sleep(|| 7), 7);
    }

    #[test]
    fn what_is_found_is_returned_and_what_is_not_ends_with_the_budget() {
        if most_spinning() == 0 {
            return;
        }
        let mut spinner = Spinner::new(Duration::from_secs(1000));
        let mut left = 10;
        // Other threads may hold the permits or the processor.
        let found = (0..10_000).find_map(|_| {
            spinner.habit = Habit::default();
            spinner.spin(|| {
                left -= 1;
                (left <= 0).then_some("found")
            })
        });
        assert_eq!(found, Some("found"));
        let mut spinner = Spinner::new(Duration::from_micros(1));
        for _ in 0..1000 {
            assert_eq!(spinner.spin(|| None::<()>), None);
        }
    }
}
