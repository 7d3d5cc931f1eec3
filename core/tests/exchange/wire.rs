//! A model of the transport: connections, and the host's reply socket.

#![allow(clippy::disallowed_methods, reason = "a transport")]

use std::collections::{BTreeMap, HashMap, VecDeque};

use ekuiper_core::sp::split_backtrace;
use ekuiper_core::transport::{ConnectionId, Ticket, TransportError};

/// The data in flight on a connection, per direction and in order.
#[derive(Default)]
struct Pipe {
    to_host: VecDeque<Vec<u8>>,
    to_plugin: VecDeque<Vec<u8>>,
    /// Whether the plugin's side is closed; the host learns of it after the
    /// data in flight.
    closed: bool,
}

/// An event of the host's reply socket.
#[derive(Debug)]
pub(crate) enum Event {
    Request(Ticket, Vec<u8>),
    Disconnected(ConnectionId),
}

/// All connections of one channel, and the socket that listens there.
#[derive(Default)]
pub(crate) struct Wire {
    pipes: BTreeMap<ConnectionId, Pipe>,
    connections: u64,
    /// Items that have arrived and that the host has not handled.
    inbox: VecDeque<(ConnectionId, Option<Vec<u8>>, u64)>,
    serial: u64,
    /// The request of each connection that can be answered.
    open: HashMap<ConnectionId, u64>,
    /// Whether a request supersedes the former one on arrival, not when it is
    /// handled.
    pub(crate) reads_ahead: bool,
    pub(crate) fail_next_send: bool,
}

impl Wire {
    pub(crate) fn connect(&mut self) -> ConnectionId {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        self.pipes.insert(id, Pipe::default());
        id
    }

    /// Whether the plugin's side of the connection is open.
    pub(crate) fn is_open(&self, connection: ConnectionId) -> bool {
        self.pipes.get(&connection).is_some_and(|pipe| !pipe.closed)
    }

    pub(crate) fn send_to_host(&mut self, connection: ConnectionId, packet: &[u8]) {
        if let Some(pipe) = self.pipes.get_mut(&connection).filter(|pipe| !pipe.closed) {
            pipe.to_host.push_back(packet.to_vec());
        }
    }

    pub(crate) fn take_at_plugin(&mut self, connection: ConnectionId) -> Option<Vec<u8>> {
        self.pipes.get_mut(&connection)?.to_plugin.pop_front()
    }

    /// Closes the plugin's side; with `lose`, data in flight is lost.
    pub(crate) fn close(&mut self, connection: ConnectionId, lose: bool) {
        if let Some(pipe) = self.pipes.get_mut(&connection) {
            pipe.closed = true;
            pipe.to_plugin.clear();
            if lose {
                pipe.to_host.clear();
            }
        }
    }

    /// Delivers the next item of one of the connections; false when nothing is
    /// in flight.
    pub(crate) fn arrive(&mut self, which: u8) -> bool {
        let busy: Vec<_> = self.pipes.iter().filter(|(_, pipe)| pipe.closed || !pipe.to_host.is_empty()).collect();
        let Some(id) = busy.get(usize::from(which) % busy.len().max(1)).map(|(id, _)| **id) else { return false };
        let packet = self.pipes.get_mut(&id).and_then(|pipe| pipe.to_host.pop_front());
        if packet.is_none() {
            self.pipes.remove(&id);
        }
        self.serial += 1;
        if self.reads_ahead && packet.is_some() {
            self.open.insert(id, self.serial);
        }
        self.inbox.push_back((id, packet, self.serial));
        true
    }

    /// Returns the next event of the host's socket.
    pub(crate) fn receive(&mut self) -> Option<Event> {
        let (connection, packet, serial) = self.inbox.pop_front()?;
        let Some(packet) = packet else { return Some(Event::Disconnected(connection)) };
        self.open.entry(connection).and_modify(|open| *open = serial.max(*open)).or_insert(serial);
        let (request, body) = split_backtrace(&packet).expect("plugins and strangers speak SP");
        Some(Event::Request(Ticket { connection, serial, request }, body.to_vec()))
    }

    /// Answers a request, as [`ekuiper_core::transport::Reply::send`]
    /// specifies.
    pub(crate) fn send(&mut self, ticket: &Ticket, body: &[u8]) -> Result<(), TransportError> {
        if std::mem::take(&mut self.fail_next_send) {
            return Err(TransportError::Timeout);
        }
        let pipe = self.pipes.get_mut(&ticket.connection).filter(|pipe| !pipe.closed);
        let pipe = pipe.ok_or(TransportError::Disconnected)?;
        if self.open.get(&ticket.connection) != Some(&ticket.serial) {
            return Err(TransportError::Misuse("already answered, or superseded by a later request"));
        }
        self.open.remove(&ticket.connection);
        pipe.to_plugin.push_back([ticket.request.as_bytes(), body].concat());
        Ok(())
    }
}
