//! Which requests can be answered, and how often.

use std::thread;

use ekuiper_core::transport::{ReplyEvent, Ticket, TransportError};

use super::{asked, couple, introduce};
use crate::{Fixture, assert_error, soon};

/// A ticket is valid for one answer.
pub fn tickets_are_for_one_answer(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"question", soon()).unwrap();
    let (ticket, _) = asked(&*reply);
    reply.send(&ticket, b"answer", soon()).unwrap();
    assert_error!(reply.send(&ticket, b"again", soon()), TransportError::Misuse(_));
    let mut buffer = Vec::new();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"answer");
    request.send(connection, b"next", soon()).unwrap();
    let (next, _) = asked(&*reply);
    assert!(next.serial > ticket.serial);
    assert_error!(reply.send(&ticket, b"again", soon()), TransportError::Misuse(_));
    reply.send(&next, b"to the next", soon()).unwrap();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"to the next");
}

/// If several threads answer one request, one of them succeeds.
pub fn tickets_are_for_one_thread(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    let mut buffer = Vec::new();
    for _ in 0..50 {
        request.send(connection, b"question", soon()).unwrap();
        let (ticket, _) = asked(&*reply);
        let answered = thread::scope(|scope| {
            let threads = [b"a", b"b", b"c"].map(|answer| {
                let (reply, ticket) = (&reply, &ticket);
                scope.spawn(move || match reply.send(ticket, answer, soon()) {
                    Ok(()) => Some(answer),
                    Err(TransportError::Misuse(_)) => None,
                    Err(error) => panic!("{error}"),
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        let mut answered = answered.into_iter().flatten();
        let (Some(answer), None) = (answered.next(), answered.next()) else { panic!("not one answer") };
        request.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, answer);
    }
}

/// A later request supersedes the earlier one of the same connection.
pub fn tickets_are_superseded(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"one", soon()).unwrap();
    let (one, _) = asked(&*reply);
    request.send(connection, b"two", soon()).unwrap();
    let (two, body) = asked(&*reply);
    assert_eq!((one.connection, &body[..]), (two.connection, &b"two"[..]));
    assert!(two.serial > one.serial);
    assert_error!(reply.send(&one, b"to one", soon()), TransportError::Misuse(_));
    reply.send(&two, b"to two", soon()).unwrap();
    let mut buffer = Vec::new();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"to two");
}

/// Requests of different connections can be answered in any order, from any
/// thread, and each answer arrives at its requester.
pub fn tickets_of_several_peers(f: &Fixture) {
    let reply = f.reply("reply");
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let request = f.request("reply");
            introduce(&*request, &*reply);
            request
        })
        .collect();
    for round in 0..20u8 {
        let mut tickets: Vec<(Ticket, Vec<u8>)> = requests
            .iter()
            .enumerate()
            .map(|(peer, request)| {
                let connection = request.connect(soon()).unwrap();
                request.send(connection, &[peer as u8, round], soon()).unwrap();
                asked(&*reply)
            })
            .collect();
        tickets.rotate_left(usize::from(round) % 5);
        thread::scope(|scope| {
            for (ticket, body) in tickets.iter().rev() {
                scope.spawn(|| reply.send(ticket, body, soon()).unwrap());
            }
        });
        for (peer, request) in requests.iter().enumerate() {
            let mut buffer = Vec::new();
            request.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, [peer as u8, round]);
        }
    }
}

/// A ticket ends with its connection, and its answer reaches no other peer.
pub fn tickets_end_with_their_connection(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"question", soon()).unwrap();
    let (ticket, mut buffer) = asked(&*reply);
    drop(request);
    assert_eq!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(ticket.connection));
    assert_error!(reply.send(&ticket, b"answer", soon()), TransportError::Disconnected);
    // A second requester at the same address.
    let next = f.request("reply");
    let connection = introduce(&*next, &*reply);
    next.send(connection, b"another", soon()).unwrap();
    let (another, _) = asked(&*reply);
    assert_ne!(another.connection, ticket.connection);
    assert_error!(reply.send(&ticket, b"to the first", soon()), TransportError::Disconnected);
    reply.send(&another, b"to the second", soon()).unwrap();
    next.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"to the second");
}

/// A message after an answer to a cancelled request is not mistaken for its
/// reply.
pub fn tickets_do_not_mix_replies(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    let mut buffer = Vec::new();
    for round in 0..100u8 {
        request.send(connection, &[round, 0], soon()).unwrap();
        let (first, _) = asked(&*reply);
        // The answer is in flight when its request is cancelled.
        reply.send(&first, b"to the first", soon()).unwrap();
        request.send(connection, &[round, 1], soon()).unwrap();
        let (second, body) = asked(&*reply);
        assert_eq!(body, [round, 1]);
        reply.send(&second, &body, soon()).unwrap();
        request.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, [round, 1]);
    }
}
