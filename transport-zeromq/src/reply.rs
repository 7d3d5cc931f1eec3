//! REP: receives requests, and answers each on the connection it came from.

#![allow(clippy::disallowed_methods, reason = "the transport that makes the ids")]

use std::os::fd::BorrowedFd;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{
    Deadline, Endpoint, Options, Reply, ReplyEvent, RequestId, Result, Ticket, TransportError,
};
use ekuiper_transport_ipc::open_request::Tickets;
use ekuiper_transport_ipc::receiving::{Asked, ReceiverLock, check_length};

use crate::peer::Peer;
use crate::socket::Common;
use crate::words::{ID, Role, data};

#[derive(Debug)]
pub(crate) struct ZeromqReply {
    common: Common,
    receiving: ReceiverLock,
    tickets: Tickets,
}

impl ZeromqReply {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        let common = Common::new(Role::Reply, &Endpoint::Listen(address.clone()), options)?;
        Ok(Self { common, receiving: ReceiverLock::default(), tickets: Tickets::default() })
    }

    fn judge(&self, peer: &Peer, message: &[u8], buffer: &mut Vec<u8>) -> Asked {
        // The hub rejects messages without an id.
        let (id, body) = message.split_at(message.len().min(ID));
        let ticket = self.tickets.issue(&peer.open, peer.id, RequestId::new(id).unwrap_or_default());
        if body.len() > self.common.max_message {
            return Asked::Oversized(ticket, body.len() as u64);
        }
        buffer.clear();
        buffer.extend_from_slice(body);
        Asked::Request(ticket)
    }
}

impl Reply for ZeromqReply {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<ReplyEvent> {
        let _receiving = self.receiving.enter(&self.common.hub.closing)?;
        let incoming = self.common.hub.receive(deadline, |peer, message| self.judge(peer, message, buffer))?;
        Ok(incoming.into())
    }

    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()> {
        self.common.hub.closing.check()?;
        check_length(body, self.common.max_message)?;
        self.common.hub.send(data(ticket.request.as_bytes(), body), deadline, |state| {
            let at = state.peers.iter().position(|peer| peer.id == ticket.connection && !peer.is_gone);
            let at = at.ok_or(TransportError::Disconnected)?;
            let peer = &mut state.peers[at];
            peer.open.take(ticket)?;
            if !peer.has_room() {
                peer.open.give_back(ticket);
                return Ok(None);
            }
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
