//! Waits for descriptors, ended by a deadline or by closing the socket.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::instant::later;
use ekuiper_core::transport::{Deadline, Result, TransportError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::platform::Flag;

/// Time for which a transport that reads in the background waits for data in
/// flight after [`finish`](Closing::finish).
const FINISH_GRACE: Duration = Duration::from_millis(100);

/// The signal that ends a socket's waits. `close` sets a flag and makes a
/// descriptor readable for ever, which ends every wait that includes it.
/// `finish` ends waits for anything new.
#[derive(Debug)]
pub struct Closing {
    closed: AtomicBool,
    finishing: AtomicBool,
    /// The instant until which data in flight is waited for.
    finish_by: OnceLock<Instant>,
    event: Flag,
}

impl Closing {
    /// Creates the signal of the open socket at `address`.
    ///
    /// # Errors
    /// The process cannot open another descriptor.
    pub fn new(address: &Address) -> Result<Self> {
        let event = Flag::new().map_err(|error| io_error("create a socket for", address, error))?;
        let (closed, finishing, finish_by) = Default::default();
        Ok(Self { closed, finishing, finish_by, event })
    }

    /// Ends waits for anything new.
    pub fn finish(&self) {
        self.finish_by.get_or_init(|| deadline_after(FINISH_GRACE));
        self.finishing.store(true, Ordering::SeqCst);
        self.event.raise();
    }

    /// Whether `finish` was called.
    pub fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::SeqCst)
    }

    /// Whether waiting threads must check again: the socket is closed or
    /// finishing.
    pub fn ends_waits(&self) -> bool {
        self.is_finishing() || self.closed.load(Ordering::Acquire)
    }

    /// The instant at which a transport that reads in the background gives up
    /// on data in flight; `None` before `finish`.
    pub fn finish_by(&self) -> Deadline {
        self.finish_by.get().copied()
    }

    /// Clears the descriptor after [`finish`](Closing::finish) has ended a
    /// wait, so that it waits for closing again.
    pub fn rearm(&self) {
        self.event.lower();
        if self.closed.load(Ordering::SeqCst) {
            self.event.raise();
        }
    }

    /// Closes; returns false if it was already closed.
    pub fn close(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::SeqCst);
        self.event.raise();
        first
    }

    /// Fails if the socket is closed.
    ///
    /// # Errors
    /// [`TransportError::Closed`] when the socket is closed.
    pub fn check(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(TransportError::Closed) } else { Ok(()) }
    }
}

impl AsFd for Closing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Returns the deadline of a wait that begins now. The only way to make one: the
/// time may be of any length.
pub fn deadline_after(time: Duration) -> Instant {
    later(Instant::now(), time)
}

/// Waits until one of `fds` is ready.
///
/// # Errors
/// [`TransportError::Timeout`] when none is ready by the deadline.
pub fn wait_for(fds: &mut [PollFd<'_>], deadline: Deadline) -> Result<()> {
    loop {
        match poll(fds, timeout(deadline).as_ref()) {
            Ok(0) => return Err(TransportError::Timeout),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // The only remaining error is a lack of kernel memory: treated as a
            // timeout.
            Err(_) => return Err(TransportError::Timeout),
        }
    }
}

/// Waits until a descriptor is ready, or `closing` ends waits.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_unless_closed(own: PollFd<'_>, closing: Option<&Closing>, deadline: Deadline) -> Result<()> {
    match closing {
        Some(closing) => wait_for(&mut [own, PollFd::new(closing, PollFlags::IN)], deadline),
        None => wait_for(&mut [own], deadline),
    }
}

/// The number of an error that says that this process, or the system, lacks a
/// resource.
pub fn shortage(error: &std::io::Error) -> Option<Errno> {
    let lacks = |errno: &Errno| matches!(*errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS);
    Errno::from_io_error(error).filter(lacks)
}

/// The remaining time, in the form that system calls take.
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

/// Creates an error of the operating system, with the action and the address.
pub fn io_error(action: &'static str, address: &Address, source: std::io::Error) -> TransportError {
    TransportError::Io { action, address: address.clone(), source }
}
