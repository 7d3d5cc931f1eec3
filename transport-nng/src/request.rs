//! REQ: dials, sends one request at a time, receives its reply.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

use ekuiper_core::address::Address;
use ekuiper_core::sp::Requester;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{ConnectionId, Deadline, Options, Request, Result, TransportError};
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::receiving::check_length;
use ekuiper_transport_ipc::wait::{Closing, earlier, has_passed, io_error, wait_for};
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
    state: DeadlineLock<RequestState>,
    /// Locked by the thread that receives: a second one is refused, not kept
    /// waiting.
    receiving: Mutex<()>,
    /// The ask, for closing while another thread has the state.
    ask: Mutex<Option<Arc<Ask>>>,
}

/// A line and its replies.
#[derive(Debug)]
struct Ask {
    line: Line,
    /// Readable while there is a reply to receive.
    incoming: OwnedFd,
}

#[derive(Debug)]
struct RequestState {
    ask: Option<Arc<Ask>>,
    requester: Requester,
    /// The latest request's body, kept if it may have to be sent again.
    body: Vec<u8>,
}

impl NngRequest {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        let mut seed = [0; 4];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| io_error("create a socket for", address, errno.into()))?;
        let requester = Requester::new(u32::from_ne_bytes(seed), options.retry);
        let request = Self {
            address: address.clone(),
            options: options.clone(),
            closing: Closing::new(address)?,
            state: DeadlineLock::new(RequestState { ask: None, requester, body: Vec::new() }),
            receiving: Mutex::default(),
            ask: Mutex::default(),
        };
        // Dials from now on, like the other sockets.
        let mut state = request.state.lock_open(&request.closing, None)?;
        request.redial(&mut state)?;
        drop(state);
        Ok(request)
    }

    /// Begins a new connection; the former one is closed.
    fn redial(&self, state: &mut RequestState) -> Result<Arc<Ask>> {
        self.hang_up(state);
        let ask = Arc::new(Ask::new(&self.address, &self.options)?);
        let mut shared = lock(&self.ask);
        // `close` takes the current one and must not miss a later one.
        self.closing.check()?;
        *shared = Some(ask.clone());
        state.ask = Some(ask.clone());
        Ok(ask)
    }

    fn hang_up(&self, state: &mut RequestState) {
        lock(&self.ask).take();
        if let Some(ask) = state.ask.take() {
            ask.line.end();
        }
    }

    /// Ensures that there is a connection.
    fn connected(&self, state: &mut RequestState, deadline: Deadline) -> Result<ConnectionId> {
        loop {
            self.closing.check()?;
            let ask = match &state.ask {
                Some(ask) => ask.clone(),
                None => self.redial(state)?,
            };
            match ask.line.party.stage() {
                Stage::Up(_, id) => return Ok(id),
                Stage::Over => self.hang_up(state),
                Stage::Waiting | Stage::Coming(_) => self.wait(&[&ask.line.party.begun], deadline, deadline)?,
            }
        }
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

    fn transmit(&self, state: &mut RequestState, id: [u8; 4], body: &[u8], deadline: Deadline) -> Result<()> {
        let ask = state.ask.clone().ok_or(TransportError::Disconnected)?;
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

    /// Sends the latest request again, with the same id, on a new connection if
    /// needed.
    fn repeat(&self, state: &mut RequestState, deadline: Deadline) -> Result<()> {
        loop {
            self.connected(state, deadline)?;
            let Some(id) = state.requester.resend(Instant::now()) else { return Ok(()) };
            let body = std::mem::take(&mut state.body);
            let sent = self.transmit(state, id, &body, deadline);
            state.body = body;
            match sent {
                Err(TransportError::Disconnected) => self.hang_up(state),
                sent => return sent,
            }
        }
    }

    fn await_reply(&self, state: &mut RequestState, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        loop {
            self.closing.check()?;
            let ask = state.ask.clone();
            // Checked first: a reply that arrived before the end is then
            // available.
            let over = ask.as_ref().is_none_or(|ask| ask.line.party.stage() == Stage::Over);
            if let Some(ask) = &ask {
                let received = || ask.try_receive().map_err(|error| nng_error("receive at", &self.address, error));
                while let Some(message) = received()? {
                    if let Some(body) = state.requester.accept(&message) {
                        buffer.clear();
                        buffer.extend_from_slice(body);
                        return Ok(());
                    }
                }
            }
            if over && self.options.retry.is_none() {
                self.hang_up(state);
                return Err(TransportError::Disconnected);
            }
            if has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            let resend_at = state.requester.resend_at();
            match &ask {
                Some(ask) if !over && !has_passed(resend_at) => {
                    self.wait(&[&ask.incoming, &ask.line.party.over], earlier(deadline, resend_at), deadline)?;
                }
                _ => self.repeat(state, deadline)?,
            }
        }
    }
}

impl Request for NngRequest {
    fn connect(&self, deadline: Deadline) -> Result<ConnectionId> {
        let mut state = self.state.lock_open(&self.closing, deadline)?;
        if let (Some(ask), false) = (&state.ask, state.requester.is_waiting()) {
            // libnng detects the connection's end only when everything before
            // it has been received: replies that no caller waits for.
            while let Ok(Some(_)) = ask.try_receive() {}
        }
        self.connected(&mut state, deadline)
    }

    fn send(&self, connection: ConnectionId, body: &[u8], deadline: Deadline) -> Result<()> {
        check_length(body, self.options.max_message)?;
        let mut state = self.state.lock_open(&self.closing, deadline)?;
        let stage = state.ask.as_ref().map(|ask| ask.line.party.stage());
        if !matches!(stage, Some(Stage::Up(_, id)) if id == connection) {
            return Err(TransportError::Disconnected);
        }
        let id = state.requester.begin(Instant::now());
        if self.options.retry.is_some() {
            state.body.clear();
            state.body.extend_from_slice(body);
        }
        let sent = self.transmit(&mut state, id, body, deadline);
        if sent.is_err() {
            state.requester.cancel();
        }
        sent
    }

    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let _receiving = match self.receiving.try_lock() {
            Ok(receiving) => receiving,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.closing.check()?;
                return Err(TransportError::Misuse("another thread is receiving on this socket"));
            }
        };
        let mut entered = self.state.lock_open(&self.closing, deadline)?;
        let state = &mut *entered;
        if !state.requester.is_waiting() {
            return Err(TransportError::Misuse("no request is in flight"));
        }
        let received = self.await_reply(state, buffer, deadline);
        if received.is_err() {
            state.requester.cancel();
        }
        received
    }

    fn close(&self) {
        if self.closing.close() {
            self.state.look_again();
            let ask = lock(&self.ask).take();
            if let Some(ask) = ask {
                ask.line.linger(Instant::now() + LINGER);
                ask.line.end();
            }
        }
    }
}

impl Drop for NngRequest {
    fn drop(&mut self) {
        self.close();
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
