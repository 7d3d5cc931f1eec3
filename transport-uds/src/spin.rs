//! Looking for what is about to come, before sleeping until it does.
//!
//! Being woken costs more than a short call takes. So whoever waits first looks
//! again and again, for [`Options::spin`](ekuiper_core::transport::Options) at
//! most, where that has paid lately; and not at all where it has not, where
//! its processor is wanted by somebody else, or where half the processors are
//! looking already: the other side needs one as well.

use std::hint;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many pauses of the processor are between two looks: a look takes the
/// locks that whoever sends needs.
const PAUSES: usize = 4;

/// A look and its pauses are over far sooner, unless somebody else had the
/// processor meanwhile.
const PREEMPTED: Duration = Duration::from_micros(10);

/// Being woken takes about as long; a wait that was no longer than this and the
/// spin would have been short without it.
const WAKING: Duration = Duration::from_micros(30);

/// How many waits at most pass without a look: so many that looks in vain do
/// not show in a hundredth of the calls.
const MAX_SKIP: u32 = 1023;

/// How many waits a short one counts for: it shows that looking may pay again.
const SHORT_COUNTS: u32 = 2;

/// What a look that paid earns is 1. One in vain costs as much time as several
/// gain; one that kept others from the processor costs them theirs as well.
const VAIN_COSTS: u32 = 4;
const PREEMPTED_COSTS: u32 = 8;

/// How much can be earned. Who has so much is trusted again at once after his
/// next failure.
const MAX_CREDIT: u32 = 16;

/// Spins where that pays.
#[derive(Debug)]
pub(crate) struct Spinner {
    budget: Duration,
    habit: Habit,
}

impl Spinner {
    /// One that spins for `budget` at most; never when that is zero.
    pub(crate) fn new(budget: Duration) -> Self {
        // Somebody has to send while this side looks.
        let budget = if most_spinning() == 0 { Duration::ZERO } else { budget };
        Self { budget, habit: Habit::default() }
    }

    /// Calls `look` until it finds something, if that is likely to pay. `None`:
    /// sleep.
    pub(crate) fn spin<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.budget.is_zero() || !self.habit.wants_to() {
            return None;
        }
        let _place = Place::take()?;
        let start = Instant::now();
        let mut last = start;
        loop {
            let found = look();
            let now = Instant::now();
            if now.duration_since(last) >= PREEMPTED {
                // Found or not: somebody wanted this processor.
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

    /// Sleeps by calling `sleep`, and learns from how long it took.
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

/// What was learned from earlier waits: looking has to pay in four of five.
#[derive(Debug, Default)]
struct Habit {
    credit: u32,
    /// How many waits are to pass without a look.
    skip: u32,
    /// How many were, the last time.
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

/// How many threads of this process are spinning.
static SPINNING: AtomicUsize = AtomicUsize::new(0);

/// How many may: half the processors.
fn most_spinning() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from) / 2)
}

/// One of the places of those who spin.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        // Too many: dropped, and thereby given back.
        (SPINNING.fetch_add(1, Ordering::Relaxed) < most_spinning()).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        SPINNING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many waits, in how many it wants to look, when each is `wait`.
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
        // What was in vain for long pays again as soon as it is tried.
        let again = looks(&mut habit, 3000, |habit, looks| {
            if looks {
                habit.paid()
            }
        });
        assert!(again > 1900, "{again}");
        // And one failure does not end that.
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
        // Others may hold the places, or have the processor.
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
