//! REQ: dials, sends one request at a time, receives its reply. The wire of
//! `ekuiper_transport_ipc`'s request socket.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use ekuiper_core::address::Address;
use ekuiper_core::sp::Requester;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{ConnectionId, Deadline, Options, Result, TransportError};
use ekuiper_transport_ipc::request::{RequestSocket, RequestWire};
use ekuiper_transport_ipc::wait::{Closing, deadline_after, has_passed, io_error, wait_for};
use nng::{Message, Protocol};
use rustix::event::{PollFd, PollFlags};

use crate::ffi;
use crate::line::{LINGER, Line, Sent, Stage};
use crate::socket::nng_error;

#[derive(Debug)]
pub(crate) struct NngRequest {
    address: Address,
    options: Options,
    closing: Closing,
    /// The ask, for closing while another thread has the socket.
    ask: Mutex<Option<Arc<Ask>>>,
}

/// A line and its replies.
#[derive(Debug)]
pub(crate) struct Ask {
    line: Line,
    /// Readable while there is a reply to receive.
    incoming: OwnedFd,
}

impl NngRequest {
    pub(crate) fn socket(address: &Address, options: &Options) -> Result<RequestSocket<Self>> {
        let wire = Self {
            address: address.clone(),
            options: options.clone(),
            closing: Closing::new(address)?,
            ask: Mutex::default(),
        };
        // Dials from now on, like the other sockets.
        let ask = wire.redial(&mut None)?;
        RequestSocket::new(address, options, wire, Some(ask))
    }

    /// Begins a new connection; the former one is closed.
    fn redial(&self, current: &mut Option<Arc<Ask>>) -> Result<Arc<Ask>> {
        self.hang_up(current);
        let ask = Arc::new(Ask::new(&self.address, &self.options)?);
        let mut shared = lock(&self.ask);
        // `close` takes the current one and must not miss a later one.
        self.closing.check()?;
        *shared = Some(ask.clone());
        *current = Some(ask.clone());
        Ok(ask)
    }

    /// Waits for one of `sources`, until `until`.
    ///
    /// # Errors
    /// [`TransportError::Timeout`] only when `deadline` has passed.
    fn wait(&self, sources: &[&dyn AsFd], until: Deadline, deadline: Deadline) -> Result<()> {
        let mut fds = vec![PollFd::new(&self.closing, PollFlags::IN)];
        fds.extend(sources.iter().map(|source| PollFd::new(source, PollFlags::IN)));
        let waited = wait_for(&mut fds, until);
        self.closing.check()?;
        if waited.is_err() && has_passed(deadline) { Err(TransportError::Timeout) } else { Ok(()) }
    }
}

impl RequestWire for NngRequest {
    type Link = Option<Arc<Ask>>;

    fn closing(&self) -> &Closing {
        &self.closing
    }

    fn connected(&self, current: &mut Self::Link, deadline: Deadline) -> Result<ConnectionId> {
        loop {
            self.closing.check()?;
            let ask = match current {
                Some(ask) => ask.clone(),
                None => self.redial(current)?,
            };
            match ask.line.party.stage() {
                Stage::Up(_, id) => return Ok(id),
                Stage::Over => self.hang_up(current),
                Stage::Waiting | Stage::Coming(_) => self.wait(&[&ask.line.party.begun], deadline, deadline)?,
            }
        }
    }

    fn drop_replies(&self, current: &mut Self::Link) {
        if let Some(ask) = current {
            // libnng detects the connection's end only when everything before
            // it has been received: replies that no caller waits for.
            while let Ok(Some(_)) = ask.try_receive() {}
        }
    }

    fn prepare(&self, current: &mut Self::Link, connection: ConnectionId) -> Result<()> {
        let stage = current.as_ref().map(|ask| ask.line.party.stage());
        let is_up = matches!(stage, Some(Stage::Up(_, id)) if id == connection);
        if is_up { Ok(()) } else { Err(TransportError::Disconnected) }
    }

    fn transmit(
        &self,
        current: &mut Self::Link,
        _: ConnectionId,
        id: [u8; 4],
        body: &[u8],
        deadline: Deadline,
    ) -> Result<()> {
        let ask = current.clone().ok_or(TransportError::Disconnected)?;
        let mut message = Message::from(body);
        message.as_mut_header().push_back(&id);
        loop {
            self.closing.check()?;
            let sent = ask.line.try_send(message).map_err(|error| nng_error("send to", &self.address, error))?;
            message = match sent {
                Sent::Done => return Ok(()),
                Sent::NotUp(_) => return Err(TransportError::Disconnected),
                Sent::NotNow(message) => message,
            };
            self.wait(&[&ask.line.outgoing, &ask.line.party.over], deadline, deadline)?;
        }
    }

    fn take_reply(
        &self,
        current: &mut Self::Link,
        requester: &mut Requester,
        buffer: &mut Vec<u8>,
        _: bool,
    ) -> Result<bool> {
        let ask = current.as_ref().ok_or(TransportError::Disconnected)?;
        // Checked first: a reply that arrived before the end is then available.
        let is_over = ask.line.party.stage() == Stage::Over;
        let received = || ask.try_receive().map_err(|error| nng_error("receive at", &self.address, error));
        while let Some(message) = received()? {
            if let Some(body) = requester.accept(&message) {
                buffer.clear();
                buffer.extend_from_slice(body);
                return Ok(true);
            }
        }
        if is_over { Err(TransportError::Disconnected) } else { Ok(false) }
    }

    fn await_reply(&self, current: &mut Self::Link, until: Deadline) -> bool {
        if let Some(ask) = current {
            // Whether it ends by closing or at the deadline: both are checked.
            let _ = self.wait(&[&ask.incoming, &ask.line.party.over], until, until);
        }
        true
    }

    fn hang_up(&self, current: &mut Self::Link) {
        lock(&self.ask).take();
        if let Some(ask) = current.take() {
            ask.line.end();
        }
    }

    fn close(&self) {
        if self.closing.close() {
            let ask = lock(&self.ask).take();
            if let Some(ask) = ask {
                ask.line.linger(deadline_after(LINGER));
                ask.line.end();
            }
        }
    }
}

impl Ask {
    /// Dials `address`.
    fn new(address: &Address, options: &Options) -> Result<Self> {
        // A reply is its body and four bytes of id.
        let line = Line::dial(Protocol::Req0, (options.max_message as u64).saturating_add(4), address, options)?;
        let incoming = ffi::incoming(&line.socket);
        let incoming = incoming.map_err(|source| io_error("create a socket for", address, source))?;
        Ok(Self { line, incoming })
    }

    /// Receives the next reply, its id in front of its body; `None` when there
    /// is none now.
    fn try_receive(&self) -> nng::Result<Option<Message>> {
        loop {
            let mut message = match self.line.socket.try_recv() {
                Ok(message) => message,
                Err(nng::Error::TryAgain) => return Ok(None),
                Err(error) => return Err(error),
            };
            // A message with devices' words before our id does not answer a
            // request of ours.
            if let Ok(id) = <[u8; 4]>::try_from(message.as_header().as_slice()) {
                message.push_front(&id);
                return Ok(Some(message));
            }
        }
    }
}
