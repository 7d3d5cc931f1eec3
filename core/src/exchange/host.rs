//! The host's end: which request is the answer to which command.

use std::collections::BTreeMap;

use crate::message::{HANDSHAKE, Hello};
use crate::sp::Backtrace;
use crate::transport::{ConnectionId, Ticket};

/// Set in the id of every request.
const ID_BIT: u32 = 1 << 31;

/// The host's end of one control or function channel.
///
/// One connection at a time is the *peer*: the first that shook hands. Others
/// may connect and shake hands, but cannot take its place while it lives; the
/// one that waited longest follows it.
///
/// An answer counts only when it comes from the peer, on the connection that
/// the command went to, while that command waits, and as another request than
/// the one that the command answered (faults 4 and 5).
///
/// A socket of mangos, the official Go SDK's, repeats its latest request when
/// its connection has ended and it has another, and sends nothing else on it
/// until it is answered. So the latest request of a peer, or the one after
/// that, which may never have arrived, greets like a handshake when it comes
/// first on a new connection. It is never an answer there: no command has been
/// sent on that connection.
#[derive(Debug, Default)]
pub struct HostEnd {
    /// A connection may begin with a hello.
    hears_hello: bool,
    peer: Option<ConnectionId>,
    /// The latest request of the peer, or of the one that was it.
    latest: Option<Backtrace>,
    connections: BTreeMap<ConnectionId, Link>,
}

#[derive(Debug, Default)]
struct Link {
    has_spoken: bool,
    /// The serial of the handshake, or the like, that it began with.
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
    /// The connection began with something else than a handshake, or the like:
    /// whoever that is, it is not a plugin.
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
        let mut greets = body == HANDSHAKE;
        let link = self.connections.entry(connection).or_default();
        let is_first = !std::mem::replace(&mut link.has_spoken, true);
        if link.greeted.is_none() {
            // Only as its first word: an answer may begin with anything.
            greets |= self.hears_hello && Hello::decode(body).is_some();
            greets |= is_first && self.latest.is_some_and(|latest| follows(&latest, &ticket.backtrace));
            if !greets {
                return Arrival::Garbage;
            }
            link.greeted = Some(ticket.serial);
        }
        if let Command::Waiting(answered) | Command::Abandoned(answered) = link.command
            && answered == ticket.backtrace
        {
            return Arrival::Stale;
        }
        let backtrace = ticket.backtrace;
        link.pending = Some(ticket);
        // Whatever it says, the command that was out is out no more: it was
        // answered or, if it crossed a keepalive, never seen.
        let command = std::mem::take(&mut link.command);
        let is_peer = *self.peer.get_or_insert(connection) == connection;
        if is_peer {
            self.latest = Some(backtrace);
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

/// Whether a request is that one, or its sender's next.
fn follows(latest: &Backtrace, request: &Backtrace) -> bool {
    let (Some((way, latest_id)), Some((other_way, id))) =
        (latest.as_bytes().split_last_chunk::<4>(), request.as_bytes().split_last_chunk::<4>())
    else {
        return false;
    };
    let (latest_id, id) = (u32::from_be_bytes(*latest_id), u32::from_be_bytes(*id));
    way == other_way && (id == latest_id || id == latest_id.wrapping_add(1) | ID_BIT)
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

        /// Each connection has ids of its own.
        fn request(&mut self, connection: ConnectionId, body: &[u8]) -> Arrival {
            let id = connection.0 as u32 * 1000 + self.serial as u32 + 1;
            self.request_with_id(connection, id, body)
        }

        fn request_with_id(&mut self, connection: ConnectionId, id: u32, body: &[u8]) -> Arrival {
            self.serial += 1;
            let backtrace = Backtrace::new(&(id | ID_BIT).to_be_bytes()).unwrap();
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
    fn a_request_that_is_repeated_on_a_new_connection_greets_and_answers_nothing() {
        for (id, words) in [(7, "ok"), (8, "ok"), (7, "there is no such symbol")] {
            let mut channel = Channel::new();
            channel.request_with_id(A, 6, HANDSHAKE);
            channel.end.begin().unwrap();
            assert_eq!(channel.request_with_id(A, 7, words.as_bytes()), Arrival::Answer);
            // A command is out, which the peer may have answered when its
            // connection ended.
            channel.end.begin().unwrap();
            assert_eq!(channel.end.departed(A), Departure::OutcomeUnknown);
            assert_eq!(channel.request_with_id(B, id, words.as_bytes()), Arrival::Handshake);
            // The next command goes there, and only what follows answers it.
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
        // A rival's requests are nobody's.
        channel.request_with_id(B, 20, HANDSHAKE);
        channel.request_with_id(B, 21, HANDSHAKE);
        channel.end.departed(B);
        channel.end.departed(A);
        for id in [6, 7, 10, 20, 21, 22] {
            let stranger = ConnectionId(100 + u64::from(id));
            assert_eq!(channel.request_with_id(stranger, id, b"ok"), Arrival::Garbage, "{id}");
            assert_eq!(channel.request_with_id(stranger, 8, b"ok"), Arrival::Garbage, "not its first word");
        }
        let other_way = Backtrace::new(&[0, 0, 0, 1, 0x80, 0, 0, 8]).unwrap();
        let ticket = Ticket { connection: C, serial: 99, backtrace: other_way };
        assert_eq!(channel.end.arrived(ticket, b"ok"), Arrival::Garbage, "the same id, of somebody else");
    }

    #[test]
    fn the_id_after_the_last_is_the_first() {
        let ids = [u32::MAX, ID_BIT].map(|id| Backtrace::new(&id.to_be_bytes()).unwrap());
        assert!(follows(&ids[0], &ids[1]));
        assert!(!follows(&ids[1], &ids[0]));
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
