//! Busy-polling before blocking.
//!
//! Waking a blocked thread costs more than a short call takes. So a waiting
//! thread first busy-polls, for at most
//! [`Options::spin`](ekuiper_core::transport::Options), if that has paid off
//! recently. It does not if spinning has not paid off, if another thread wants
//! its processor, or if half the processors are spinning already, since the
//! other side needs one as well.
//!
//! If both sides block, each waits for the other one to wake up, which takes
//! about as long as either spins: both would spin in vain, give up, and never
//! meet again. So a thread that has blocked for a short time spins for as long
//! as the other side may need to wake up, and one that was woken at once, so
//! that the other side seems to spin, soon spins, too.

use std::hint;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::transport::{Deadline, MAX_SPIN};

/// Number of processor pauses between two polls of a socket: a poll takes the
/// locks that the sender needs.
const PAUSES: usize = 4;

/// Number of polls of memory between two readings of the clock, which takes as
/// long as such a poll with its one pause.
const POLLS: usize = 8;

/// Polls between two readings of the clock that take this long, with their
/// pauses, were preempted by another thread.
const PREEMPTED: Duration = Duration::from_micros(10);

/// Maximum number of bytes that a poll copies: with more it would seem to have
/// been preempted.
pub(crate) const MAX_LOOK: usize = 32 << 10;

/// The part of the space that at most so many bytes need.
pub(crate) fn up_to(most: usize, space: &mut [u8]) -> &mut [u8] {
    let room = space.len().min(most);
    &mut space[..room]
}

/// Approximate time to wake a thread. A thread that has blocked for less was
/// woken by one that did not block. A wait of up to this time plus the spinning
/// time would have been short without blocking.
const WAKING: Duration = Duration::from_micros(30);

/// Maximum number of waits in a row that may last longer than the spinning time,
/// for the other side to wake up and to spin, too.
const MAX_LATE: u32 = 16;

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
    /// When it has last read the clock.
    looked_at: Instant,
}

impl Spinner {
    /// Creates a spinner that spins for at most `budget`; never when that is
    /// zero.
    pub(crate) fn new(budget: Duration) -> Self {
        // A second processor is needed: the other side must send meanwhile.
        let budget = if most_spinning() == 0 { Duration::ZERO } else { budget.min(MAX_SPIN) };
        Self { budget, habit: Habit::default(), looked_at: Instant::now() }
    }

    /// Returns the time, or, without a reading of the clock, `deadline` if that
    /// is known to have passed.
    pub(crate) fn now_or(&self, deadline: Deadline) -> Instant {
        deadline.filter(|deadline| *deadline <= self.looked_at).unwrap_or_else(Instant::now)
    }

    /// Calls `look` from `start`, which is now, until it finds something, if
    /// that is likely to pay off; returns when that was, too. `None`: the
    /// caller should block. `in_memory`: `look` makes no system call.
    pub(crate) fn spin<T>(
        &mut self,
        start: Instant,
        in_memory: bool,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<(T, Instant)> {
        if self.budget.is_zero() || !self.habit.wants_to() {
            return None;
        }
        let _permit = SpinPermit::take()?;
        let patience = if self.habit.is_patient { self.budget + WAKING } else { self.budget };
        let (polls, pauses) = if in_memory { (POLLS, 1) } else { (1, PAUSES) };
        let mut last = start;
        loop {
            let found = (0..polls).find_map(|_| {
                let found = look();
                if found.is_none() {
                    (0..pauses).for_each(|_| hint::spin_loop());
                }
                found
            });
            let now = Instant::now();
            self.looked_at = now;
            if now.duration_since(last) >= PREEMPTED {
                // Whether successful or not: another thread wanted this
                // processor.
                self.habit.was_preempted();
                return Some((found?, now));
            }
            let is_late = now.duration_since(start) >= self.budget;
            if let Some(found) = found {
                if is_late {
                    self.habit.paid_late()
                } else {
                    self.habit.paid()
                }
                return Some((found, now));
            }
            if is_late && now.duration_since(start) >= patience {
                self.habit.failed(VAIN_COSTS);
                return None;
            }
            last = now;
        }
    }

    /// Blocks by calling `sleep`, and learns from its duration, unless the
    /// deadline has ended it.
    pub(crate) fn sleep<T>(&mut self, deadline: Deadline, sleep: impl FnOnce() -> T) -> T {
        if self.budget.is_zero() {
            return sleep();
        }
        let start = Instant::now();
        let slept = sleep();
        let now = Instant::now();
        let time = now.duration_since(start);
        if time < self.budget + WAKING && deadline.is_none_or(|deadline| now < deadline) {
            self.habit.slept_shortly(time < WAKING);
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
    /// Whether the next spin may last longer, by [`WAKING`].
    is_patient: bool,
    /// The number of waits in a row that have paid off in that time.
    late: u32,
    /// Whether a longer spin has failed, or a spin was preempted, since spinning
    /// last paid off: the other side may have no other processor than this one.
    was_patient_in_vain: bool,
}

impl Habit {
    fn wants_to(&mut self) -> bool {
        let wants_to = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        wants_to
    }

    fn paid(&mut self) {
        (self.is_patient, self.late, self.was_patient_in_vain) = (false, 0, false);
        self.credit = (self.credit + 1).min(MAX_CREDIT);
        if self.credit == MAX_CREDIT {
            self.back_off = 0;
        }
    }

    /// Records that a longer spin has paid off: the other side had to wake up. It
    /// spins the next time if it notices that this side does.
    fn paid_late(&mut self) {
        self.late += 1;
        if self.late > MAX_LATE {
            self.failed(VAIN_COSTS);
        }
    }

    fn was_preempted(&mut self) {
        self.was_patient_in_vain = true;
        self.failed(PREEMPTED_COSTS);
    }

    fn failed(&mut self, costs: u32) {
        self.was_patient_in_vain |= self.is_patient;
        (self.is_patient, self.late) = (false, 0);
        self.credit = self.credit.saturating_sub(costs);
        if self.credit == 0 {
            self.back_off = (self.back_off * 2 + costs / VAIN_COSTS).min(MAX_SKIP);
            self.skip = self.back_off;
        }
    }

    /// Records that a sleep was short; `at_once`: so short that the other side
    /// cannot have blocked.
    fn slept_shortly(&mut self, at_once: bool) {
        self.is_patient = !self.was_patient_in_vain;
        self.skip =
            if at_once && !self.was_patient_in_vain { self.skip / 2 } else { self.skip.saturating_sub(SHORT_COUNTS) };
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
                    habit.slept_shortly(false);
                }
            }
            until
        };
        assert!(until(true) * 2 < until(false));
    }

    #[test]
    fn two_sides_that_block_find_back_to_spinning() {
        // In microseconds: what a side needs to wake up, and to answer.
        const WAKES: u32 = 22;
        const ANSWERS: u32 = 2;
        const BUDGET: u32 = 20;
        let waking = WAKING.as_micros() as u32;
        let blocked = |skip| Habit { skip, back_off: MAX_SKIP, ..Habit::default() };
        for skip in (0..=MAX_SKIP).step_by(31) {
            let mut sides = [blocked(skip), blocked(MAX_SKIP)];
            // Whether the side that is waited for has blocked before it was called.
            let mut has_blocked = true;
            let (mut waits, mut spun) = (0, 0);
            while spun < 100 {
                let habit = &mut sides[waits % 2];
                let time = ANSWERS + if has_blocked { WAKES } else { 0 };
                let looks = habit.wants_to();
                let patience = if habit.is_patient { BUDGET + waking } else { BUDGET };
                let has_found = looks && time < patience;
                match (looks, has_found) {
                    (true, true) if time < BUDGET => habit.paid(),
                    (true, true) => habit.paid_late(),
                    (true, false) => habit.failed(VAIN_COSTS),
                    (false, _) => {}
                }
                if !has_found {
                    let slept = time + WAKES - if looks { patience.min(time) } else { 0 };
                    if slept < BUDGET + waking {
                        habit.slept_shortly(slept < waking);
                    }
                }
                has_blocked = !has_found;
                spun = if has_found && time < BUDGET { spun + 1 } else { 0 };
                waits += 1;
                assert!(waits < 1000, "they do not meet, the first after {skip} waits");
            }
        }
    }

    #[test]
    fn more_patience_with_who_never_spins_ends() {
        let mut habit = Habit::default();
        let all = looks(&mut habit, 10_000, |habit, looks| {
            match (looks, habit.is_patient) {
                (true, true) => habit.paid_late(),
                (true, false) => habit.failed(VAIN_COSTS),
                (false, _) => {}
            }
            habit.slept_shortly(true);
        });
        assert!(all < 100, "{all}");
    }

    #[test]
    fn without_a_budget_it_never_looks() {
        let mut spinner = Spinner::new(Duration::ZERO);
        assert_eq!(spinner.spin(Instant::now(), false, || -> Option<()> { panic!("it looked") }), None);
        assert_eq!(spinner.sleep(None, || 7), 7);
    }

    #[test]
    fn what_is_found_is_returned_and_what_is_not_ends_with_the_budget() {
        if most_spinning() == 0 {
            return;
        }
        for in_memory in [false, true] {
            let mut spinner = Spinner::new(Duration::from_secs(1000));
            let mut left = 10;
            // Other threads may hold the permits or the processor.
            let found = (0..10_000).find_map(|_| {
                spinner.habit = Habit::default();
                let look = || {
                    left -= 1;
                    (left <= 0).then_some("found")
                };
                spinner.spin(Instant::now(), in_memory, look).map(|(found, _)| found)
            });
            assert_eq!(found, Some("found"));
            let mut spinner = Spinner::new(Duration::from_micros(1));
            for _ in 0..1000 {
                assert_eq!(spinner.spin(Instant::now(), in_memory, || None::<()>), None);
            }
        }
    }
}
