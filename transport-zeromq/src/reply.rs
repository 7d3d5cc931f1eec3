//! REP: receives requests, and answers each on the connection it came from.

#![allow(clippy::disallowed_methods, reason = "the transport that makes the ids")]

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{
    Deadline, Endpoint, Options, Reply, ReplyEvent, RequestId, Result, Ticket, TransportError,
};

use crate::hub::Event;
use crate::socket::{Common, Turnstile};
use crate::words::{ID, Role, data};

#[derive(Debug)]
pub(crate) struct ZeromqReply {
    common: Common,
    receiving: Turnstile,
    /// The number of requests so far.
    serial: AtomicU64,
}

/// A received request.
struct Asked {
    serial: u64,
    request: RequestId,
    /// The request's length, if it exceeds the limit.
    too_long: Option<u64>,
}

impl ZeromqReply {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        let common = Common::new(Role::Reply, &Endpoint::Listen(address.clone()), options)?;
        Ok(Self { common, receiving: Turnstile::default(), serial: AtomicU64::new(0) })
    }

    fn judge(&self, open: &mut u64, message: &[u8], buffer: &mut Vec<u8>) -> Asked {
        // The hub rejects messages without an id.
        let (id, body) = message.split_at(message.len().min(ID));
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        *open = serial;
        let too_long = (body.len() > self.common.max_message).then_some(body.len() as u64);
        if too_long.is_none() {
            buffer.clear();
            buffer.extend_from_slice(body);
        }
        Asked { serial, request: RequestId::new(id).unwrap_or_default(), too_long }
    }
}

impl Reply for ZeromqReply {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<ReplyEvent> {
        let _receiving = self.receiving.pass(&self.common.hub)?;
        let event = self.common.hub.receive(deadline, |peer, message| self.judge(&mut peer.open, message, buffer))?;
        Ok(match event {
            Event::Message(connection, asked) => {
                let ticket = Ticket { connection, serial: asked.serial, request: asked.request };
                match asked.too_long {
                    None => ReplyEvent::Request(ticket),
                    Some(length) => ReplyEvent::Oversized(ticket, length),
                }
            }
            Event::Connected(connection) => ReplyEvent::Connected(connection),
            Event::Disconnected(connection) => ReplyEvent::Disconnected(connection),
        })
    }

    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()> {
        self.common.hub.closing.check()?;
        self.common.check_length(body)?;
        self.common.hub.send(data(ticket.request.as_bytes(), body), deadline, |state| {
            let at = state.peers.iter().position(|peer| peer.id == ticket.connection && !peer.is_gone);
            let at = at.ok_or(TransportError::Disconnected)?;
            let peer = &mut state.peers[at];
            if peer.open != ticket.serial {
                return Err(TransportError::Misuse("the request was already answered, or superseded by a later one"));
            }
            if !peer.has_room() {
                return Ok(None);
            }
            peer.open = 0;
            Ok(Some(at))
        })
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.common.hub.readiness())
    }

    fn finish(&self) {
        self.common.hub.finish();
    }

    fn close(&self) {
        self.common.close();
    }
}
