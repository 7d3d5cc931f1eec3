//! REP: receives requests, and answers each on the connection it came from.

#![allow(clippy::disallowed_methods, reason = "the transport that makes the ids")]

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ekuiper_core::address::Address;
use ekuiper_core::sp::{BacktraceFault, MAX_WORDS, Protocol, split_backtrace};
use ekuiper_core::transport::{
    ConnectionId, Deadline, Endpoint, Options, Reply, ReplyEvent, RequestId, Result, Ticket, TransportError,
};
use rustix::event::{PollFd, PollFlags};

use crate::inbox::{Content, Inbox, Incoming, Verdict};
use crate::link::{Link, Written};
use crate::spin::Spinner;
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::wait::{has_passed, wait_for};

/// Maximum length of an oversize request that is skipped; a longer one ends its
/// connection.
const SKIP_UP_TO: u64 = 1 << 30;

#[derive(Debug)]
pub(crate) struct UdsReply {
    inbox: Inbox,
    options: Options,
    serial: AtomicU64,
    peers: RwLock<BTreeMap<ConnectionId, Arc<ReplyConnection>>>,
}

/// The state of a connection that has sent a request.
#[derive(Debug)]
struct ReplyConnection {
    link: Arc<Link>,
    /// The serial of the request that can be answered; 0 when there is none.
    open: AtomicU64,
    /// Held while an answer is written, so that frames do not mix.
    writing: DeadlineLock<Spinner>,
}

enum Got {
    Request(Ticket),
    Oversized(Ticket, u64),
}

impl UdsReply {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        // Room for the longest backtrace; the body's own length is checked when
        // it is known.
        let max = (options.max_message as u64).saturating_add(MAX_WORDS as u64 * 4);
        let skip = SKIP_UP_TO.max(max);
        let endpoint = Endpoint::Listen(address.clone());
        Ok(Self {
            inbox: Inbox::new(Protocol::Reply, &endpoint, options, max, skip)?,
            options: options.clone(),
            serial: AtomicU64::new(0),
            peers: RwLock::default(),
        })
    }

    /// Creates a ticket for the request, which supersedes its connection's
    /// earlier one.
    fn ticket(&self, link: &Arc<Link>, request: RequestId) -> Ticket {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let known = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&link.id).cloned();
        let peer = known.unwrap_or_else(|| {
            let writing = DeadlineLock::new(Spinner::new(self.options.spin));
            let peer = Arc::new(ReplyConnection { link: link.clone(), open: AtomicU64::new(0), writing });
            self.peers.write().unwrap_or_else(PoisonError::into_inner).insert(link.id, peer.clone());
            peer
        });
        peer.open.store(serial, Ordering::Release);
        Ticket { connection: link.id, serial, request }
    }

    fn judge(&self, link: &Arc<Link>, content: Content<'_>) -> Verdict<Got> {
        let (bytes, oversize) = match content {
            Content::Message(bytes) => (bytes, None),
            Content::Oversized(head, length) => (head, Some(length)),
        };
        match split_backtrace(bytes) {
            Err(BacktraceFault::Malformed) => Verdict::Close,
            Err(BacktraceFault::TooManyHops) => Verdict::Drop,
            Ok((request, _)) => {
                let ticket = self.ticket(link, request);
                let words = request.as_bytes().len();
                let length = oversize.map_or(bytes.len() as u64, |length| length) - words as u64;
                if length > self.options.max_message as u64 {
                    return Verdict::Tell(Got::Oversized(ticket, length));
                }
                Verdict::Deliver(Got::Request(ticket), words)
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
                    let mut fds = [PollFd::new(&peer.link, PollFlags::OUT), PollFd::new(closing, PollFlags::IN)];
                    wait_for(&mut fds, deadline)?;
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
        Ok(match incoming {
            Incoming::Message(_, Got::Request(ticket)) => ReplyEvent::Request(ticket),
            Incoming::Message(_, Got::Oversized(ticket, length)) => ReplyEvent::Oversized(ticket, length),
            Incoming::Connected(connection) => ReplyEvent::Connected(connection),
            Incoming::Disconnected(connection) => {
                self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&connection);
                ReplyEvent::Disconnected(connection)
            }
        })
    }

    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()> {
        self.inbox.closing().check()?;
        if body.len() > self.options.max_message {
            return Err(TransportError::TooLong { length: body.len() as u64, max: self.options.max_message as u64 });
        }
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.get(&ticket.connection).cloned().ok_or(TransportError::Disconnected)?;
        drop(peers);
        // Taken before the answer is sent: the connection's next request may
        // arrive before this call returns.
        if peer.open.compare_exchange(ticket.serial, 0, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Err(TransportError::Misuse("the request was already answered, or superseded by a later one"));
        }
        let sent = self.write(&peer, ticket, body, deadline);
        if matches!(sent, Err(TransportError::Timeout)) {
            // The request can still be answered, unless a later one arrived
            // meanwhile.
            let _ = peer.open.compare_exchange(0, ticket.serial, Ordering::AcqRel, Ordering::Acquire);
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
        self.peers.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|peer| peer.writing.look_again());
    }
}
