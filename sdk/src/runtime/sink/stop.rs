//! The stop request of a sink.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::instant::later;
use ekuiper_core::message::Collected;
use ekuiper_core::transport::{Deadline, Pull};
use ekuiper_transport_ipc::platform::Flag;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::runtime::supervised::Account;

/// The interval between checks for a stop on a transport without a readiness
/// descriptor.
const SLICE: Duration = Duration::from_millis(100);

/// The stop request of a sink: a flag for a busy thread, and a descriptor for a
/// blocked one.
pub(super) struct Stop {
    flag: AtomicBool,
    /// Whether received messages are discarded.
    given_up: AtomicBool,
    /// The numbers of messages that were collected, and of those refused.
    collected: AtomicU64,
    refused: AtomicU64,
    event: Flag,
}

impl Stop {
    pub(super) fn new() -> std::io::Result<Self> {
        let event = Flag::new()?;
        let (flag, given_up) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { flag, given_up, collected: AtomicU64::new(0), refused: AtomicU64::new(0), event })
    }

    pub(super) fn set(&self) {
        self.flag.store(true, Ordering::Release);
        self.event.raise();
    }

    pub(super) fn note(&self, collected: Collected) {
        self.refused.store(collected.refused, Ordering::Relaxed);
        self.collected.store(collected.collected, Ordering::Release);
    }

    pub(super) fn collected(&self) -> Collected {
        let collected = self.collected.load(Ordering::Acquire);
        Collected { collected, refused: self.refused.load(Ordering::Relaxed).min(collected) }
    }

    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.set();
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits for a message, the stop, or the end of `patience`. Returns the
    /// deadline of the next receive.
    pub(super) fn or_readable(
        &self,
        pull: &dyn Pull,
        account: Option<&Account>,
        patience: Option<Duration>,
    ) -> Deadline {
        let now = Instant::now();
        let Some(readiness) = pull.readiness() else {
            return Some(later(now, patience.unwrap_or(SLICE).min(SLICE)));
        };
        let mut fds = [PollFd::from_borrowed_fd(readiness, PollFlags::IN), PollFd::new(&self.event, PollFlags::IN)];
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match account {
            Some(account) => account.wait(fds, timeout.as_ref()),
            // An interruption is harmless: the next receive decides.
            None => drop(poll(&mut fds, timeout.as_ref())),
        }
        Some(now)
    }
}
