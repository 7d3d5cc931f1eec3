//! Connecting to a listener, with retries.

use std::io;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::instant::later;
use ekuiper_core::sp::Protocol;
use ekuiper_core::transport::{Options, TransportError};
use ekuiper_transport_ipc::wait::{io_error, shortage};
use ekuiper_transport_ipc::{connect, process};
use rustix::io::Errno;

use crate::link::Link;
use crate::stream::Medium;

/// Pause after the first failed attempt; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Maximum pause between two attempts. Far below a second, so that every
/// dialler reconnects within one.
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// The dialler's address and retry schedule.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) address: Address,
    options: Options,
    medium: &'static dyn Medium,
    pause: Duration,
    /// The earliest instant of the next attempt.
    pub(crate) next: Option<Instant>,
    /// The resource that this process lacked at the latest attempt.
    shortage: Option<Errno>,
}

impl Dialer {
    pub(crate) fn new(address: &Address, options: &Options, medium: &'static dyn Medium) -> Self {
        let (address, options) = (address.clone(), options.clone());
        Self { address, options, medium, pause: FIRST_PAUSE, next: None, shortage: None }
    }

    /// Makes an attempt and returns a connection on which our header was sent;
    /// `None` when it is too early, the attempt failed, or the listening
    /// process is not admitted.
    pub(crate) fn attempt(&mut self, own: Protocol) -> Option<Link> {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let connected = connect(&self.address);
        // A resource that the other process lacks refuses the connection instead.
        self.shortage = connected.as_ref().err().and_then(shortage);
        let connected = connected.and_then(|stream| {
            // A process that is not admitted gets no byte.
            if !process::is_admitted(&stream, &self.options) {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another process listens there"));
            }
            // A listener with a full backlog yields a socket that is not
            // connected: our header cannot be sent.
            Link::greet(self.medium.dialled(stream)?, own)
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

    /// The error of a wait for a connection that has timed out.
    pub(crate) fn timeout(&self) -> TransportError {
        match self.shortage {
            Some(error) => io_error("connect to", &self.address, error.into()),
            None => TransportError::Timeout,
        }
    }

    /// The earliest instant of the next attempt: now, unless an attempt has
    /// failed. A wait without a connection lasts at most until then.
    pub(crate) fn next_attempt(&self) -> Instant {
        self.next.unwrap_or_else(Instant::now)
    }

    /// Resets the pause after a connection has proved good.
    pub(crate) fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
        self.next = None;
    }

    /// Delays the next attempt, since the connection may end before the peer's
    /// header.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.next = Some(later(now, self.pause));
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}
