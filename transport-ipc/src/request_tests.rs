//! The request socket on a wire in memory, whose peer does whatever a peer may
//! do: in any order, no reply goes to another request, and none is lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ekuiper_core::sync::lock;
use proptest::prelude::*;

use super::*;

/// What both ends see.
#[derive(Debug, Default)]
struct World {
    is_listening: bool,
    connection: Option<ConnectionId>,
    connections: u64,
    /// What the peer has received.
    sent: Vec<([u8; 4], Vec<u8>)>,
    /// What has arrived on the connection and was not taken.
    arrived: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct MemoryWire {
    world: Arc<Mutex<World>>,
    closing: Closing,
}

impl RequestWire for MemoryWire {
    type Link = ();

    fn closing(&self) -> &Closing {
        &self.closing
    }

    fn connected(&self, (): &mut (), _: Deadline) -> Result<ConnectionId> {
        let mut world = lock(&self.world);
        if world.connection.is_none() && world.is_listening {
            world.connections += 1;
            world.connection = Some(ConnectionId(world.connections));
        }
        world.connection.ok_or(TransportError::Timeout)
    }

    fn prepare(&self, (): &mut (), connection: ConnectionId) -> Result<()> {
        let is_present = lock(&self.world).connection == Some(connection);
        if is_present { Ok(()) } else { Err(TransportError::Disconnected) }
    }

    fn transmit(&self, (): &mut (), connection: ConnectionId, id: [u8; 4], body: &[u8], _: Deadline) -> Result<()> {
        let mut world = lock(&self.world);
        if world.connection != Some(connection) {
            return Err(TransportError::Disconnected);
        }
        world.sent.push((id, body.to_vec()));
        Ok(())
    }

    fn take_reply(&self, (): &mut (), requester: &mut Requester, buffer: &mut Vec<u8>, _: bool) -> Result<bool> {
        let mut world = lock(&self.world);
        while let Some(message) = world.arrived.pop_front() {
            if let Some(body) = requester.accept(&message) {
                *buffer = body.to_vec();
                return Ok(true);
            }
        }
        if world.connection.is_some() { Ok(false) } else { Err(TransportError::Disconnected) }
    }

    fn await_reply(&self, (): &mut (), _: Deadline) -> bool {
        true
    }

    fn hang_up(&self, (): &mut ()) {
        let mut world = lock(&self.world);
        world.connection = None;
        world.arrived.clear();
    }

    fn close(&self) {
        self.closing.close();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Listen(bool),
    Send(u8),
    Reply(usize, u8),
    HangUp,
    Receive,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        any::<bool>().prop_map(Step::Listen),
        any::<u8>().prop_map(Step::Send),
        (any::<usize>(), any::<u8>()).prop_map(|(which, body)| Step::Reply(which, body)),
        Just(Step::HangUp),
        Just(Step::Receive),
    ];
    proptest::collection::vec(step, 0..80)
}

fn socket(retry: Option<Duration>) -> (Arc<Mutex<World>>, RequestSocket<MemoryWire>) {
    let world = Arc::new(Mutex::new(World { is_listening: true, ..World::default() }));
    let address = Address::new("/tmp/nowhere.ipc").unwrap();
    let mut options = Options::default();
    options.retry = retry;
    let wire = MemoryWire { world: world.clone(), closing: Closing::new(&address).unwrap() };
    (world, RequestSocket::new(&address, &options, wire, ()).unwrap())
}

/// Every call makes one attempt.
fn at_once() -> Deadline {
    Some(Instant::now())
}

/// A request that was sent and neither answered nor cancelled.
#[derive(Debug)]
struct InFlight {
    id: [u8; 4],
    body: Vec<u8>,
}

proptest! {
    #[test]
    fn a_reply_belongs_to_the_latest_request_and_is_received_once(steps in steps(), repeats in any::<bool>()) {
        // No request is sent again for the time that passes in the test.
        let (world, socket) = socket(repeats.then_some(Duration::from_secs(3600)));
        let mut in_flight: Option<InFlight> = None;
        for step in steps {
            match step {
                Step::Listen(is_listening) => lock(&world).is_listening = is_listening,
                Step::Send(byte) => {
                    let Ok(connection) = socket.connect(at_once()) else { continue };
                    let before = lock(&world).sent.clone();
                    socket.send(connection, &[byte], at_once()).unwrap();
                    let (id, body) = lock(&world).sent.last().unwrap().clone();
                    prop_assert_eq!(&body, &[byte]);
                    prop_assert!(before.iter().all(|(other, _)| *other != id), "an id is used twice");
                    prop_assert_eq!(before.len() + 1, lock(&world).sent.len());
                    in_flight = Some(InFlight { id, body });
                }
                Step::Reply(which, byte) => {
                    let mut world = lock(&world);
                    if world.connection.is_some() && !world.sent.is_empty() {
                        let (id, _) = world.sent[which % world.sent.len()];
                        world.arrived.push_back([&id[..], &[byte]].concat());
                    }
                }
                Step::HangUp => lock(&world).connection = None,
                Step::Receive => {
                    let mut expected = None;
                    let mut resent = Vec::new();
                    if let Some(InFlight { id, body }) = &in_flight {
                        let world = lock(&world);
                        expected = world.arrived.iter().find(|message| message[..4] == id[..]).cloned();
                        let is_lost = expected.is_none() && world.connection.is_none();
                        if is_lost && repeats && world.is_listening {
                            resent.push((*id, body.clone()));
                        }
                    }
                    let is_over = lock(&world).connection.is_none();
                    let before = lock(&world).sent.len();
                    let mut buffer = Vec::new();
                    let received = socket.receive(&mut buffer, at_once());
                    match (&in_flight, expected) {
                        (None, _) => prop_assert!(matches!(received, Err(TransportError::Misuse(_)))),
                        (_, Some(reply)) => {
                            prop_assert!(received.is_ok());
                            prop_assert_eq!(buffer, &reply[4..]);
                        }
                        (_, None) if is_over && !repeats => {
                            prop_assert!(matches!(received, Err(TransportError::Disconnected)));
                        }
                        (_, None) => prop_assert!(matches!(received, Err(TransportError::Timeout))),
                    }
                    // With the same id and body, and only on a new connection.
                    prop_assert_eq!(&lock(&world).sent[before..], &resent[..]);
                    // Answered or cancelled.
                    in_flight = None;
                }
            }
        }
    }
}

#[test]
fn a_silent_peer_is_asked_again_with_the_same_request() {
    let (world, socket) = socket(Some(Duration::ZERO));
    let connection = socket.connect(at_once()).unwrap();
    socket.send(connection, b"a", at_once()).unwrap();
    let soon = Some(Instant::now() + Duration::from_millis(20));
    assert!(matches!(socket.receive(&mut Vec::new(), soon), Err(TransportError::Timeout)));
    let sent = lock(&world).sent.clone();
    assert!(sent.len() > 2 && sent.iter().all(|request| *request == sent[0]), "{sent:?}");
}

#[test]
fn a_closed_socket_says_so_to_every_call() {
    let (_, socket) = socket(None);
    let connection = socket.connect(at_once()).unwrap();
    socket.send(connection, b"a", at_once()).unwrap();
    socket.close();
    assert!(matches!(socket.receive(&mut Vec::new(), None), Err(TransportError::Closed)));
    assert!(matches!(socket.connect(None), Err(TransportError::Closed)));
    assert!(matches!(socket.send(connection, b"b", None), Err(TransportError::Closed)));
}
