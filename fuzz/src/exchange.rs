//! The host's end of a conversation under a script of whatever can happen.

use std::collections::HashMap;

use ekuiper_core::exchange::{Arrival, Departure, HostEnd, NotReady};
use ekuiper_core::message::HANDSHAKE;
use ekuiper_core::transport::{ConnectionId, RequestId, Ticket};

/// The machine says what a bookkeeper of all that happened says; above all,
/// something counts as an answer only when it is a new request of the
/// connection that the command went to, made after it. Ids follow one another
/// over all connections, so that some repeat the peer's, or follow it.
///
/// The script has two bytes per step: what happens, and to whom. There are
/// four places to connect from; whoever is gone comes back as another
/// connection.
pub fn exchange(data: &[u8]) {
    let mut end = HostEnd::new();
    let mut book = Book::default();
    for step in data.chunks_exact(2) {
        let (what, who) = (step[0], ConnectionId(book.ended[usize::from(step[1] & 3)] * 4 + u64::from(step[1] & 3)));
        match what % 8 {
            0..=3 => {
                let body: &[u8] = [HANDSHAKE, b"ok", b"", b"handshake "][usize::from(step[1] >> 2 & 3)];
                // A socket that repeats a request does so under its old id.
                let repeats = what % 8 == 3;
                let ticket = book.request(who, repeats);
                let expected = book.arrived(&ticket, body);
                assert_eq!(end.arrived(ticket, body), expected);
            }
            4 => {
                assert_eq!(end.departed(who), book.departed(who));
                book.ended[usize::from(step[1] & 3)] += 1;
            }
            5 => {
                end.abandon();
                book.abandon();
            }
            _ => {
                let begun = end.begin();
                assert_eq!(begun, book.begin());
                // Sent, or not: the socket's owner tells at once.
                match (begun, step[1] % 4) {
                    (Ok(ticket), 0) => {
                        end.not_sent(ticket.clone());
                        book.not_sent(ticket);
                    }
                    (Ok(_), 1) => {
                        end.cancel_send();
                        book.out = None;
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(end.peer(), book.peer());
        assert_eq!(end.is_ready(), book.peer().is_some_and(|peer| book.open.contains_key(&peer)));
    }
}

/// What has happened.
#[derive(Default)]
struct Book {
    serial: u64,
    /// How many connections each place has had before.
    ended: [u64; 4],
    /// The connections that shook hands, in that order; the first is the peer.
    greeted: Vec<ConnectionId>,
    /// The connections that began with something else.
    strangers: Vec<ConnectionId>,
    /// The latest request of each, unless it has been answered.
    open: HashMap<ConnectionId, Ticket>,
    /// The id of the latest request of each.
    ids: HashMap<ConnectionId, u64>,
    /// The id of the latest request of whoever was the peer then.
    latest: Option<u64>,
    out: Option<Out>,
}

/// The command that is out.
struct Out {
    /// The request that it answered.
    to: Ticket,
    abandoned: bool,
}

impl Book {
    fn peer(&self) -> Option<ConnectionId> {
        self.greeted.first().copied()
    }

    fn request(&mut self, connection: ConnectionId, repeats: bool) -> Ticket {
        self.serial += 1;
        let id = *self
            .ids
            .entry(connection)
            .and_modify(|id| *id = if repeats { *id } else { self.serial })
            .or_insert(self.serial);
        let request = RequestId::new(&(id as u32 | 1 << 31).to_be_bytes()).expect("one word");
        Ticket { connection, serial: self.serial, request }
    }

    fn arrived(&mut self, ticket: &Ticket, body: &[u8]) -> Arrival {
        let connection = ticket.connection;
        let mut greets = body == HANDSHAKE;
        let id = self.ids[&connection];
        if !self.greeted.contains(&connection) {
            // The peer's latest request, repeated on another connection, or
            // the one after it.
            let is_first = !self.strangers.contains(&connection);
            greets |= is_first && self.latest.is_some_and(|latest| id == latest || id == latest + 1);
            if !greets {
                self.strangers.push(connection);
                return Arrival::Garbage;
            }
            self.greeted.push(connection);
        }
        let repeated = |out: &Out| out.to.connection == connection && out.to.request == ticket.request;
        if self.out.as_ref().is_some_and(repeated) {
            return Arrival::Stale;
        }
        self.open.insert(connection, ticket.clone());
        if self.peer() != Some(connection) {
            return if greets { Arrival::Rival } else { Arrival::Stale };
        }
        self.latest = Some(id);
        let waited = self.out.take().is_some_and(|out| !out.abandoned);
        match (greets, waited) {
            (true, true) => Arrival::SendAgain,
            (true, false) => Arrival::Handshake,
            (false, true) => Arrival::Answer,
            (false, false) => Arrival::Stale,
        }
    }

    fn departed(&mut self, connection: ConnectionId) -> Departure {
        let was_peer = self.peer() == Some(connection);
        self.greeted.retain(|known| *known != connection);
        self.open.remove(&connection);
        if !was_peer {
            return Departure::Bystander;
        }
        match self.out.take() {
            Some(out) if !out.abandoned => Departure::OutcomeUnknown,
            _ => Departure::Idle,
        }
    }

    fn begin(&mut self) -> Result<Ticket, NotReady> {
        let peer = self.peer().ok_or(NotReady::NoPeer)?;
        let ticket = self.open.remove(&peer).ok_or(NotReady::Busy)?;
        self.out = Some(Out { to: ticket.clone(), abandoned: false });
        Ok(ticket)
    }

    fn not_sent(&mut self, ticket: Ticket) {
        self.out = None;
        self.open.insert(ticket.connection, ticket);
    }

    fn abandon(&mut self) {
        if let Some(out) = &mut self.out {
            out.abandoned = true;
        }
    }
}
