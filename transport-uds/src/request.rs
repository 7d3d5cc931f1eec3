//! REQ: dials, sends one request at a time, receives its reply.

use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

use ekuiper_core::address::Address;
use ekuiper_core::sp::{Connection, Event, Limits, Protocol, Requester};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{ConnectionId, Deadline, Options, Request, Result, TransportError};
use rustix::event::{PollFd, PollFlags};

use crate::dial::Dialer;
use crate::inbox::limits;
use crate::link::{Link, Written};
use crate::spin::Spinner;
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::receiving::check_length;
use ekuiper_transport_ipc::wait::{Closing, earlier, has_passed, io_error, wait_for};

/// Number of reads before the deadline is checked again: more than the kernel's
/// buffer holds.
const MAX_READS: usize = 16;

#[derive(Debug)]
pub(crate) struct UdsRequest {
    options: Options,
    limits: Limits,
    closing: Closing,
    state: DeadlineLock<RequestState>,
    /// The link, for closing while another thread has the state.
    link: Mutex<Option<Arc<Link>>>,
    /// Held by the thread that waits for the reply.
    receiving: Mutex<()>,
}

#[derive(Debug)]
struct RequestState {
    dialer: Dialer,
    peer: Option<RequestConnection>,
    requester: Requester,
    /// The latest request's body, kept if it may have to be sent again.
    body: Vec<u8>,
    spinner: Spinner,
    /// The spinner of waits for room for a long request.
    write_spinner: Spinner,
}

#[derive(Debug)]
struct RequestConnection {
    link: Arc<Link>,
    connection: Connection,
}

impl UdsRequest {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        let mut seed = [0; 4];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| io_error("create a socket for", address, errno.into()))?;
        let requester = Requester::new(u32::from_ne_bytes(seed), options.retry);
        let [spinner, write_spinner] = [(); 2].map(|()| Spinner::new(options.spin));
        let dialer = Dialer::new(address, options);
        let state = RequestState { dialer, peer: None, requester, body: Vec::new(), spinner, write_spinner };
        Ok(Self {
            // A reply is its body and four bytes of id.
            limits: limits(options, (options.max_message as u64).saturating_add(4), 0),
            options: options.clone(),
            closing: Closing::new(address)?,
            state: DeadlineLock::new(state),
            link: Mutex::default(),
            receiving: Mutex::default(),
        })
    }

    fn set_link(&self, link: Option<Arc<Link>>) {
        let mut shared = lock(&self.link);
        if let (Some(link), Err(_)) = (&link, self.closing.check()) {
            // The socket may have been closed already.
            link.shutdown();
        }
        if let Some(former) = std::mem::replace(&mut *shared, link) {
            former.shutdown();
        }
    }

    fn hang_up(&self, state: &mut RequestState) {
        state.peer = None;
        self.set_link(None);
    }

    /// Ensures a connection whose header has arrived.
    fn connected(&self, state: &mut RequestState, deadline: Deadline) -> Result<ConnectionId> {
        loop {
            self.closing.check()?;
            if let Some(peer) = &mut state.peer {
                match peer.notice() {
                    Ok(true) => {
                        state.dialer.succeeded();
                        return Ok(peer.link.id);
                    }
                    Ok(false) => {
                        let until = earlier(deadline, peer.connection.deadline());
                        self.wait(Some((peer, PollFlags::IN)), until, deadline)?;
                        continue;
                    }
                    Err(_) => self.hang_up(state),
                }
            }
            let link = state.dialer.attempt(Protocol::Request).filter(|link| link.let_reads_wait().is_ok());
            if let Some(link) = link {
                // If the connection ends before its header, do not dial again
                // at once.
                state.dialer.postpone(Instant::now());
                let link = Arc::new(link);
                self.set_link(Some(link.clone()));
                let connection = Connection::new(Protocol::Request, self.limits.clone(), Instant::now());
                state.peer = Some(RequestConnection { link, connection });
                continue;
            }
            self.wait(None, earlier(deadline, Some(state.dialer.next_attempt())), deadline)?;
        }
    }

    /// Waits for a peer, or for the time to dial, until `until`.
    ///
    /// # Errors
    /// [`TransportError::Timeout`] only when `deadline` has passed.
    fn wait(&self, peer: Option<(&RequestConnection, PollFlags)>, until: Deadline, deadline: Deadline) -> Result<()> {
        let waited = match peer {
            // Closing ends the connection, and thereby this wait.
            Some((peer, flags)) => wait_for(&mut [PollFd::new(&peer.link, flags)], until),
            None => wait_for(&mut [PollFd::new(&self.closing, PollFlags::IN)], until),
        };
        self.closing.check()?;
        if waited.is_err() && has_passed(deadline) { Err(TransportError::Timeout) } else { Ok(()) }
    }

    fn transmit(&self, state: &mut RequestState, id: [u8; 4], body: &[u8], deadline: Deadline) -> Result<()> {
        let mut is_late = false;
        loop {
            let peer = state.peer.as_ref().ok_or(TransportError::Disconnected)?;
            let (stall, spinner) = (self.options.stall_timeout, &mut state.write_spinner);
            match peer.link.write(&id, body, &self.closing, stall, deadline, spinner) {
                Ok(Written::All) => return Ok(()),
                // There may be room, but for the rest of an earlier request.
                Ok(Written::Nothing) if is_late => return Err(TransportError::Timeout),
                Ok(Written::Nothing) => {
                    self.wait(Some((peer, PollFlags::OUT)), deadline, deadline)?;
                    is_late = has_passed(deadline);
                }
                Ok(Written::Gone) => {
                    // The error may be due to closing.
                    self.closing.check()?;
                    self.hang_up(state);
                    return Err(TransportError::Disconnected);
                }
                Err(error) => {
                    self.hang_up(state);
                    return Err(error);
                }
            }
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
                Err(TransportError::Disconnected) => {}
                sent => return sent,
            }
        }
    }
}

impl Request for UdsRequest {
    fn connect(&self, deadline: Deadline) -> Result<ConnectionId> {
        let mut state = self.state.lock_open(&self.closing, deadline)?;
        self.connected(&mut state, deadline)
    }

    fn send(&self, connection: ConnectionId, body: &[u8], deadline: Deadline) -> Result<()> {
        check_length(body, self.options.max_message)?;
        let mut state = self.state.lock_open(&self.closing, deadline)?;
        if state.peer.as_ref().is_none_or(|peer| peer.link.id != connection) {
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
            self.set_link(None);
        }
        self.state.look_again();
    }
}

impl UdsRequest {
    fn await_reply(&self, state: &mut RequestState, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let mut waited = false;
        loop {
            self.closing.check()?;
            let arrived = match &mut state.peer {
                Some(peer) => peer.reply(&mut state.requester, buffer, waited),
                None => Err(TransportError::Disconnected),
            };
            match arrived {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => {
                    // The error may be due to closing.
                    self.closing.check()?;
                    self.hang_up(state);
                    if self.options.retry.is_none() {
                        return Err(TransportError::Disconnected);
                    }
                    self.repeat(state, deadline)?;
                    continue;
                }
            }
            if waited && has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            let resend_at = state.requester.resend_at();
            if has_passed(resend_at) {
                self.repeat(state, deadline)?;
                continue;
            }
            waited = true;
            if let Some(peer) = &mut state.peer
                && !has_passed(deadline)
            {
                let until = earlier(deadline, resend_at);
                // The next read returns a connection's end again.
                waited = peer.await_bytes(&mut state.spinner, &self.closing, until).unwrap_or(true);
            }
        }
    }
}

impl Drop for UdsRequest {
    fn drop(&mut self) {
        self.close();
    }
}

impl RequestConnection {
    /// Checks whether the peer's header has arrived, and detects the
    /// connection's end.
    fn notice(&mut self) -> Result<bool> {
        // Unsolicited data of a peer stays in the kernel: the first piece is
        // enough to see that the peer is alive.
        if !self.connection.has_buffered() {
            self.read()?;
        }
        if !self.connection.is_ready() {
            while self.connection.next().map_err(|_| TransportError::Disconnected)? == Some(Event::Ready) {}
        }
        Ok(self.connection.is_ready())
    }

    /// Whether the reply to the request in flight has arrived; `buffer` then
    /// holds it.
    fn reply(&mut self, requester: &mut Requester, buffer: &mut Vec<u8>, mut readable: bool) -> Result<bool> {
        let mut reads = MAX_READS;
        loop {
            match self.connection.next().map_err(|_| TransportError::Disconnected)? {
                Some(Event::Message(message)) => {
                    let length = message.len();
                    if let Some(body) = requester.accept(message) {
                        let words = length - body.len();
                        self.connection.take(words, buffer);
                        return Ok(true);
                    }
                }
                Some(_) => {}
                None if readable && reads > 0 => {
                    readable = self.read()?;
                    reads -= 1;
                }
                None => return Ok(false),
            }
        }
    }

    /// Waits for bytes. `false`: some have arrived and were read. `true`: there
    /// may be some to read.
    fn await_bytes(&mut self, spinner: &mut Spinner, closing: &Closing, until: Deadline) -> Result<bool> {
        let look = || match self.take_in(Link::read) {
            Ok(None) if closing.check().is_ok() => None,
            looked => Some(looked),
        };
        if let Some(found) = spinner.spin(look) {
            return found.map(|_| false);
        }
        let until = earlier(until, self.connection.deadline());
        spinner.sleep(|| {
            if until.is_some() {
                let _ = wait_for(&mut [PollFd::new(&self.link, PollFlags::IN)], until);
                return Ok(true);
            }
            // Closing ends the connection, and thereby this wait.
            self.take_in(Link::read_waiting).map(|_| false)
        })
    }

    /// Reads once; returns whether the buffer was filled. `None`: there was
    /// nothing to read.
    fn take_in(&mut self, read: impl FnOnce(&Link, &mut [u8]) -> Result<Option<usize>>) -> Result<Option<bool>> {
        let space = self.connection.space();
        let room = space.len();
        let count = read(&self.link, space)?;
        if let Some(count) = count {
            self.connection.filled(count, Instant::now());
        }
        Ok(count.map(|count| count == room))
    }

    /// Reads once; returns whether there may be more to read.
    fn read(&mut self) -> Result<bool> {
        match self.take_in(Link::read)? {
            Some(filled) => Ok(filled),
            None => {
                self.connection.check_time(Instant::now()).map_err(|_| TransportError::Disconnected)?;
                Ok(false)
            }
        }
    }
}
