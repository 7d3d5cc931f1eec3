//! The promises of `ekuiper_core::transport`, tested through that contract.

pub mod addresses;
pub mod closing;
pub mod deadlines;
pub mod delivery;
pub mod events;
pub mod limits;
pub mod misuse;
pub mod posting;
pub mod pressure;
pub mod readiness;
pub mod reconnect;
pub mod resources;
pub mod strangers;
pub mod tickets;

use std::sync::Arc;

use ekuiper_core::transport::{ConnectionId, Pull, PullEvent, Push, Reply, ReplyEvent, Request, Ticket};

use crate::support::request;
use crate::{Fixture, soon};

/// Creates a push that dials and a pull that listens, connected to each other.
fn pair(f: &Fixture, name: &str) -> (Arc<dyn Push>, Arc<dyn Pull>) {
    let (pull, push) = (f.pull(&f.listen(name)), f.push(&f.dial(name)));
    join(&*push, &*pull);
    (push, pull)
}

/// Waits until a push and a pull, of which one dials the other, are connected.
fn join(push: &dyn Push, pull: &dyn Pull) -> ConnectionId {
    std::thread::scope(|scope| {
        scope.spawn(|| push.connect(soon()).unwrap());
        match pull.receive(&mut Vec::new(), soon()).unwrap() {
            PullEvent::Connected(connection) => connection,
            other => panic!("expected a connection, got {other:?}"),
        }
    })
}

/// Creates a request socket and a reply socket, connected to each other.
fn couple(f: &Fixture, name: &str) -> (Arc<dyn Request>, ConnectionId, Arc<dyn Reply>) {
    let reply = f.reply(name);
    let request = f.request(name);
    let connection = introduce(&*request, &*reply);
    (request, connection, reply)
}

/// Waits until a request socket and a reply socket are connected.
fn introduce(request: &dyn Request, reply: &dyn Reply) -> ConnectionId {
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| request.connect(soon()).unwrap());
        match reply.receive(&mut Vec::new(), soon()).unwrap() {
            ReplyEvent::Connected(_) => connecting.join().unwrap(),
            other => panic!("expected a connection, got {other:?}"),
        }
    })
}

/// Returns the next request of a reply socket, and skips connection events.
fn asked(reply: &dyn Reply) -> (Ticket, Vec<u8>) {
    let mut buffer = Vec::new();
    (request(reply, &mut buffer), buffer)
}

/// Sends until there is no more room; returns the number of messages sent.
fn fill(push: &dyn Push, body: &[u8]) -> usize {
    use ekuiper_core::transport::TransportError;
    let mut taken = 0;
    loop {
        match push.send(body, crate::shortly()) {
            Ok(()) => taken += 1,
            Err(TransportError::Timeout) => return taken,
            Err(error) => panic!("{error}"),
        }
        assert!(taken < 1_000_000, "it takes any number of messages");
    }
}
