//! REP: receives requests, and answers each on the connection it came from.
//!
//! The socket is a raw one: libnng puts its own number of the connection and
//! the request's words into the message's header, and sends an answer with such
//! a header to that connection. Which requests can be answered is tracked here.

#![allow(clippy::disallowed_methods, reason = "the transport that makes the ids")]

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Mutex;

use ekuiper_core::address::Address;
use ekuiper_core::sp::MAX_WORDS;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{
    ConnectionId, Deadline, Endpoint, Options, PeerProcess, Reply, ReplyEvent, RequestId, Result, Ticket,
    TransportError,
};
use ekuiper_transport_ipc::open_request::{OpenRequest, Tickets};
use ekuiper_transport_ipc::receiving::{Asked, check_length};
use ekuiper_transport_ipc::wait::{io_error, wait_for};
use nng::{Message, Pipe, Protocol};
use rustix::event::{PollFd, PollFlags};

use crate::ffi;
use crate::gatekeeper::peer_process;
use crate::inbox::Inbox;
use crate::roster::Sender;
use crate::socket::nng_error;

/// Minimum excess over the limit up to which an oversize request is received
/// and reported; the actual bound is the larger of this and the limit itself.
const SKIP_AT_LEAST: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct NngReply {
    inbox: Inbox,
    max_message: usize,
    /// Readable while libnng has room for an answer.
    outgoing: OwnedFd,
    tickets: Tickets,
    peers: Mutex<HashMap<ConnectionId, ReplyConnection>>,
}

/// The state of a connection that has sent a request.
#[derive(Debug)]
struct ReplyConnection {
    pipe: Pipe,
    /// libnng's number of the connection, the first word of a header.
    number: [u8; 4],
    open: OpenRequest,
}

impl NngReply {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        // Room for the longest backtrace; the body's own length is checked when
        // it is known.
        let max = options.max_message as u64;
        let taken = max.saturating_add(max.max(SKIP_AT_LEAST)).saturating_add(MAX_WORDS as u64 * 4);
        let inbox = Inbox::new(Protocol::Rep0, &Endpoint::Listen(address.clone()), taken, options)?;
        let outgoing =
            ffi::outgoing(&inbox.wire.socket).map_err(|source| io_error("create a socket for", address, source))?;
        Ok(Self {
            inbox,
            max_message: options.max_message,
            outgoing,
            tickets: Tickets::default(),
            peers: Mutex::default(),
        })
    }

    /// Creates a ticket for the request, which supersedes its connection's
    /// earlier one.
    fn ticket(&self, sender: Sender, number: [u8; 4], request: RequestId) -> Ticket {
        let mut peers = lock(&self.peers);
        let peer = || ReplyConnection { pipe: sender.pipe, number, open: OpenRequest::default() };
        self.tickets.issue(&peers.entry(sender.id).or_insert_with(peer).open, sender.id, request)
    }

    fn judge(&self, sender: Sender, message: &Message, buffer: &mut Vec<u8>) -> Option<Asked> {
        let (number, words) = message.as_header().as_slice().split_first_chunk::<4>()?;
        let request = RequestId::new(words)?;
        let ticket = self.ticket(sender, *number, request);
        if message.len() > self.max_message {
            return Some(Asked::Oversized(ticket, message.len() as u64));
        }
        buffer.clear();
        buffer.extend_from_slice(message);
        Some(Asked::Request(ticket))
    }

    fn transmit(&self, mut message: Message, deadline: Deadline) -> Result<()> {
        let wire = &self.inbox.wire;
        loop {
            wire.closing.check()?;
            message = match wire.socket.try_send(message) {
                Ok(()) => return Ok(()),
                Err((message, nng::Error::TryAgain)) => message,
                Err((_, error)) => return Err(nng_error("answer at", self.inbox.address(), error)),
            };
            let mut fds = [PollFd::new(&self.outgoing, PollFlags::IN), PollFd::new(&*wire.closing, PollFlags::IN)];
            wait_for(&mut fds, deadline)?;
        }
    }
}

impl Reply for NngReply {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<ReplyEvent> {
        let incoming = self.inbox.receive(deadline, |sender, message| self.judge(sender, &message, buffer))?;
        let event = incoming.into();
        if let ReplyEvent::Disconnected(connection) = &event {
            lock(&self.peers).remove(connection);
        }
        Ok(event)
    }

    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()> {
        self.inbox.wire.closing.check()?;
        check_length(body, self.max_message)?;
        let mut message = Message::from(body);
        {
            let peers = lock(&self.peers);
            let peer = peers.get(&ticket.connection).filter(|peer| self.inbox.is_present(peer.pipe));
            let peer = peer.ok_or(TransportError::Disconnected)?;
            peer.open.take(ticket)?;
            message.as_mut_header().push_back(&peer.number);
        }
        message.as_mut_header().push_back(ticket.request.as_bytes());
        let sent = self.transmit(message, deadline);
        if matches!(sent, Err(TransportError::Timeout)) {
            let peers = lock(&self.peers);
            peers.get(&ticket.connection).iter().for_each(|peer| peer.open.give_back(ticket));
        }
        sent
    }

    fn peer(&self, connection: ConnectionId) -> Option<PeerProcess> {
        let pipe = lock(&self.peers).get(&connection)?.pipe;
        self.inbox.is_present(pipe).then(|| peer_process(pipe))
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inbox.readiness())
    }

    fn finish(&self) {
        self.inbox.finish();
    }

    fn close(&self) {
        self.inbox.close();
    }
}
