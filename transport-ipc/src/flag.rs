//! A flag that can be waited for: its descriptor polls readable while it is
//! set.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// An event descriptor. Setting, clearing and the state that it signals must be
/// under one lock.
#[derive(Debug)]
pub struct Flag(OwnedFd);

impl Flag {
    /// Creates a clear flag.
    ///
    /// # Errors
    /// The process or the system has no free descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Sets the flag.
    pub fn raise(&self) {
        // A full counter is readable too: errors do not matter here.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Clears the flag.
    pub fn lower(&self) {
        // Nothing to read: the flag was clear already.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Flag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
