//! Waiting for descriptors, until a deadline or the socket's closing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Deadline, Result, TransportError};
use rustix::event::{EventfdFlags, PollFd, Timespec, eventfd, poll};

/// How long a transport that reads in the background waits, once it is told to
/// [finish](Closing::finish), for what is on its way.
const FINISH_GRACE: Duration = Duration::from_millis(100);

/// What `close` sets: a flag, and a descriptor that then polls readable for
/// ever, so that it ends every wait it is part of. `finish` is the end of
/// waiting for anything new.
#[derive(Debug)]
pub struct Closing {
    closed: AtomicBool,
    finishing: AtomicBool,
    /// When what is on its way is waited for no longer.
    finish_by: OnceLock<Instant>,
    event: OwnedFd,
}

impl Closing {
    /// That of the socket at `address`, which is open.
    ///
    /// # Errors
    /// The process can have no more descriptors.
    pub fn new(address: &Address) -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| io_error("make a socket for", address, errno.into()))?;
        let (closed, finishing, finish_by) = Default::default();
        Ok(Self { closed, finishing, finish_by, event })
    }

    /// Nothing new is waited for from now on.
    pub fn finish(&self) {
        self.finish_by.get_or_init(|| Instant::now() + FINISH_GRACE);
        self.finishing.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Whether nothing new is waited for.
    pub fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::SeqCst)
    }

    /// Whether whoever waits is to look again: it is closed or finishing.
    pub fn ends_waits(&self) -> bool {
        self.is_finishing() || self.closed.load(Ordering::Acquire)
    }

    /// When a transport that reads in the background gives up on what is on
    /// its way; `None` while there is no such limit.
    pub fn finish_by(&self) -> Deadline {
        self.finish_by.get().copied()
    }

    /// Makes the descriptor wait for the closing again, after
    /// [`finish`](Closing::finish) has ended a wait.
    pub fn rearm(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        if self.closed.load(Ordering::SeqCst) {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Closes; false when that had been done before.
    pub fn close(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::SeqCst);
        // A counter that is full is readable too: no error matters here.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        first
    }

    /// # Errors
    /// [`TransportError::Closed`] when it is.
    pub fn check(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(TransportError::Closed) } else { Ok(()) }
    }
}

impl AsFd for Closing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Waits for one of `fds`.
///
/// # Errors
/// [`TransportError::Timeout`] when none is ready by the deadline.
pub fn wait_for(fds: &mut [PollFd<'_>], deadline: Deadline) -> Result<()> {
    loop {
        match poll(fds, timeout(deadline).as_ref()) {
            Ok(0) => return Err(TransportError::Timeout),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            // Only a lack of kernel memory is left: as good as a timeout.
            Err(_) => return Err(TransportError::Timeout),
        }
    }
}

/// The time that is left, as the system calls take it.
pub fn timeout(deadline: Deadline) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    Some(Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() })
}

/// The earlier of two deadlines.
pub fn earlier(one: Deadline, other: Deadline) -> Deadline {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Whether a deadline has passed.
pub fn has_passed(deadline: Deadline) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// An error of the operating system, with what was tried and where.
pub fn io_error(action: &'static str, address: &Address, source: std::io::Error) -> TransportError {
    TransportError::Io { action, address: address.clone(), source }
}
