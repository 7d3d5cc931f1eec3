//! Promises 2 and 3: a call with a deadline returns by that deadline.

use std::thread;
use std::time::Instant;

use ekuiper_core::transport::{ReplyEvent, TransportError};

use super::{asked, couple, fill, introduce, pair};
use crate::support::message;
use crate::{Fixture, assert_error, eventually, past, pattern, punctual, shortly, soon};

/// Every wait for a peer ends at its deadline, and not before.
pub fn deadlines_end_every_wait_for_a_peer(f: &Fixture) {
    let mut buffer = Vec::new();
    for (number, deadline) in [past, shortly].into_iter().enumerate() {
        let at = |name: &str| format!("{name}{number}");
        for endpoint in [f.dial(&at("nobody")), f.listen(&at("push"))] {
            let push = f.push(&endpoint);
            punctual(deadline(), |deadline| assert_error!(push.connect(deadline), TransportError::Timeout));
            punctual(deadline(), |deadline| assert_error!(push.send(b"x", deadline), TransportError::Timeout));
            punctual(deadline(), |deadline| push.flush(deadline).unwrap_or(()));
        }
        for endpoint in [f.dial(&at("nobody")), f.listen(&at("pull"))] {
            let pull = f.pull(&endpoint);
            punctual(deadline(), |d| assert_error!(pull.receive(&mut buffer, d), TransportError::Timeout));
        }
        let (request, reply) = (f.request(&at("nobody")), f.reply(&at("reply")));
        punctual(deadline(), |deadline| assert_error!(request.connect(deadline), TransportError::Timeout));
        punctual(deadline(), |deadline| assert_error!(reply.receive(&mut buffer, deadline), TransportError::Timeout));
    }
}

/// A wait does not end early.
pub fn deadlines_are_not_early(f: &Fixture) {
    let pull = f.pull(&f.listen("pull"));
    let push = f.push(&f.dial("nobody"));
    for _ in 0..5 {
        let deadline = shortly();
        assert_error!(pull.receive(&mut Vec::new(), deadline), TransportError::Timeout);
        assert!(Instant::now() >= deadline.unwrap());
        let deadline = shortly();
        assert_error!(push.send(b"x", deadline), TransportError::Timeout);
        assert!(Instant::now() >= deadline.unwrap());
    }
}

/// A call with a deadline in the past takes what is available.
pub fn deadlines_in_the_past_take_what_is_there(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let mut buffer = Vec::new();
    push.send(b"message", past()).unwrap();
    assert!(eventually(|| pull.receive(&mut buffer, past()).is_ok()));
    assert_eq!(buffer, b"message");
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"question", past()).unwrap();
    let mut ticket = None;
    assert!(eventually(|| match reply.receive(&mut buffer, past()) {
        Ok(ReplyEvent::Request(asked)) => ticket.insert(asked).serial > 0,
        _ => false,
    }));
    reply.send(&ticket.unwrap(), b"answer", past()).unwrap();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"answer");
}

/// An answer needs no wait for the answers to others.
pub fn deadlines_in_the_past_answer_each_peer(f: &Fixture) {
    const PEERS: usize = 32;
    let reply = f.reply("reply");
    let peers: Vec<_> = std::iter::repeat_with(|| {
        let request = f.request("reply");
        let connection = introduce(&*request, &*reply);
        (request, connection)
    })
    .take(PEERS)
    .collect();
    for _ in 0..10 {
        for (request, connection) in &peers {
            request.send(*connection, b"question", soon()).unwrap();
        }
        let tickets: Vec<_> = peers.iter().map(|_| asked(&*reply).0).collect();
        for ticket in &tickets {
            reply.send(ticket, b"answer", past()).unwrap();
        }
        for (request, _) in &peers {
            request.receive(&mut Vec::new(), soon()).unwrap();
        }
    }
}

/// A deadline ends the wait for a connected but silent peer.
pub fn deadlines_end_waits_for_silent_peers(f: &Fixture) {
    let (_push, pull) = pair(f, "data");
    let (request, connection, reply) = couple(f, "reply");
    let mut buffer = Vec::new();
    for deadline in [past, shortly] {
        punctual(deadline(), |d| assert_error!(pull.receive(&mut buffer, d), TransportError::Timeout));
        punctual(deadline(), |d| assert_error!(reply.receive(&mut buffer, d), TransportError::Timeout));
        request.send(connection, b"question", soon()).unwrap();
        punctual(deadline(), |d| assert_error!(request.receive(&mut buffer, d), TransportError::Timeout));
        // The silent side was ours.
        asked(&*reply);
    }
}

/// A deadline ends the wait for a peer that does not read, for the sender and
/// for the threads behind it.
pub fn deadlines_end_waits_for_readers(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let taken = fill(&*push, &[1; 1000]);
    punctual(past(), |deadline| assert_error!(push.send(&[2; 1000], deadline), TransportError::Timeout));
    punctual(shortly(), |deadline| assert_error!(push.flush(deadline), TransportError::Timeout));
    thread::scope(|scope| {
        let patient = scope.spawn(|| push.send(&[3; 1000], soon()).unwrap());
        for _ in 0..10 {
            punctual(shortly(), |deadline| match push.send(&[4; 1000], deadline) {
                Err(TransportError::Timeout) => {}
                other => panic!("{other:?}"),
            });
        }
        for _ in 0..taken {
            assert_eq!(message(&*pull), [1; 1000]);
        }
        assert_eq!(message(&*pull), [3; 1000]);
        patient.join().unwrap();
    });
    // The message that timed out was not sent.
    push.send(b"last", soon()).unwrap();
    assert_eq!(message(&*pull), b"last");
}

/// Sending a message larger than the buffers, to a peer that does not read,
/// ends at its deadline. If the call failed, nothing arrives; if it succeeded,
/// the message does, unmixed with others.
pub fn deadlines_end_the_sending_of_long_messages(f: &Fixture) {
    let long = pattern(16 << 20, 1);
    let (push, pull) = pair(f, "data");
    let sent = punctual(shortly(), |deadline| match push.send(&long, deadline) {
        Ok(()) => true,
        Err(TransportError::Timeout) => false,
        Err(error) => panic!("{error}"),
    });
    punctual(shortly(), |deadline| assert_error!(push.flush(deadline), TransportError::Timeout));
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            push.send(b"next", soon()).unwrap();
            push.flush(soon()).unwrap();
        });
        if sent {
            assert!(message(&*pull) == long);
        }
        assert_eq!(message(&*pull), b"next");
        sender.join().unwrap();
    });
    // The message arrives without further calls of the sender.
    if punctual(past(), |deadline| push.send(&long, deadline).is_ok()) {
        assert!(message(&*pull) == long);
    }
}

/// Sending a large request or reply, to a peer that does not read, ends at its
/// deadline.
pub fn deadlines_end_the_sending_of_long_requests_and_replies(f: &Fixture) {
    let long = pattern(16 << 20, 2);
    let (request, connection, reply) = couple(f, "reply");
    punctual(shortly(), |deadline| request.send(connection, &long, deadline)).unwrap();
    let (ticket, body) = asked(&*reply);
    assert!(body == long);
    punctual(shortly(), |deadline| reply.send(&ticket, &long, deadline)).unwrap();
    let mut buffer = Vec::new();
    request.receive(&mut buffer, soon()).unwrap();
    assert!(buffer == long);
    // Data of a cancelled request does not get in the way.
    request.send(connection, &long, shortly()).unwrap();
    punctual(shortly(), |deadline| assert_error!(request.receive(&mut buffer, deadline), TransportError::Timeout));
    thread::scope(|scope| {
        scope.spawn(|| request.send(connection, b"next", soon()).unwrap());
        while asked(&*reply).1 != b"next" {}
    });
}

/// When a peer disconnects in the middle of a message that is being finished in
/// the background, later sends and a flush end by their deadlines.
pub fn deadlines_hold_after_a_peer_left_in_a_message(f: &Fixture) {
    let long = vec![1; 16 << 20];
    let (push, pull) = pair(f, "data");
    push.send(&long, shortly()).unwrap();
    drop(pull);
    punctual(soon(), |deadline| push.flush(deadline)).unwrap();
    assert!(punctual(shortly(), |deadline| push.send(b"x", deadline)).is_err());

    let (request, connection, reply) = couple(f, "asking");
    request.send(connection, &long, shortly()).unwrap();
    drop(reply);
    assert!(punctual(shortly(), |deadline| request.send(connection, b"x", deadline)).is_err());

    let (request, connection, reply) = couple(f, "answering");
    request.send(connection, b"first", soon()).unwrap();
    let first = asked(&*reply).0;
    reply.send(&first, &long, shortly()).unwrap();
    request.send(connection, b"second", soon()).unwrap();
    let second = asked(&*reply).0;
    drop(request);
    // The answer may be queued; the call may not take long.
    let _ = punctual(shortly(), |deadline| reply.send(&second, b"x", deadline));
}
