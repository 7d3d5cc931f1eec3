//! One of our SP transports and one library: the setting of the tests `wire_*`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{
    ConnectionId, Deadline, Endpoint, Options, Pull, PullEvent, Push, Reply, ReplyEvent, Request, Ticket, Transport,
    TransportError,
};
use serde_json::{Value, json};

use crate::guard::{Watchdog, soon};
use crate::peer::{Library, Peer};

/// The sizes that are tried on every wire, in bytes: around each length at
/// which a transport changes its way, up to what every library takes.
pub const SIZES: &[usize] =
    &[0, 1, 2, 7, 8, 9, 63, 64, 255, 256, 4087, 4095, 4096, 4097, 8191, 65_535, 65_536, 212_992, 1_000_000];

/// What mangos takes at most where nobody told it otherwise.
pub const MANGOS_LIMIT: usize = 1 << 20;

/// How long a message that may be lost is waited for, before the next is sent.
const ATTEMPT: Duration = Duration::from_millis(200);

/// A transport of ours, a library to start peers of, and an address.
pub struct Case {
    /// Ours.
    pub transport: Arc<dyn Transport>,
    /// Theirs.
    pub library: Library,
    folder: tempfile::TempDir,
}

/// Runs a test, unless its library is not there.
pub fn run(transport: &str, library: Library, test: impl FnOnce(&Case)) {
    let _watchdog = Watchdog::start();
    // Says so where it is to be skipped.
    let Some(peer) = library.start() else { return };
    drop(peer);
    test(&Case { transport: transport_by_name(transport), library, folder: tempfile::tempdir().unwrap() });
}

fn transport_by_name(name: &str) -> Arc<dyn Transport> {
    match name {
        "uds" => Arc::new(ekuiper_transport_uds::UdsTransport::new()),
        #[cfg(feature = "nng")]
        "nng" => Arc::new(ekuiper_transport_nng::NngTransport::new()),
        _ => panic!("no transport {name}"),
    }
}

impl Case {
    /// A new peer.
    pub fn peer(&self) -> Peer {
        self.library.start().expect("it was there before")
    }

    /// The address of the test.
    pub fn address(&self) -> Address {
        Address::new(self.folder.path().join("wire.ipc")).unwrap()
    }

    /// The same for a peer.
    pub fn url(&self) -> String {
        self.address().url()
    }

    /// A push socket of ours.
    pub fn push(&self, side: Side) -> Box<dyn Push> {
        self.transport.push(&side.endpoint(self), &Options::default()).unwrap()
    }

    /// A pull socket of ours.
    pub fn pull(&self, side: Side) -> Inlet {
        self.pull_with(side, &Options::default())
    }

    /// A pull socket of ours, with options.
    pub fn pull_with(&self, side: Side, options: &Options) -> Inlet {
        Inlet(self.transport.pull(&side.endpoint(self), options).unwrap())
    }

    /// A request socket of ours.
    pub fn request(&self) -> Box<dyn Request> {
        self.transport.request(&self.address(), &Options::default()).unwrap()
    }

    /// A reply socket of ours.
    pub fn reply(&self) -> Outlet {
        self.reply_with(&Options::default())
    }

    /// A reply socket of ours, with options.
    pub fn reply_with(&self, options: &Options) -> Outlet {
        Outlet(self.transport.reply(&self.address(), options).unwrap())
    }
}

/// Which side of a connection ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We wait for the peer.
    Listen,
    /// We connect to the peer.
    Dial,
}

impl Side {
    fn endpoint(self, case: &Case) -> Endpoint {
        match self {
            Self::Listen => Endpoint::Listen(case.address()),
            Self::Dial => Endpoint::Dial(case.address()),
        }
    }

    /// What the peer does then.
    pub fn of_peer(self) -> &'static str {
        match self {
            Self::Listen => "dial",
            Self::Dial => "listen",
        }
    }
}

/// A pull socket whose events are looked at one kind at a time.
pub struct Inlet(Box<dyn Pull>);

impl Inlet {
    /// The next message, whoever comes and goes meanwhile.
    pub fn message(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        self.until(&mut buffer, |event| matches!(event, PullEvent::Message(_)));
        buffer
    }

    /// Has the peer send the same message until one has come, and returns that:
    /// what the peer sends before it notices the end of a former connection is
    /// lost with it.
    pub fn first_of(&self, peer: &mut Peer, message: Value) -> Vec<u8> {
        let mut buffer = Vec::new();
        let give_up = soon();
        loop {
            assert!(Instant::now() < give_up, "nothing comes");
            peer.post("send", message.clone());
            let attempt = Some(Instant::now() + ATTEMPT);
            let mut event = self.0.receive(&mut buffer, attempt);
            while matches!(event, Ok(PullEvent::Connected(_) | PullEvent::Disconnected(_))) {
                event = self.0.receive(&mut buffer, attempt);
            }
            match event {
                Ok(_) => {
                    peer.answer().unwrap();
                    return buffer;
                }
                Err(TransportError::Timeout) => {
                    let _ = peer.answer();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The same, of a peer that may have died; `None` when it has.
    pub fn first_if_alive(&self, peer: &mut Peer, message: Value) -> Option<Vec<u8>> {
        let mut buffer = Vec::new();
        let give_up = soon();
        loop {
            assert!(Instant::now() < give_up, "nothing comes");
            if !peer.outlives("send", message.clone()) {
                return None;
            }
            let attempt = Some(Instant::now() + ATTEMPT);
            loop {
                match self.0.receive(&mut buffer, attempt) {
                    Ok(PullEvent::Message(_)) => return Some(buffer),
                    Ok(_) => {}
                    Err(TransportError::Timeout) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Waits for a peer's end, with no message before.
    pub fn disconnected(&self) {
        let mut buffer = Vec::new();
        self.until(&mut buffer, |event| match event {
            PullEvent::Message(_) => panic!("a message came"),
            event => matches!(event, PullEvent::Disconnected(_)),
        });
    }

    fn until(&self, buffer: &mut Vec<u8>, wanted: impl Fn(&PullEvent) -> bool) {
        let deadline: Deadline = Some(soon());
        while !wanted(&self.0.receive(buffer, deadline).expect("something comes")) {}
    }

    /// Closes it.
    pub fn close(&self) {
        self.0.close();
    }
}

/// A reply socket whose events are looked at one kind at a time.
pub struct Outlet(Box<dyn Reply>);

impl Outlet {
    /// The next request, whoever comes and goes meanwhile.
    pub fn request(&self) -> (Ticket, Vec<u8>) {
        let mut buffer = Vec::new();
        let deadline = Some(soon());
        loop {
            match self.0.receive(&mut buffer, deadline).expect("a request comes") {
                ReplyEvent::Request(ticket) => return (ticket, buffer),
                ReplyEvent::Oversized(_, length) => panic!("a request of {length} bytes is too long"),
                ReplyEvent::Connected(_) | ReplyEvent::Disconnected(_) => {}
            }
        }
    }

    /// The next request, which must be too long, and its length.
    pub fn oversized(&self) -> (Ticket, u64) {
        let mut buffer = Vec::new();
        let deadline = Some(soon());
        loop {
            match self.0.receive(&mut buffer, deadline).expect("a request comes") {
                ReplyEvent::Oversized(ticket, length) => return (ticket, length),
                ReplyEvent::Request(_) => panic!("a request of {} bytes came", buffer.len()),
                ReplyEvent::Connected(_) | ReplyEvent::Disconnected(_) => {}
            }
        }
    }

    /// Waits for the end of a connection and for a request on another,
    /// whichever comes first.
    pub fn request_after(&self, ended: ConnectionId) -> (Ticket, Vec<u8>) {
        let (mut buffer, mut has_ended, mut request) = (Vec::new(), false, None);
        let deadline = Some(soon());
        loop {
            match self.0.receive(&mut buffer, deadline).expect("the end and a request come") {
                ReplyEvent::Disconnected(connection) => has_ended |= connection == ended,
                ReplyEvent::Connected(_) => {}
                ReplyEvent::Request(ticket) if ticket.connection != ended => request = Some((ticket, buffer.clone())),
                event => panic!("{event:?} came"),
            }
            if let Some(request) = request.take_if(|_| has_ended) {
                return request;
            }
        }
    }

    /// Answers.
    pub fn answer(&self, ticket: &Ticket, body: &[u8]) {
        self.0.send(ticket, body, Some(soon())).expect("the answer goes out");
    }

    /// Answers, or not.
    ///
    /// # Errors
    /// As [`Reply::send`].
    pub fn try_answer(&self, ticket: &Ticket, body: &[u8]) -> Result<(), TransportError> {
        self.0.send(ticket, body, Some(soon()))
    }

    /// Closes it.
    pub fn close(&self) {
        self.0.close();
    }
}

/// A request of ours and its reply, on the present connection.
pub fn ask(request: &dyn Request, body: &[u8], meanwhile: impl FnOnce()) -> Result<Vec<u8>, TransportError> {
    let deadline = Some(soon());
    let connection = request.connect(deadline)?;
    request.send(connection, body, deadline)?;
    meanwhile();
    let mut buffer = Vec::new();
    request.receive(&mut buffer, deadline)?;
    Ok(buffer)
}

/// Sends the same until the peer has received one: what goes out before the
/// end of a former connection is noticed is lost with it.
pub fn deliver(push: &dyn Push, peer: &mut Peer, id: &str, text: &str) {
    let deadline = soon();
    peer.post("receive", json!({ "id": id, "timeout_ms": 30_000 }));
    let received = loop {
        match push.send(text.as_bytes(), Some(deadline)) {
            Ok(()) | Err(TransportError::Disconnected) => {}
            Err(error) => panic!("{error}"),
        }
        if let Some(received) = peer.answer_within(ATTEMPT) {
            break received.unwrap();
        }
    };
    assert_received(&received, &[text.as_bytes().to_vec()]);
}

/// The bytes that a peer sends for a size.
pub fn body(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}

/// Checks messages as a peer has received them.
///
/// # Panics
/// One is not as it was sent, or there are too many or too few.
pub fn assert_received(answer: &Value, sent: &[Vec<u8>]) {
    let received = answer["messages"].as_array().unwrap();
    assert_eq!(received.len(), sent.len());
    for (index, (received, sent)) in received.iter().zip(sent).enumerate() {
        let shown = json!({ "size": received["size"], "sum": received["sum"] });
        assert_eq!(shown, json!({ "size": sent.len(), "sum": adler32(sent) }), "message {index}: {}", received["text"]);
    }
}

/// The sum that peers give of what they received (RFC 1950).
fn adler32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (1u32, 0u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    (high << 16) | low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_rfc() {
        assert_eq!(adler32(b""), 1);
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
        assert_eq!(adler32(&body(1_048_576)), 4_207_499_138);
    }
}
