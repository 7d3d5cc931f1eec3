//! PUSH: hands each message to a peer that takes it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Deadline, Endpoint, Options, Push, Result, TransportError};
use ekuiper_transport_uds::wait::{has_passed, io_error, wait_for};
use nng::{Message, Protocol};
use rustix::event::{PollFd, PollFlags};

use crate::descriptor;
use crate::endpoint::{Wire, nng_error, open};
use crate::presence::Presence;

/// For how long closing waits for a message that libnng has accepted and not
/// written yet, because its peer reads slowly.
pub(crate) const LINGER: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct NngPush {
    address: Address,
    max_message: usize,
    wire: Wire,
    presence: Arc<Presence>,
    /// Readable while a peer takes a message. libnng keeps no message back but
    /// the one that it is writing, so with one peer: while nothing is left.
    outgoing: OwnedFd,
}

impl NngPush {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        let address = endpoint.address();
        let fail = |source| io_error("make a socket for", address, source);
        // Whatever a PULL peer sends is too long.
        let socket = open(Protocol::Push0, 1, address)?;
        let outgoing = descriptor::outgoing(&socket).map_err(fail)?;
        let presence = Arc::new(Presence::new().map_err(fail)?);
        let told = presence.clone();
        let wire = Wire::new(socket, endpoint, move |pipe, event| told.notify(pipe, event))?;
        Ok(Self { address: address.clone(), max_message: options.max_message, wire, presence, outgoing })
    }

    /// Waits for one of `sources`, or the closing.
    fn wait(&self, sources: &[&dyn AsFd], deadline: Deadline) -> Result<()> {
        let mut fds = vec![PollFd::new(&*self.wire.closing, PollFlags::IN)];
        fds.extend(sources.iter().map(|source| PollFd::new(source, PollFlags::IN)));
        let waited = wait_for(&mut fds, deadline);
        self.wire.closing.check()?;
        waited
    }
}

impl Push for NngPush {
    fn connect(&self, deadline: Deadline) -> Result<()> {
        self.wait(&[&self.presence.some], deadline)
    }

    fn send(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        if body.len() > self.max_message {
            return Err(TransportError::TooLong { length: body.len() as u64, max: self.max_message as u64 });
        }
        let mut message = Message::from(body);
        loop {
            self.wire.closing.check()?;
            message = match self.wire.socket.try_send(message) {
                Ok(()) => return Ok(()),
                Err((message, nng::Error::TryAgain)) => message,
                Err((_, error)) => return Err(nng_error("send to", &self.address, error)),
            };
            // Another sender may be quicker than this one.
            if has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            self.wait(&[&self.outgoing], deadline)?;
        }
    }

    fn flush(&self, deadline: Deadline) -> Result<()> {
        self.wait(&[&self.outgoing, &self.presence.none], deadline)
    }

    fn close(&self) {
        self.wire.close(|| {
            let mut fds = [PollFd::new(&self.outgoing, PollFlags::IN), PollFd::new(&self.presence.none, PollFlags::IN)];
            let _ = wait_for(&mut fds, Some(Instant::now() + LINGER));
        });
    }
}

impl Drop for NngPush {
    fn drop(&mut self) {
        self.close();
    }
}
