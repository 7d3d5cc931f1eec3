//! REQ: dials, sends one request at a time, receives its reply. The wire of
//! `ekuiper_transport_ipc`'s request socket.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::sp::{Connection, Event, Limits, Protocol, Requester};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{ConnectionId, Deadline, Options, Result, TransportError};
use ekuiper_transport_ipc::request::{RequestSocket, RequestWire};
use ekuiper_transport_ipc::wait::{Closing, earlier, has_passed, wait_for};
use rustix::event::{PollFd, PollFlags};

use crate::dial::Dialer;
use crate::inbox::limits;
use crate::link::{Link, Written};
use crate::spin::{MAX_LOOK, Spinner, up_to};
use crate::stream::Medium;

/// Number of reads before the deadline is checked again: more than the kernel's
/// buffer holds.
const MAX_READS: usize = 16;

#[derive(Debug)]
pub(crate) struct UdsRequest {
    limits: Limits,
    /// Maximum pause within a message of a peer that is connected.
    stall: Duration,
    closing: Closing,
    /// The link, for closing while another thread has the state.
    link: Mutex<Option<Arc<Link>>>,
}

#[derive(Debug)]
pub(crate) struct RequestState {
    dialer: Dialer,
    peer: Option<RequestConnection>,
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
    pub(crate) fn socket(
        address: &Address,
        options: &Options,
        medium: &'static dyn Medium,
    ) -> Result<RequestSocket<Self>> {
        let wire = Self {
            // A reply is its body and four bytes of id.
            limits: limits(options, (options.max_message as u64).saturating_add(4), 0),
            stall: options.stall_timeout,
            closing: Closing::new(address)?,
            link: Mutex::default(),
        };
        let [spinner, write_spinner] = [(); 2].map(|()| Spinner::new(options.spin));
        let state = RequestState { dialer: Dialer::new(address, options, medium), peer: None, spinner, write_spinner };
        RequestSocket::new(address, options, wire, state)
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

    /// Waits for a peer, or for the time to dial, until `until`.
    ///
    /// # Errors
    /// [`TransportError::Timeout`] only when `deadline` has passed.
    fn wait(&self, peer: Option<(&RequestConnection, PollFlags)>, until: Deadline, deadline: Deadline) -> Result<()> {
        let waited = match peer {
            // Closing ends the connection, and thereby this wait.
            Some((peer, flags)) => peer.link.wait(flags, None, until),
            None => wait_for(&mut [PollFd::new(&self.closing, PollFlags::IN)], until),
        };
        self.closing.check()?;
        if waited.is_err() && has_passed(deadline) { Err(TransportError::Timeout) } else { Ok(()) }
    }
}

impl RequestWire for UdsRequest {
    type Link = RequestState;

    #[inline]
    fn closing(&self) -> &Closing {
        &self.closing
    }

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

    #[inline]
    fn prepare(&self, state: &mut RequestState, connection: ConnectionId) -> Result<()> {
        let is_present = state.peer.as_ref().is_some_and(|peer| peer.link.id == connection);
        if is_present { Ok(()) } else { Err(TransportError::Disconnected) }
    }

    fn transmit(
        &self,
        state: &mut RequestState,
        _: ConnectionId,
        id: [u8; 4],
        body: &[u8],
        deadline: Deadline,
    ) -> Result<()> {
        let mut is_late = false;
        loop {
            let peer = state.peer.as_ref().ok_or(TransportError::Disconnected)?;
            let (stall, spinner) = (self.stall, &mut state.write_spinner);
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

    #[inline]
    fn take_reply(
        &self,
        state: &mut RequestState,
        requester: &mut Requester,
        buffer: &mut Vec<u8>,
        looks: bool,
    ) -> Result<bool> {
        let peer = state.peer.as_mut().ok_or(TransportError::Disconnected)?;
        peer.reply(requester, buffer, looks).map_err(|_| TransportError::Disconnected)
    }

    #[inline]
    fn await_reply(&self, state: &mut RequestState, until: Deadline) -> bool {
        // The next read returns a connection's end again.
        let peer = state.peer.as_mut();
        peer.is_none_or(|peer| peer.await_bytes(&mut state.spinner, &self.closing, until).unwrap_or(true))
    }

    fn hang_up(&self, state: &mut RequestState) {
        state.peer = None;
        self.set_link(None);
    }

    fn close(&self) {
        if self.closing.close() {
            self.set_link(None);
        }
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
                Some(Event::Long(words, _)) => {
                    let count = words.len();
                    if requester.accept(words).is_some() {
                        self.connection.take(count, buffer);
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
        let look = || match self.link.read(up_to(MAX_LOOK, self.connection.space())) {
            Ok(None) if closing.check().is_ok() => None,
            looked => Some(looked),
        };
        if let Some((found, now)) = spinner.spin(Instant::now(), !self.link.is_socket(), look) {
            let Some(count) = found? else { return Ok(false) };
            let may_have_more = count == up_to(MAX_LOOK, self.connection.space()).len();
            self.connection.filled(count, now);
            return Ok(may_have_more);
        }
        let until = earlier(until, self.connection.deadline());
        spinner.sleep(until, || {
            if until.is_some() {
                let _ = self.link.wait(PollFlags::IN, None, until);
                return Ok(true);
            }
            // Closing ends the connection, and thereby this wait.
            self.take_in(Link::read_waiting).map(|_| false)
        })
    }

    /// Reads once; returns whether there may be more. `None`: there was nothing
    /// to read.
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
