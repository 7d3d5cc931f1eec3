//! REQ without its wire: one request at a time, its deadline, and when it is
//! sent again.
//!
//! A transport implements [`RequestWire`], which is its connection and the bytes
//! on it; [`RequestSocket`] is the socket.

use std::fmt::Debug;
use std::time::Instant;

use ekuiper_core::address::Address;
use ekuiper_core::sp::Requester;
use ekuiper_core::transport::{ConnectionId, Deadline, Options, Request, Result, TransportError};

use crate::lock::DeadlineLock;
use crate::platform;
use crate::receiving::{ReceiverLock, check_length};
use crate::wait::{Closing, earlier, has_passed, io_error};

/// The wire of a request socket. Except for [`close`](RequestWire::close), one
/// thread at a time calls it, with the link.
pub trait RequestWire: Debug + Send + Sync {
    /// The connection, and what only the thread that uses it needs.
    type Link: Debug + Send;

    /// The signal that ends the socket's waits.
    fn closing(&self) -> &Closing;

    /// Waits for a connection, unless there is one.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn connected(&self, link: &mut Self::Link, deadline: Deadline) -> Result<ConnectionId>;

    /// Drops what has arrived while no request is in flight, on a wire that
    /// would not notice the connection's end behind it.
    fn drop_replies(&self, link: &mut Self::Link) {
        let _ = link;
    }

    /// Prepares the next request on `connection`.
    ///
    /// # Errors
    /// [`TransportError::Disconnected`] when `connection` is gone.
    fn prepare(&self, link: &mut Self::Link, connection: ConnectionId) -> Result<()>;

    /// Sends a request's id and body on `connection`, which is the link's.
    ///
    /// # Errors
    /// [`TransportError::Disconnected`] when the connection ends,
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn transmit(
        &self,
        link: &mut Self::Link,
        connection: ConnectionId,
        id: [u8; 4],
        body: &[u8],
        deadline: Deadline,
    ) -> Result<()>;

    /// Takes what has arrived; returns whether the requester has accepted some
    /// of it, whose body is then in the buffer. With `looks`, there may be
    /// something that was not read yet.
    ///
    /// # Errors
    /// [`TransportError::Disconnected`] when the connection has ended and all
    /// that had arrived before was taken.
    fn take_reply(
        &self,
        link: &mut Self::Link,
        requester: &mut Requester,
        buffer: &mut Vec<u8>,
        looks: bool,
    ) -> Result<bool>;

    /// Waits for something to take, or for the connection's end, at most until
    /// `until`; returns whether there may be something that was not read yet.
    /// May return early.
    fn await_reply(&self, link: &mut Self::Link, until: Deadline) -> bool;

    /// Ends the connection.
    fn hang_up(&self, link: &mut Self::Link);

    /// Closes the signal, and the connection even while another thread has the
    /// link.
    fn close(&self);
}

/// A request socket on a transport's wire.
#[derive(Debug)]
pub struct RequestSocket<W: RequestWire> {
    wire: W,
    max_message: usize,
    /// Whether a request without a reply is sent again.
    repeats: bool,
    made_at: Instant,
    receiving: ReceiverLock,
    state: DeadlineLock<RequestState<W::Link>>,
}

#[derive(Debug)]
struct RequestState<L> {
    requester: Requester,
    /// The latest request's body, kept if it may have to be sent again.
    body: Vec<u8>,
    link: L,
}

impl<W: RequestWire> RequestSocket<W> {
    /// Creates the socket that dials `address`.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn new(address: &Address, options: &Options, wire: W, link: W::Link) -> Result<Self> {
        let mut seed = [0; 4];
        platform::random(&mut seed).map_err(|error| io_error("create a socket for", address, error))?;
        let requester = Requester::new(u32::from_ne_bytes(seed), options.retry);
        Ok(Self {
            wire,
            max_message: options.max_message,
            repeats: options.retry.is_some(),
            made_at: Instant::now(),
            receiving: ReceiverLock::default(),
            state: DeadlineLock::new(RequestState { requester, body: Vec::new(), link }),
        })
    }

    /// Sends the latest request again, with the same id, on a new connection if
    /// needed.
    #[cold]
    fn repeat(&self, state: &mut RequestState<W::Link>, deadline: Deadline) -> Result<()> {
        loop {
            let connection = self.wire.connected(&mut state.link, deadline)?;
            let Some(id) = state.requester.resend(Instant::now()) else { return Ok(()) };
            match self.wire.transmit(&mut state.link, connection, id, &state.body, deadline) {
                Err(TransportError::Disconnected) => self.wire.hang_up(&mut state.link),
                sent => return sent,
            }
        }
    }

    fn await_reply(&self, state: &mut RequestState<W::Link>, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let (wire, mut looks) = (&self.wire, false);
        loop {
            wire.closing().check()?;
            match wire.take_reply(&mut state.link, &mut state.requester, buffer, looks) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(TransportError::Disconnected) => {
                    // The connection may have ended due to closing.
                    wire.closing().check()?;
                    wire.hang_up(&mut state.link);
                    if !self.repeats {
                        return Err(TransportError::Disconnected);
                    }
                    self.repeat(state, deadline)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if looks && has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            if has_passed(state.requester.resend_at()) {
                self.repeat(state, deadline)?;
            }
            let until = earlier(deadline, state.requester.resend_at());
            looks = has_passed(deadline) || wire.await_reply(&mut state.link, until);
        }
    }
}

impl<W: RequestWire> Request for RequestSocket<W> {
    fn connect(&self, deadline: Deadline) -> Result<ConnectionId> {
        let mut state = self.state.lock_open(self.wire.closing(), deadline)?;
        let state = &mut *state;
        if !state.requester.is_waiting() {
            self.wire.drop_replies(&mut state.link);
        }
        self.wire.connected(&mut state.link, deadline)
    }

    fn send(&self, connection: ConnectionId, body: &[u8], deadline: Deadline) -> Result<()> {
        check_length(body, self.max_message)?;
        let mut state = self.state.lock_open(self.wire.closing(), deadline)?;
        let state = &mut *state;
        self.wire.prepare(&mut state.link, connection)?;
        // Only what is sent again needs the time.
        let id = state.requester.begin(if self.repeats { Instant::now() } else { self.made_at });
        if self.repeats {
            state.body.clear();
            state.body.extend_from_slice(body);
        }
        let sent = self.wire.transmit(&mut state.link, connection, id, body, deadline);
        if sent.is_err() {
            state.requester.cancel();
        }
        sent
    }

    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let _receiving = self.receiving.enter(self.wire.closing())?;
        let mut state = self.state.lock_open(self.wire.closing(), deadline)?;
        if !state.requester.is_waiting() {
            return Err(TransportError::Misuse("no request is in flight"));
        }
        let received = self.await_reply(&mut state, buffer, deadline);
        if received.is_err() {
            state.requester.cancel();
        }
        received
    }

    fn close(&self) {
        self.wire.close();
        self.state.look_again();
    }
}

impl<W: RequestWire> Drop for RequestSocket<W> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
