//! Whether a plugin's process works, as far as the kernel shows: progress of a
//! sink that cannot tell its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::plugin::running::Running;
use crate::process::group::activity;

/// Interval of the look at the process.
const LOOK: Duration = Duration::from_millis(50);

/// Interval of the look for the processes of the plugin's group.
const LOOK_FOR_MEMBERS: Duration = Duration::from_secs(1);

/// Number of looks within which a keepalive explains what the process did: the
/// official SDKs send one every 5 s, also while a symbol hangs.
const EXPLAINED: usize = 4;

/// What a plugin's process has done since the last look.
pub(super) struct ProcessWork<'a> {
    running: &'a Running,
    members: Vec<u32>,
    turns: HashMap<String, String>,
    looked: Instant,
    looked_for_members: Instant,
    /// Number of keepalives at the latest looks, the last one first.
    greetings: [u64; EXPLAINED],
    /// The process did something before the last look. The keepalive that
    /// explains it may be read a moment later.
    did: bool,
    lately: Lately,
}

impl<'a> ProcessWork<'a> {
    pub(super) fn new(running: &'a Running) -> Self {
        let (members, now) = (running.process.members(), Instant::now());
        let (turns, greetings) = (activity(&members).turns, [running.scope.greetings(); EXPLAINED]);
        Self {
            running,
            members,
            turns,
            looked: now,
            looked_for_members: now,
            greetings,
            did: false,
            lately: Lately::default(),
        }
    }

    /// Returns whether the process has lately been at work for half of the time,
    /// without what keepalives explain: more than a thread that wakes up now
    /// and then, as libnng has one.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        if now.duration_since(self.looked) < LOOK {
            return false;
        }
        self.looked = now;
        if now.duration_since(self.looked_for_members) >= LOOK_FOR_MEMBERS {
            (self.looked_for_members, self.members) = (now, self.running.process.members());
        }
        let activity = activity(&self.members);
        let did = activity.is_working || activity.turns != self.turns;
        self.turns = activity.turns;
        self.greetings.rotate_right(1);
        let oldest = std::mem::replace(&mut self.greetings[0], self.running.scope.greetings());
        let is_working = std::mem::replace(&mut self.did, did) && oldest == self.greetings[0];
        self.lately.add(is_working);
        is_working && self.lately.is_at_work()
    }
}

/// The latest few looks at a process, one bit each: whether it did something.
#[derive(Default)]
struct Lately {
    looks: u16,
    number: u32,
}

impl Lately {
    fn add(&mut self, is_working: bool) {
        self.looks = self.looks << 1 | u16::from(is_working);
        self.number = (self.number + 1).min(u16::BITS);
    }

    fn is_at_work(&self) -> bool {
        self.looks.count_ones() * 2 >= self.number
    }
}

/// The latest looks at a process, one bit each: whether it was at work.
#[derive(Default)]
pub(super) struct Looks(u64);

impl Looks {
    pub(super) fn add(&mut self, is_working: bool) {
        self.0 = self.0 << 1 | u64::from(is_working);
    }

    /// Returns whether the process was at work in half of the latest looks:
    /// more than a thread that only wakes up now and then.
    pub(super) fn are_at_work(&self) -> bool {
        self.0.count_ones() * 2 >= u64::BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_wakes_up_now_and_then_is_no_work() {
        let mut lately = Lately::default();
        lately.add(true);
        assert!(lately.is_at_work(), "from the first look on");
        // Every 500 ms, as libnng's.
        for look in 1..100 {
            lately.add(look % 10 == 0);
            assert!(!lately.is_at_work() || look == 1, "{look}");
        }
        (0..8).for_each(|_| lately.add(true));
        assert!(lately.is_at_work());
    }

    #[test]
    fn a_process_is_at_work_if_it_works_half_of_the_time() {
        let looked = |is_working: fn(u32) -> bool| {
            let mut looks = Looks::default();
            (0..200).for_each(|look| looks.add(is_working(look)));
            looks.are_at_work()
        };
        assert!(looked(|_| true) && looked(|look| look % 2 == 0));
        assert!(!looked(|look| look % 3 == 0) && !looked(|look| look < 100));
    }
}
