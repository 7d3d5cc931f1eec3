//! The host's end: which request is the answer to which command.

use std::collections::BTreeMap;

use crate::message::{HANDSHAKE, Hello};
use crate::sp::Backtrace;
use crate::transport::{ConnectionId, Ticket};

/// The host's end of one control or function channel.
///
/// One connection at a time is the *peer*: the first that shook hands. Others
/// may connect and shake hands, but cannot take its place while it lives; the
/// one that waited longest follows it.
///
/// An answer counts only when it comes from the peer, on the connection that
/// the command went to, while that command waits, and as another request than
/// the one that the command answered (faults 4 and 5).
#[derive(Debug, Default)]
pub struct HostEnd {
    /// A connection may begin with a hello.
    hears_hello: bool,
    peer: Option<ConnectionId>,
    connections: BTreeMap<ConnectionId, Link>,
}

#[derive(Debug, Default)]
struct Link {
    /// The serial of the handshake that it began with.
    greeted: Option<u64>,
    /// The request that the next command will answer.
    pending: Option<Ticket>,
    /// A command is out.
    command: Command,
}

/// A command that is out has answered a request. When that request comes once
/// more, its sender repeated it before it saw the command: it is no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Command {
    #[default]
    None,
    /// Somebody waits for its answer.
    Waiting(Backtrace),
    /// Nobody waits any more: its answer, when it comes, is dropped.
    Abandoned(Backtrace),
}

/// What a request turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The peer is ready for a command: it shook hands, or repeated it while
    /// idle.
    Handshake,
    /// It is the answer to the command that is out.
    Answer,
    /// The peer's keepalive crossed the command, which it has therefore never
    /// seen: send it again, answering the latest request.
    SendAgain,
    /// Nobody waits for it: a late or a second answer, an answer that a former
    /// process left behind, or a repetition of the request that the command
    /// has answered already. It is dropped.
    Stale,
    /// Another connection has shaken hands while the peer lives. It waits.
    Rival,
    /// The connection began with something else than a handshake: whoever that
    /// is, it is not a plugin.
    Garbage,
}

/// What the end of a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It was not the peer.
    Bystander,
    /// It was the peer, and no command was out.
    Idle,
    /// It was the peer, and had been sent a command: whether that was carried
    /// out is unknown.
    OutcomeUnknown,
}

/// Why no command can be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// No plugin has shaken hands.
    NoPeer,
    /// The peer still works on a command whose caller has given up.
    Busy,
}

impl HostEnd {
    /// No connection yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No connection yet; each may begin with a [`Hello`], since the plugin was
    /// asked for it.
    pub fn hearing_hello() -> Self {
        Self { hears_hello: true, ..Self::default() }
    }

    /// The connection that commands go to.
    pub fn peer(&self) -> Option<ConnectionId> {
        self.peer
    }

    /// Whether a command can be sent.
    pub fn is_ready(&self) -> bool {
        self.begin_check().is_ok()
    }

    /// Takes note of a request.
    pub fn arrived(&mut self, ticket: Ticket, body: &[u8]) -> Arrival {
        let connection = ticket.connection;
        let mut is_handshake = body == HANDSHAKE;
        let link = self.connections.entry(connection).or_default();
        if link.greeted.is_none() {
            // Only as its first word: an answer may begin with anything.
            is_handshake |= self.hears_hello && Hello::decode(body).is_some();
            if !is_handshake {
                return Arrival::Garbage;
            }
            link.greeted = Some(ticket.serial);
        }
        if let Command::Waiting(answered) | Command::Abandoned(answered) = link.command
            && answered == ticket.backtrace
        {
            return Arrival::Stale;
        }
        link.pending = Some(ticket);
        // Whatever it says, the command that was out is out no more: it was
        // answered or, if it crossed a keepalive, never seen.
        let command = std::mem::take(&mut link.command);
        let is_peer = *self.peer.get_or_insert(connection) == connection;
        match (is_peer, is_handshake, command) {
            (false, true, _) => Arrival::Rival,
            (false, false, _) => Arrival::Stale,
            (true, true, Command::Waiting(_)) => Arrival::SendAgain,
            (true, true, _) => Arrival::Handshake,
            (true, false, Command::Waiting(_)) => Arrival::Answer,
            (true, false, _) => Arrival::Stale,
        }
    }

    /// Takes note of a connection's end. The connection that has waited
    /// longest, if any, is the next peer.
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

    /// Begins a command, or repeats it after [`Arrival::SendAgain`]; returns
    /// the request that it answers.
    ///
    /// # Errors
    /// [`NotReady`].
    pub fn begin(&mut self) -> Result<Ticket, NotReady> {
        self.begin_check()?;
        let link = self.peer.and_then(|peer| self.connections.get_mut(&peer)).ok_or(NotReady::NoPeer)?;
        let ticket = link.pending.take().ok_or(NotReady::Busy)?;
        link.command = Command::Waiting(ticket.backtrace);
        Ok(ticket)
    }

    fn begin_check(&self) -> Result<(), NotReady> {
        let link = self.peer.and_then(|peer| self.connections.get(&peer)).ok_or(NotReady::NoPeer)?;
        link.pending.as_ref().map(|_| ()).ok_or(NotReady::Busy)
    }

    /// The command could not be sent: the request waits for it still.
    pub fn not_sent(&mut self, ticket: Ticket) {
        if let Some(link) = self.connections.get_mut(&ticket.connection) {
            link.command = Command::None;
            link.pending.get_or_insert(ticket);
        }
    }

    /// The command could not be sent because its request is void: a later one
    /// has arrived, or the connection has ended, and the event will tell.
    pub fn cancel_send(&mut self) {
        if let Some(link) = self.peer.and_then(|peer| self.connections.get_mut(&peer)) {
            link.command = Command::None;
        }
    }

    /// The caller gives up: an answer that still comes is dropped.
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

        fn request(&mut self, connection: ConnectionId, body: &[u8]) -> Arrival {
            let id = self.serial as u32 + 1;
            self.request_with_id(connection, id, body)
        }

        fn request_with_id(&mut self, connection: ConnectionId, id: u32, body: &[u8]) -> Arrival {
            self.serial += 1;
            let backtrace = Backtrace::new(&id.to_be_bytes()).unwrap();
            self.end.arrived(Ticket { connection, serial: self.serial, backtrace }, body)
        }
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
