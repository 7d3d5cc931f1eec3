//! REP: receives requests, and answers each on the connection it came from.

#![allow(clippy::disallowed_methods, reason = "the transport that makes the ids")]

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, RwLock};

use ekuiper_core::address::Address;
use ekuiper_core::sp::{BacktraceFault, MAX_WORDS, Protocol, split_backtrace};
use ekuiper_core::transport::{
    ConnectionId, Deadline, Endpoint, Options, PeerProcess, Reply, ReplyEvent, RequestId, Result, Ticket,
    TransportError,
};
use rustix::event::PollFlags;

use crate::inbox::{Content, Inbox, Verdict};
use crate::link::{Link, Written};
use crate::spin::Spinner;
use crate::stream::Medium;
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::open_request::{OpenRequest, Tickets};
use ekuiper_transport_ipc::process::peer_process;
use ekuiper_transport_ipc::receiving::{Asked, check_length};
use ekuiper_transport_ipc::wait::has_passed;

/// Maximum length of an oversize request that is skipped; a longer one ends its
/// connection.
const SKIP_UP_TO: u64 = 1 << 30;

#[derive(Debug)]
pub(crate) struct UdsReply {
    inbox: Inbox,
    options: Options,
    tickets: Tickets,
    peers: RwLock<BTreeMap<ConnectionId, Arc<ReplyConnection>>>,
}

/// The state of a connection that has sent a request.
#[derive(Debug)]
struct ReplyConnection {
    link: Arc<Link>,
    open: OpenRequest,
    /// Held while an answer is written, so that frames do not mix.
    writing: DeadlineLock<Spinner>,
}

impl UdsReply {
    pub(crate) fn new(address: &Address, options: &Options, medium: &'static dyn Medium) -> Result<Self> {
        // Room for the longest backtrace; the body's own length is checked when
        // it is known.
        let max = (options.max_message as u64).saturating_add(MAX_WORDS as u64 * 4);
        let skip = SKIP_UP_TO.max(max);
        let endpoint = Endpoint::Listen(address.clone());
        Ok(Self {
            inbox: Inbox::new(Protocol::Reply, &endpoint, options, max, skip, medium)?,
            options: options.clone(),
            tickets: Tickets::default(),
            peers: RwLock::default(),
        })
    }

    /// Creates a ticket for the request, which supersedes its connection's
    /// earlier one.
    fn ticket(&self, link: &Arc<Link>, request: RequestId) -> Ticket {
        let known = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&link.id).cloned();
        let peer = known.unwrap_or_else(|| {
            let writing = DeadlineLock::new(Spinner::new(self.options.spin));
            let peer = Arc::new(ReplyConnection { link: link.clone(), open: OpenRequest::default(), writing });
            self.peers.write().unwrap_or_else(PoisonError::into_inner).insert(link.id, peer.clone());
            peer
        });
        self.tickets.issue(&peer.open, link.id, request)
    }

    fn judge(&self, link: &Arc<Link>, content: Content<'_>) -> Verdict<Asked> {
        let (bytes, length) = match content {
            Content::Message(bytes, length) => (bytes, length as u64),
            Content::Oversized(head, length) => (head, length),
        };
        match split_backtrace(bytes) {
            Err(BacktraceFault::Malformed) => Verdict::Close,
            Err(BacktraceFault::TooManyHops) => Verdict::Drop,
            Ok((request, _)) => {
                let ticket = self.ticket(link, request);
                let words = request.as_bytes().len();
                let length = length - words as u64;
                if length > self.options.max_message as u64 {
                    return Verdict::Tell(Asked::Oversized(ticket, length));
                }
                Verdict::Deliver(Asked::Request(ticket), words)
            }
        }
    }

    fn write(&self, peer: &ReplyConnection, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()> {
        let closing = self.inbox.closing();
        let mut spinner = peer.writing.lock_open(closing, deadline)?;
        let stall = self.options.stall_timeout;
        let mut is_late = false;
        loop {
            match peer.link.write(ticket.request.as_bytes(), body, closing, stall, deadline, &mut spinner) {
                Ok(Written::All) => return Ok(()),
                Ok(Written::Gone) => {
                    // The error may be due to closing.
                    closing.check()?;
                    return Err(TransportError::Disconnected);
                }
                // There may be room, but for the rest of an earlier answer.
                Ok(Written::Nothing) if is_late => return Err(TransportError::Timeout),
                Ok(Written::Nothing) => {
                    peer.link.wait(PollFlags::OUT, Some(closing), deadline)?;
                    closing.check()?;
                    is_late = has_passed(deadline);
                }
                Err(error) => {
                    peer.link.shutdown();
                    return Err(error);
                }
            }
        }
    }
}

impl Reply for UdsReply {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<ReplyEvent> {
        let incoming = self.inbox.receive(buffer, deadline, |link, content| self.judge(link, content))?;
        let event = incoming.into();
        if let ReplyEvent::Disconnected(connection) = &event {
            self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(connection);
        }
        Ok(event)
    }

    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()> {
        self.inbox.closing().check()?;
        check_length(body, self.options.max_message)?;
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.get(&ticket.connection).cloned().ok_or(TransportError::Disconnected)?;
        drop(peers);
        peer.open.take(ticket)?;
        let sent = self.write(&peer, ticket, body, deadline);
        if matches!(sent, Err(TransportError::Timeout)) {
            peer.open.give_back(ticket);
        }
        sent
    }

    fn peer(&self, connection: ConnectionId) -> Option<PeerProcess> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&connection).map(|peer| peer_process(&peer.link))
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inbox.readiness())
    }

    fn finish(&self) {
        self.inbox.finish();
    }

    fn close(&self) {
        self.inbox.close();
        self.peers.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|peer| peer.writing.look_again());
    }
}
