//! Connecting to a listener, again and again.

use std::io;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::sp::Protocol;
use ekuiper_core::transport::{Options, TransportError};
use ekuiper_transport_ipc::wait::io_error;
use ekuiper_transport_ipc::{connect, process};
use rustix::io::Errno;

use crate::link::Link;

/// The pause after the first failed attempt; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// The longest pause between two attempts. Far below a second, so that all
/// have reconnected within one.
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// When to try next, and where.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) address: Address,
    options: Options,
    pause: Duration,
    /// Not before this instant.
    pub(crate) next: Option<Instant>,
    /// What this process was short of at the latest attempt.
    shortage: Option<Errno>,
}

impl Dialer {
    pub(crate) fn new(address: &Address, options: &Options) -> Self {
        Self { address: address.clone(), options: options.clone(), pause: FIRST_PAUSE, next: None, shortage: None }
    }

    /// A connection on which our header is sent already; `None` when it is too
    /// early for an attempt, or it failed, or a process listens there that is
    /// not admitted.
    pub(crate) fn attempt(&mut self, own: Protocol) -> Option<Link> {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let connected = connect(&self.address);
        self.shortage = connected.as_ref().err().and_then(Errno::from_io_error).filter(|error| {
            // What another process is short of refuses the connection.
            matches!(*error, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
        });
        let connected = connected.and_then(|stream| {
            // A process that is not to be a peer gets no byte.
            if !process::is_admitted(&stream, &self.options) {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another process listens there"));
            }
            // A listener whose queue is full gives a socket that is not
            // connected: its header cannot be sent.
            Link::greet(stream, own)
        });
        match connected {
            Ok(link) => Some(link),
            Err(error) => {
                tracing::trace!(address = %self.address, %error, "not connected yet");
                self.postpone(now);
                None
            }
        }
    }

    /// The error of whoever has waited for a connection in vain.
    pub(crate) fn timeout(&self) -> TransportError {
        match self.shortage {
            Some(error) => io_error("connect to", &self.address, error.into()),
            None => TransportError::Timeout,
        }
    }

    /// When the next attempt may be made: with no failure behind it, at once.
    /// Whoever waits without a connection waits until then at most.
    pub(crate) fn next_attempt(&self) -> Instant {
        self.next.unwrap_or_else(Instant::now)
    }

    /// The connection has proved good: the next failure is a first one again.
    pub(crate) fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
        self.next = None;
    }

    /// The connection did not last until the peer's header.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}
