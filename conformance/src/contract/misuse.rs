//! Invalid calls fail with `Misuse`, and have no other effect.

use std::thread;

use ekuiper_core::transport::{Result, TransportError};

use super::{asked, couple, pair};
use crate::{Fixture, assert_error, eventually, past, soon};

/// Two threads receive; while both are receiving, exactly one is refused.
fn second_is_turned_away(receive: impl Fn(bool) -> Result<()> + Sync, close: impl FnOnce()) {
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            loop {
                match receive(true) {
                    // The other thread was receiving for a moment.
                    Err(TransportError::Misuse(_)) => thread::yield_now(),
                    ended => return ended,
                }
            }
        });
        assert!(eventually(|| matches!(receive(false), Err(TransportError::Misuse(_)))), "both receive");
        close();
        assert_error!(first.join().unwrap(), TransportError::Closed);
    });
}

/// A second receiver is refused on every kind of socket.
pub fn misuse_by_a_second_receiver(f: &Fixture) {
    let deadline = |forever: bool| if forever { None } else { past() };
    let (_push, pull) = pair(f, "data");
    second_is_turned_away(|forever| pull.receive(&mut Vec::new(), deadline(forever)).map(|_| ()), || pull.close());
    let (_request, _, reply) = couple(f, "reply");
    second_is_turned_away(|forever| reply.receive(&mut Vec::new(), deadline(forever)).map(|_| ()), || reply.close());
}

/// A second receiver of a reply is refused at once, and the first one receives
/// the reply.
pub fn misuse_by_a_second_receiver_of_a_reply(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"question", soon()).unwrap();
    thread::scope(|scope| {
        let receivers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                request.receive(&mut buffer, soon()).map(|()| buffer)
            })
        });
        assert!(eventually(|| receivers.iter().any(|receiver| receiver.is_finished())), "both receive");
        let (ticket, _) = asked(&*reply);
        reply.send(&ticket, b"answer", soon()).unwrap();
        let mut outcomes = receivers.map(|receiver| receiver.join().unwrap());
        outcomes.sort_by_key(Result::is_err);
        let [got, refused] = outcomes;
        assert_eq!(got.unwrap(), b"answer");
        assert_error!(refused, TransportError::Misuse(_));
    });
}

/// An answer with a ticket of an unknown connection is refused.
pub fn misuse_of_foreign_tickets(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"question", soon()).unwrap();
    let (ticket, _) = asked(&*reply);
    let mut foreign = ticket.clone();
    foreign.connection.0 += 1000;
    assert_error!(reply.send(&foreign, b"x", soon()), TransportError::Disconnected | TransportError::Misuse(_));
    reply.send(&ticket, b"answer", soon()).unwrap();
    let mut buffer = Vec::new();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"answer");
}

/// A request on another socket's connection is refused.
pub fn misuse_of_foreign_connections(f: &Fixture) {
    let (request, connection, _reply) = couple(f, "reply");
    let mut foreign = connection;
    foreign.0 += 1000;
    assert_error!(request.send(foreign, b"x", soon()), TransportError::Disconnected);
    request.send(connection, b"question", soon()).unwrap();
}
