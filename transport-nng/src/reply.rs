//! REP: receives requests, and answers each on the connection it came from.
//!
//! The socket is a raw one: libnng puts its own number of the connection and
//! the request's words into the message's header, and sends an answer with such
//! a header to that connection. Which requests can be answered is tracked here.

#![allow(clippy::disallowed_methods, reason = "the transport that makes the ids")]

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

use ekuiper_core::address::Address;
use ekuiper_core::sp::MAX_WORDS;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{
    ConnectionId, Deadline, Endpoint, Options, Reply, ReplyEvent, RequestId, Result, Ticket, TransportError,
};
use ekuiper_transport_ipc::wait::{io_error, wait_for};
use nng::{Message, Pipe, Protocol};
use rustix::event::{PollFd, PollFlags};

use crate::ffi;
use crate::inbox::{Inbox, Incoming};
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
    desk: Mutex<OpenRequests>,
}

/// The requests that can be answered.
#[derive(Debug, Default)]
struct OpenRequests {
    serial: u64,
    peers: HashMap<ConnectionId, ReplyConnection>,
}

/// The state of a connection that has sent a request.
#[derive(Debug)]
struct ReplyConnection {
    pipe: Pipe,
    /// libnng's number of the connection, the first word of a header.
    number: [u8; 4],
    /// The serial of the request that can be answered; 0 when there is none.
    open: u64,
}

enum Got {
    Request(Ticket),
    Oversized(Ticket, u64),
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
        Ok(Self { inbox, max_message: options.max_message, outgoing, desk: Mutex::default() })
    }

    fn desk(&self) -> MutexGuard<'_, OpenRequests> {
        lock(&self.desk)
    }

    fn judge(&self, sender: Sender, message: &Message, buffer: &mut Vec<u8>) -> Option<Got> {
        let (number, words) = message.as_header().as_slice().split_first_chunk::<4>()?;
        let request = RequestId::new(words)?;
        let ticket = self.desk().ticket(sender, *number, request);
        if message.len() > self.max_message {
            return Some(Got::Oversized(ticket, message.len() as u64));
        }
        buffer.clear();
        buffer.extend_from_slice(message);
        Some(Got::Request(ticket))
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
        Ok(match incoming {
            Incoming::Message(_, Got::Request(ticket)) => ReplyEvent::Request(ticket),
            Incoming::Message(_, Got::Oversized(ticket, length)) => ReplyEvent::Oversized(ticket, length),
            Incoming::Connected(connection) => ReplyEvent::Connected(connection),
            Incoming::Disconnected(connection) => {
                self.desk().peers.remove(&connection);
                ReplyEvent::Disconnected(connection)
            }
        })
    }

    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()> {
        self.inbox.wire.closing.check()?;
        if body.len() > self.max_message {
            return Err(TransportError::TooLong { length: body.len() as u64, max: self.max_message as u64 });
        }
        let mut message = Message::from(body);
        // Taken before the answer is sent: the connection's next request may
        // arrive before this call returns.
        let number = self.desk().take(ticket, |pipe| self.inbox.is_present(pipe))?;
        message.as_mut_header().push_back(&number);
        message.as_mut_header().push_back(ticket.request.as_bytes());
        let sent = self.transmit(message, deadline);
        if matches!(sent, Err(TransportError::Timeout)) {
            self.desk().give_back(ticket);
        }
        sent
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

impl OpenRequests {
    /// Creates a ticket for the request, which supersedes its connection's
    /// earlier one.
    fn ticket(&mut self, sender: Sender, number: [u8; 4], request: RequestId) -> Ticket {
        self.serial += 1;
        let peer = ReplyConnection { pipe: sender.pipe, number, open: self.serial };
        self.peers.insert(sender.id, peer);
        Ticket { connection: sender.id, serial: self.serial, request }
    }

    /// Takes the right to answer, and returns the answer's destination.
    fn take(&mut self, ticket: &Ticket, is_present: impl FnOnce(Pipe) -> bool) -> Result<[u8; 4]> {
        let peer = self.peers.get_mut(&ticket.connection).filter(|peer| is_present(peer.pipe));
        let peer = peer.ok_or(TransportError::Disconnected)?;
        if peer.open != ticket.serial {
            return Err(TransportError::Misuse("the request was already answered, or superseded by a later one"));
        }
        peer.open = 0;
        Ok(peer.number)
    }

    /// Returns the right to answer after nothing was sent, unless a later
    /// request arrived meanwhile.
    fn give_back(&mut self, ticket: &Ticket) {
        if let Some(peer) = self.peers.get_mut(&ticket.connection)
            && peer.open == 0
        {
            peer.open = ticket.serial;
        }
    }
}
