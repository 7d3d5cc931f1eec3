//! Promise 1, whole messages in order, from any number of senders.

use std::thread;

use ekuiper_core::transport::{ConnectionId, PullEvent};

use super::{asked, couple, join, pair};
use crate::support::message;
use crate::{Fixture, pattern, soon};

/// Lengths around every internal threshold.
const LENGTHS: [usize; 18] = [
    0,
    1,
    8,
    9,
    32,
    4095,
    4096,
    4097,
    8192,
    16_383,
    16_384,
    65_526,
    65_527,
    65_536,
    131_073,
    212_992,
    1 << 20,
    5_000_003,
];

/// Messages of every length arrive, from a dialling to a listening socket.
pub fn delivery_of_every_length(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    thread::scope(|scope| {
        scope.spawn(|| LENGTHS.iter().for_each(|length| push.send(&pattern(*length, *length), soon()).unwrap()));
        for length in LENGTHS {
            assert!(message(&*pull) == pattern(length, length), "{length} bytes");
        }
    });
}

/// Messages of every length arrive, from a listening to a dialling socket.
pub fn delivery_to_a_dialler(f: &Fixture) {
    let (push, pull) = (f.push(&f.listen("data")), f.pull(&f.dial("data")));
    join(&*push, &*pull);
    thread::scope(|scope| {
        scope.spawn(|| LENGTHS.iter().for_each(|length| push.send(&pattern(*length, *length), soon()).unwrap()));
        for length in LENGTHS {
            assert!(message(&*pull) == pattern(length, length), "{length} bytes");
        }
    });
}

/// Of many messages, none is lost or duplicated, and all are in order.
pub fn delivery_keeps_the_order(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    thread::scope(|scope| {
        scope.spawn(|| (0..50_000u32).for_each(|number| push.send(&number.to_be_bytes(), soon()).unwrap()));
        for number in 0..50_000u32 {
            assert_eq!(message(&*pull), number.to_be_bytes());
        }
    });
}

/// Messages of several threads on one socket do not mix, and each thread's are
/// in order.
pub fn delivery_from_several_threads(f: &Fixture) {
    const THREADS: usize = 4;
    const EACH: usize = 300;
    let (push, pull) = pair(f, "data");
    let body = |thread: usize, number: usize| {
        let length = [10, 3000, 5000, 70_000, 300_000][number % 5] + thread;
        [&(thread as u32).to_be_bytes()[..], &(number as u32).to_be_bytes(), &pattern(length, thread)].concat()
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let push = &push;
            scope.spawn(move || (0..EACH).for_each(|number| push.send(&body(thread, number), soon()).unwrap()));
        }
        let mut next = [0; THREADS];
        for _ in 0..THREADS * EACH {
            let got = message(&*pull);
            let thread = u32::from_be_bytes(got[..4].try_into().unwrap()) as usize;
            assert!(got == body(thread, next[thread]), "message {} of thread {thread}", next[thread]);
            next[thread] += 1;
        }
    });
}

/// Messages of several peers arrive in each peer's order, under its own
/// connection id.
pub fn delivery_from_several_peers(f: &Fixture) {
    let pull = f.pull(&f.listen("data"));
    thread::scope(|scope| {
        for peer in 0..5u32 {
            scope.spawn(move || {
                let push = f.push(&f.dial("data"));
                (0..1000u32).for_each(|number| {
                    push.send(&[peer.to_be_bytes(), number.to_be_bytes()].concat(), soon()).unwrap()
                });
            });
        }
        let mut buffer = Vec::new();
        let mut peers: [(Option<ConnectionId>, u32); 5] = Default::default();
        while peers.iter().any(|(_, next)| *next < 1000) {
            let PullEvent::Message(connection) = pull.receive(&mut buffer, soon()).unwrap() else { continue };
            let word = |at: usize| u32::from_be_bytes(buffer[at..at + 4].try_into().unwrap());
            let (known, next) = &mut peers[word(0) as usize];
            assert_eq!((*known.get_or_insert(connection), *next), (connection, word(4)));
            *next += 1;
        }
    });
}

/// Requests and replies of every length arrive.
pub fn delivery_of_requests_and_replies(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    thread::scope(|scope| {
        scope.spawn(|| {
            for length in LENGTHS {
                let (ticket, body) = asked(&*reply);
                assert!(body == pattern(length, 1), "{length} bytes");
                reply.send(&ticket, &pattern(length, 2), soon()).unwrap();
            }
        });
        let mut buffer = vec![1, 2, 3];
        for length in LENGTHS {
            request.send(connection, &pattern(length, 1), soon()).unwrap();
            request.receive(&mut buffer, soon()).unwrap();
            assert!(buffer == pattern(length, 2), "{length} bytes");
        }
    });
}
