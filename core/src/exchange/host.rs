//! The host's end of a channel: which request is the answer to which command.

use std::collections::BTreeMap;

use crate::message::{ANSWER_OK, HANDSHAKE, Hello};
use crate::transport::{ConnectionId, RequestId, Ticket};

/// The host's end of one control or function channel.
///
/// One connection at a time is the *peer*: the first one that sent a handshake.
/// Others may connect and send handshakes, but cannot replace the peer while it
/// lives; after it, the one that has waited longest becomes the peer.
///
/// An answer counts only when it arrives from the peer, on the connection that
/// the command was sent on, while that command is in flight, and as another
/// request than the one that the command answered (faults 4 and 5).
///
/// A socket of mangos, which the official Go SDK uses, repeats its latest
/// request on a new connection after the old one has ended, and sends nothing
/// else there until that request is answered. So the peer's latest request, or
/// the one after it, which may never have arrived, is treated as a handshake
/// when it is the first request of a new connection. It is never an answer
/// there: no command has been sent on that connection.
#[derive(Debug, Default)]
pub struct HostEnd {
    /// Whether a connection may begin with a hello.
    hears_hello: bool,
    /// Whether the plugin may have served another host before.
    may_have_served: bool,
    peer: Option<ConnectionId>,
    /// The latest request of the current or the former peer.
    latest: Option<RequestId>,
    connections: BTreeMap<ConnectionId, Link>,
}

#[derive(Debug, Default)]
struct Link {
    has_spoken: bool,
    /// The serial of the handshake, or of the request treated as one, that the
    /// connection began with.
    greeted: Option<u64>,
    /// The request that the next command will answer.
    pending: Option<Ticket>,
    /// The command in flight.
    command: Command,
}

/// The command in flight, with the request that it answered. When that request
/// arrives again, its sender repeated it before seeing the command: it is not
/// an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Command {
    #[default]
    None,
    /// A caller waits for the answer.
    Waiting(RequestId),
    /// The caller gave up: the answer, when it arrives, is dropped.
    Abandoned(RequestId),
}

/// The meaning of an arrived request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The peer is ready for a command: it sent a handshake, or repeated one
    /// while idle.
    Handshake,
    /// The request is the answer to the command in flight.
    Answer,
    /// The peer's keepalive crossed the command, so the peer has never seen it:
    /// send the command again, as the answer to the latest request.
    SendAgain,
    /// No caller waits for the request: a late or a second answer, an answer
    /// that a former process left behind, or a repetition of the request that
    /// the command has already answered. The request is dropped.
    Stale,
    /// Another connection sent a handshake while the peer lives. It has to
    /// wait.
    Rival,
    /// The connection did not begin with a handshake or an equivalent request:
    /// the other side is not a plugin.
    Garbage,
}

/// The meaning of a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The connection was not the peer's.
    Bystander,
    /// The peer's connection ended while no command was in flight.
    Idle,
    /// The peer's connection ended while a command was in flight: whether the
    /// command was executed is unknown.
    OutcomeUnknown,
}

/// The reason why no command can be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// No plugin has sent a handshake.
    NoPeer,
    /// The peer still executes a command whose caller has given up.
    Busy,
}

impl HostEnd {
    /// Creates an end without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an end without connections, each of which may begin with a
    /// [`Hello`], since the plugin was asked for one.
    pub fn hearing_hello() -> Self {
        Self { hears_hello: true, ..Self::default() }
    }

    /// Creates an end as [`hearing_hello`](Self::hearing_hello) does, for the
    /// control channel of a plugin that may have served another host before. A
    /// plugin on the official Go SDK lives on then, and begins its next
    /// connection with its latest answer, `ok`, which counts as a handshake.
    pub fn of_former_host() -> Self {
        Self { may_have_served: true, ..Self::hearing_hello() }
    }

    /// The connection that commands are sent on.
    pub fn peer(&self) -> Option<ConnectionId> {
        self.peer
    }

    /// Whether a command can be sent.
    pub fn is_ready(&self) -> bool {
        self.begin_check().is_ok()
    }

    /// Records a request, and returns its meaning.
    pub fn arrived(&mut self, ticket: Ticket, body: &[u8]) -> Arrival {
        let connection = ticket.connection;
        let mut greets = body == HANDSHAKE;
        let link = self.connections.entry(connection).or_default();
        let is_first = !std::mem::replace(&mut link.has_spoken, true);
        if link.greeted.is_none() {
            // Only in the first message of a connection: an answer may begin
            // with any bytes.
            greets |= self.hears_hello && Hello::decode(body).is_some();
            greets |= is_first && self.may_have_served && body == ANSWER_OK;
            greets |= is_first && self.latest.is_some_and(|latest| ticket.request.repeats_or_follows(&latest));
            if !greets {
                return Arrival::Garbage;
            }
            link.greeted = Some(ticket.serial);
        }
        if let Command::Waiting(answered) | Command::Abandoned(answered) = link.command
            && answered == ticket.request
        {
            return Arrival::Stale;
        }
        let request = ticket.request;
        link.pending = Some(ticket);
        // Whatever the request is, the command is no longer in flight: it was
        // answered or, if it crossed a keepalive, never seen.
        let command = std::mem::take(&mut link.command);
        let is_peer = *self.peer.get_or_insert(connection) == connection;
        if is_peer {
            self.latest = Some(request);
        }
        match (is_peer, greets, command) {
            (false, true, _) => Arrival::Rival,
            (false, false, _) => Arrival::Stale,
            (true, true, Command::Waiting(_)) => Arrival::SendAgain,
            (true, true, _) => Arrival::Handshake,
            (true, false, Command::Waiting(_)) => Arrival::Answer,
            (true, false, _) => Arrival::Stale,
        }
    }

    /// Records a connection's end, and returns its meaning. The connection that
    /// has waited longest, if any, becomes the peer.
    pub fn departed(&mut self, connection: ConnectionId) -> Departure {
        let link = self.connections.remove(&connection);
        if self.peer != Some(connection) {
            return Departure::Bystander;
        }
        let waiting = self.connections.iter().filter_map(|(id, link)| Some((link.greeted?, *id)));
        self.peer = waiting.min().map(|(_, id)| id);
        match link.map(|link| link.command) {
            Some(Command::Waiting(_)) => Departure::OutcomeUnknown,
            _ => Departure::Idle,
        }
    }

    /// Begins a command, or repeats one after [`Arrival::SendAgain`]; returns
    /// the request that the command answers.
    ///
    /// # Errors
    /// [`NotReady`] when no command can be sent now.
    pub fn begin(&mut self) -> Result<Ticket, NotReady> {
        self.begin_check()?;
        let link = self.peer.and_then(|peer| self.connections.get_mut(&peer)).ok_or(NotReady::NoPeer)?;
        let ticket = link.pending.take().ok_or(NotReady::Busy)?;
        link.command = Command::Waiting(ticket.request);
        Ok(ticket)
    }

    fn begin_check(&self) -> Result<(), NotReady> {
        let link = self.peer.and_then(|peer| self.connections.get(&peer)).ok_or(NotReady::NoPeer)?;
        link.pending.as_ref().map(|_| ()).ok_or(NotReady::Busy)
    }

    /// Records that the command could not be sent: its request can still be
    /// answered.
    pub fn not_sent(&mut self, ticket: Ticket) {
        if let Some(link) = self.connections.get_mut(&ticket.connection) {
            link.command = Command::None;
            link.pending.get_or_insert(ticket);
        }
    }

    /// Records that the command could not be sent because its request is void:
    /// a later one has arrived, or the connection has ended; an event will
    /// report which.
    pub fn cancel_send(&mut self) {
        if let Some(link) = self.peer.and_then(|peer| self.connections.get_mut(&peer)) {
            link.command = Command::None;
        }
    }

    /// Records that the caller gave up: an answer that still arrives is
    /// dropped.
    pub fn abandon(&mut self) {
        if let Some(link) = self.peer.and_then(|peer| self.connections.get_mut(&peer))
            && let Command::Waiting(answered) = link.command
        {
            link.command = Command::Abandoned(answered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);
    const C: ConnectionId = ConnectionId(3);

    struct Channel {
        end: HostEnd,
        serial: u64,
    }

    impl Channel {
        fn new() -> Self {
            Self { end: HostEnd::new(), serial: 0 }
        }

        /// Each connection has its own ids.
        fn request(&mut self, connection: ConnectionId, body: &[u8]) -> Arrival {
            let id = connection.0 as u32 * 1000 + self.serial as u32 + 1;
            self.request_with_id(connection, id, body)
        }

        fn request_with_id(&mut self, connection: ConnectionId, id: u32, body: &[u8]) -> Arrival {
            self.serial += 1;
            let request = RequestId::new(&(id | 1 << 31).to_be_bytes()).unwrap();
            self.end.arrived(Ticket { connection, serial: self.serial, request }, body)
        }
    }

    #[test]
    fn the_last_answer_to_a_former_host_is_a_handshake_where_there_may_have_been_one() {
        for (end, arrival) in
            [(HostEnd::hearing_hello(), Arrival::Garbage), (HostEnd::of_former_host(), Arrival::Handshake)]
        {
            let mut channel = Channel { end, serial: 0 };
            assert_eq!(channel.request(A, b"no"), Arrival::Garbage, "no answer of a command that was carried out");
            assert_eq!(channel.request(A, b"ok"), Arrival::Garbage, "not the first message");
            assert_eq!(channel.request(B, b"ok"), arrival);
        }
        let mut channel = Channel { end: HostEnd::of_former_host(), serial: 0 };
        assert_eq!(channel.request(A, b"ok"), Arrival::Handshake);
        channel.end.begin().unwrap();
        assert_eq!(channel.request(A, b"ok"), Arrival::Answer, "of this host's command");
    }

    #[test]
    fn handshake_command_answer() {
        let mut channel = Channel::new();
        assert_eq!(channel.end.begin(), Err(NotReady::NoPeer));
        assert_eq!(channel.request(A, HANDSHAKE), Arrival::Handshake);
        assert_eq!(channel.end.begin().unwrap().serial, 1);
        assert_eq!(channel.end.begin(), Err(NotReady::Busy));
        assert_eq!(channel.request(A, b"ok"), Arrival::Answer);
        assert_eq!(channel.end.begin().unwrap().serial, 2, "the answer is the next request");
    }

    #[test]
    fn an_idle_days_keepalives_leave_one_request_to_answer() {
        let mut channel = Channel::new();
        for _ in 0..17_280 {
            assert_eq!(channel.request(A, HANDSHAKE), Arrival::Handshake);
        }
        assert_eq!(channel.end.begin().unwrap().serial, 17_280);
        assert_eq!(channel.request(A, b"ok"), Arrival::Answer);
    }

    #[test]
    fn a_keepalive_that_crosses_the_command_means_send_again() {
        let mut channel = Channel::new();
        channel.request(A, HANDSHAKE);
        channel.end.begin().unwrap();
        assert_eq!(channel.request(A, HANDSHAKE), Arrival::SendAgain);
        assert_eq!(channel.end.begin().unwrap().serial, 2);
        assert_eq!(channel.request(A, b"ok"), Arrival::Answer);
    }

    #[test]
    fn only_the_exact_bytes_are_a_handshake() {
        let mut channel = Channel::new();
        assert_eq!(channel.request(A, b"hello"), Arrival::Garbage);
        assert_eq!(channel.request(A, b"handshake "), Arrival::Garbage);
        assert!(!channel.end.is_ready());
        channel.request(B, HANDSHAKE);
        channel.end.begin().unwrap();
        assert_eq!(channel.request(B, b"handshakes are fine"), Arrival::Answer, "an answer may begin with h");
    }

    #[test]
    fn a_hello_is_a_handshake_where_it_was_asked_for_and_as_the_first_word() {
        let hello = Hello::new("sdk", "1").encode();
        let mut channel = Channel::new();
        assert_eq!(channel.request(A, &hello), Arrival::Garbage, "nobody has asked");
        let mut channel = Channel { end: HostEnd::hearing_hello(), serial: 0 };
        assert_eq!(channel.request(A, &hello), Arrival::Handshake);
        channel.end.begin().unwrap();
        assert_eq!(channel.request(A, &hello), Arrival::Answer, "an answer may look like anything");
        assert_eq!(channel.request(B, HANDSHAKE), Arrival::Rival);
    }

    #[test]
    fn a_second_answer_does_not_answer_the_next_command() {
        let mut channel = Channel::new();
        channel.request(A, HANDSHAKE);
        channel.end.begin().unwrap();
        assert_eq!(channel.request(A, b"ok"), Arrival::Answer);
        assert_eq!(channel.request(A, b"ok"), Arrival::Stale);
        assert!(channel.end.is_ready());
    }

    #[test]
    fn a_request_that_is_repeated_while_the_command_is_out_is_not_its_answer() {
        let mut channel = Channel::new();
        channel.request(A, HANDSHAKE);
        channel.end.begin().unwrap();
        assert_eq!(channel.request_with_id(A, 7, b"first"), Arrival::Answer);
        channel.end.begin().unwrap();
        assert_eq!(channel.request_with_id(A, 7, b"first"), Arrival::Stale, "it crossed the second command");
        assert!(!channel.end.is_ready(), "its sender has the command by now");
        assert_eq!(channel.request_with_id(A, 8, b"second"), Arrival::Answer);
    }

    #[test]
    fn a_handshake_that_is_repeated_does_not_send_a_command_twice() {
        let mut channel = Channel::new();
        channel.request_with_id(A, 7, HANDSHAKE);
        channel.end.begin().unwrap();
        assert_eq!(channel.request_with_id(A, 7, HANDSHAKE), Arrival::Stale);
        channel.end.abandon();
        assert_eq!(channel.request_with_id(A, 7, HANDSHAKE), Arrival::Stale);
        assert_eq!(channel.end.begin(), Err(NotReady::Busy), "it still works on the one that was given up");
        assert_eq!(channel.request_with_id(A, 8, b"late"), Arrival::Stale);
        channel.end.begin().unwrap();
        assert_eq!(channel.request_with_id(A, 9, b"mine"), Arrival::Answer);
    }

    #[test]
    fn who_shook_hands_first_follows_the_peer() {
        let mut channel = Channel::new();
        channel.request(C, HANDSHAKE);
        channel.request(B, HANDSHAKE);
        channel.request(A, HANDSHAKE);
        channel.end.departed(C);
        assert_eq!(channel.end.peer(), Some(B));
    }

    #[test]
    fn an_answer_from_a_new_connection_is_not_one() {
        let mut channel = Channel::new();
        channel.request(A, HANDSHAKE);
        channel.end.begin().unwrap();
        assert_eq!(channel.end.departed(A), Departure::OutcomeUnknown);
        assert_eq!(channel.request(B, b"ok"), Arrival::Garbage);
        assert_eq!(channel.request(B, HANDSHAKE), Arrival::Handshake);
        assert!(channel.end.is_ready());
    }

    #[test]
    fn a_request_that_is_repeated_on_a_new_connection_greets_and_answers_nothing() {
        for (id, words) in [(7, "ok"), (8, "ok"), (7, "there is no such symbol")] {
            let mut channel = Channel::new();
            channel.request_with_id(A, 6, HANDSHAKE);
            channel.end.begin().unwrap();
            assert_eq!(channel.request_with_id(A, 7, words.as_bytes()), Arrival::Answer);
            // A command is in flight, which the peer may have answered just
            // before its connection ended.
            channel.end.begin().unwrap();
            assert_eq!(channel.end.departed(A), Departure::OutcomeUnknown);
            assert_eq!(channel.request_with_id(B, id, words.as_bytes()), Arrival::Handshake);
            // The next command goes to the new connection, and only a later
            // request answers it.
            assert_eq!(channel.end.begin().unwrap().connection, B);
            assert_eq!(channel.request_with_id(B, id, words.as_bytes()), Arrival::Stale, "once more the same");
            assert_eq!(channel.end.begin(), Err(NotReady::Busy));
            assert_eq!(channel.request_with_id(B, id + 1, b"mine"), Arrival::Answer);
        }
    }

    #[test]
    fn a_repeated_request_that_overtakes_the_end_of_its_former_connection_waits_for_that() {
        let mut channel = Channel::new();
        channel.request_with_id(A, 7, HANDSHAKE);
        channel.end.begin().unwrap();
        assert_eq!(channel.request_with_id(B, 7, HANDSHAKE), Arrival::Rival);
        assert_eq!(channel.request_with_id(C, 8, b"ok"), Arrival::Rival, "no answer to what was sent on the other");
        assert_eq!(channel.end.departed(A), Departure::OutcomeUnknown);
        assert_eq!(channel.end.departed(B), Departure::Idle);
        assert_eq!(channel.end.begin().unwrap().connection, C);
    }

    #[test]
    fn what_repeats_nobodys_request_is_garbage() {
        let mut channel = Channel::new();
        assert_eq!(channel.request_with_id(A, 7, b"ok"), Arrival::Garbage, "nobody was there before");
        channel.request_with_id(A, 8, HANDSHAKE);
        // A rival's requests answer no command.
        channel.request_with_id(B, 20, HANDSHAKE);
        channel.request_with_id(B, 21, HANDSHAKE);
        channel.end.departed(B);
        channel.end.departed(A);
        for id in [6, 7, 10, 20, 21, 22] {
            let stranger = ConnectionId(100 + u64::from(id));
            assert_eq!(channel.request_with_id(stranger, id, b"ok"), Arrival::Garbage, "{id}");
            assert_eq!(channel.request_with_id(stranger, 8, b"ok"), Arrival::Garbage, "not its first word");
        }
        let request = RequestId::new(&[0, 0, 0, 1, 0x80, 0, 0, 8]).unwrap();
        let ticket = Ticket { connection: C, serial: 99, request };
        assert_eq!(channel.end.arrived(ticket, b"ok"), Arrival::Garbage, "the same id, of somebody else");
    }

    #[test]
    fn a_rival_waits_for_the_peers_end() {
        let mut channel = Channel::new();
        channel.request(A, HANDSHAKE);
        assert_eq!(channel.request(B, HANDSHAKE), Arrival::Rival);
        channel.end.begin().unwrap();
        assert_eq!(channel.request(B, b"ok"), Arrival::Stale);
        assert_eq!(channel.request(A, b"ok"), Arrival::Answer);
        assert_eq!(channel.end.departed(A), Departure::Idle);
        assert_eq!(channel.end.begin().unwrap().connection, B);
    }

    #[test]
    fn a_command_that_was_given_up_does_not_leave_its_answer_to_the_next() {
        let mut channel = Channel::new();
        channel.request(A, HANDSHAKE);
        channel.end.begin().unwrap();
        channel.end.abandon();
        assert_eq!(channel.end.begin(), Err(NotReady::Busy));
        assert_eq!(channel.request(A, b"late"), Arrival::Stale);
        channel.end.begin().unwrap();
        assert_eq!(channel.request(A, b"mine"), Arrival::Answer);
    }

    #[test]
    fn a_command_that_could_not_be_sent_leaves_the_peer_ready() {
        let mut channel = Channel::new();
        channel.request(A, HANDSHAKE);
        let ticket = channel.end.begin().unwrap();
        channel.end.not_sent(ticket.clone());
        assert_eq!(channel.end.begin(), Ok(ticket));
    }
}
