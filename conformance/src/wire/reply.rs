//! A reply socket's treatment of backtraces: cases 16 to 18, 22 and 23.

use std::thread;
use std::time::Duration;

use ekuiper_core::transport::{ReplyEvent, TransportError};

use crate::pump::{Asked, ReplyPump};
use crate::raw::{REP, REQ, RawPeer, claim, frame};
use crate::{Fixture, assert_error, eventually, options, past, pattern, punctual, shortly, soon};

/// Returns a request's content, with `hops` words before the id.
fn request(hops: usize, id: u32, body: &[u8]) -> Vec<u8> {
    let words = (0..hops as u32).flat_map(u32::to_be_bytes);
    words.chain((id | 0x8000_0000).to_be_bytes()).chain(body.iter().copied()).collect()
}

/// Case 16: a malformed request ends its connection only.
pub fn case_16_malformed_requests(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let mut other = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    let other_id = reply.connected();
    for content in [&b""[..], b"\x80\0\0", b"\0\0\0\x01", b"\0\0\0\x01body", b"\0\0\0\x01\0\0\0\x02\x80\0"] {
        let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
        peer.write(&frame(content));
        peer.expect_closed();
        let id = reply.connected();
        assert_eq!(reply.next(), Asked::Disconnected(id), "after {content:?}");
        other.write(&frame(&request(0, 1, b"other")));
        let (ticket, body) = reply.request();
        assert_eq!((ticket.connection, &body[..]), (other_id, &b"other"[..]));
        reply.socket.send(&ticket, b"answer", soon()).unwrap();
        assert_eq!(other.frame(), request(0, 1, b"answer"));
    }
}

/// Case 17: a request may have crossed seven devices, not eight; then it is
/// dropped, and its connection stays.
pub fn case_17_eight_and_nine_words(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    peer.write(&frame(&request(8, 1, b"nine words")));
    peer.write(&frame(&request(7, 2, b"eight words")));
    let (ticket, body) = reply.request();
    assert_eq!(body, b"eight words");
    reply.socket.send(&ticket, b"answer", soon()).unwrap();
    assert_eq!(peer.frame(), request(7, 2, b"answer"));
}

/// Case 18: the reply carries the words back, byte for byte.
pub fn case_18_the_backtrace_comes_back(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    peer.write(b"\x01\0\0\0\0\0\0\0\x0c\0\0\0\x07\x80\0\0\x2aping");
    let (ticket, body) = reply.request();
    assert_eq!(body, b"ping");
    reply.socket.send(&ticket, b"pong", soon()).unwrap();
    peer.expect(b"\x01\0\0\0\0\0\0\0\x0c\0\0\0\x07\x80\0\0\x2apong");
}

/// A request that is too long is skipped and reported; its connection lives,
/// and it can be answered.
pub fn oversize_requests_are_skipped(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let reply = ReplyPump::of(f.transport().reply(&f.at("reply"), &limit).unwrap().into());
    let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    let id = reply.connected();
    for (hops, length) in [(0, 1001), (3, 1001), (7, 1001), (0, 1040), (2, 300_000)] {
        peer.write(&frame(&request(hops, 9, &pattern(length, 3))));
        match reply.next() {
            Asked::Oversized(ticket, found) => {
                assert_eq!((ticket.connection, found), (id, length as u64), "behind {hops} words");
                reply.socket.send(&ticket, b"too long", soon()).unwrap();
                assert_eq!(peer.frame(), request(hops, 9, b"too long"));
            }
            other => panic!("{other:?}"),
        }
        // The longest allowed request, behind as many words.
        peer.write(&frame(&request(hops, 10, &pattern(1000, 4))));
        assert_eq!(reply.request().1, pattern(1000, 4));
    }
    // A length that would take for ever to skip ends the connection.
    peer.write(&claim(1 << 50));
    peer.expect_closed();
    assert_eq!(reply.next(), Asked::Disconnected(id));
}

/// A peer that sends only requests that must be dropped, as fast as it can,
/// delays neither a deadline nor other peers.
pub fn floods_of_dropped_requests_do_not_matter(f: &Fixture) {
    let reply = f.reply("reply");
    let mut buffer = Vec::new();
    let flood: Vec<u8> = (0..2000).flat_map(|_| frame(&request(8, 1, b""))).collect();
    let flood = &flood;
    thread::scope(|scope| {
        let mut peer = RawPeer::dial(&f.at("reply"));
        scope.spawn(move || {
            peer.write(&REQ);
            peer.flood(flood);
        });
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Connected(_)));
        for deadline in [shortly, past].into_iter().cycle().take(20) {
            let received = punctual(deadline(), |deadline| reply.receive(&mut buffer, deadline));
            assert_error!(received, TransportError::Timeout);
        }
        let mut good = RawPeer::dial(&f.at("reply"));
        good.write(&REQ);
        good.write(&frame(&request(0, 1, b"good")));
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Connected(_)));
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Request(_)));
        assert_eq!(buffer, b"good");
        reply.close();
        // The flooding peers end when they are disconnected.
        drop(reply);
    });
}

/// Case 22: no answer without a request, and none twice.
pub fn case_22_answers_without_a_request(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    peer.write(&frame(&request(0, 1, b"one")));
    let (ticket, _) = reply.request();
    let mut invented = ticket.clone();
    invented.serial += 1;
    assert_error!(reply.socket.send(&invented, b"invented", soon()), TransportError::Misuse(_));
    reply.socket.send(&ticket, b"first", soon()).unwrap();
    assert_error!(reply.socket.send(&ticket, b"second", soon()), TransportError::Misuse(_));
    peer.write(&frame(&request(0, 2, b"two")));
    let (ticket, _) = reply.request();
    reply.socket.send(&ticket, b"third", soon()).unwrap();
    assert_eq!(peer.frame(), request(0, 1, b"first"));
    assert_eq!(peer.frame(), request(0, 2, b"third"));
}

/// Case 23: of two requests of one connection, only the second one can be
/// answered.
pub fn case_23_two_requests_one_answer(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    peer.write(&[frame(&request(0, 1, b"one")), frame(&request(0, 2, b"two"))].concat());
    let (first, _) = reply.request();
    let (second, body) = reply.request();
    assert_eq!(body, b"two");
    assert!(second.serial > first.serial);
    assert_error!(reply.socket.send(&first, b"to the first", soon()), TransportError::Misuse(_));
    reply.socket.send(&second, b"to the second", soon()).unwrap();
    assert_eq!(peer.frame(), request(0, 2, b"to the second"));
}

/// Answers do not mix: one that is being sent while the connection's next
/// request is answered is written first.
pub fn answers_do_not_mix(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    let body = pattern(4 << 20, 7);
    peer.write(&frame(&request(0, 1, b"long")));
    let (first, _) = reply.request();
    thread::scope(|scope| {
        scope.spawn(|| reply.socket.send(&first, &body, soon()).unwrap());
        assert!(eventually(|| peer.has_something()));
        peer.write(&frame(&request(0, 2, b"short")));
        let (second, _) = reply.request();
        let (socket, body) = (&reply.socket, &body);
        scope.spawn(move || socket.send(&second, &body[..1000], soon()).unwrap());
        assert!(peer.frame() == request(0, 1, body));
        assert!(peer.frame() == request(0, 2, &body[..1000]));
    });
}

/// A requester that does not read its answers does not block others, and can be
/// answered later.
pub fn a_requester_that_does_not_read(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let mut deaf = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    let body = pattern(50_000, 5);
    let mut answered = 0;
    let pending = loop {
        deaf.write(&frame(&request(0, answered, b"")));
        let (ticket, _) = reply.request();
        match reply.socket.send(&ticket, &body, shortly()) {
            Ok(()) => answered += 1,
            Err(TransportError::Timeout) => break ticket,
            Err(error) => panic!("{error}"),
        }
        assert!(answered < 10_000, "it takes any number of answers");
    };
    let mut other = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    other.write(&frame(&request(0, 1, b"other")));
    let (ticket, _) = reply.request();
    reply.socket.send(&ticket, b"answer", soon()).unwrap();
    assert_eq!(other.frame(), request(0, 1, b"answer"));
    thread::scope(|scope| {
        scope.spawn(|| reply.socket.send(&pending, b"late", soon()).unwrap());
        for id in 0..answered {
            assert_eq!(deaf.frame(), request(0, id, &body));
        }
        assert_eq!(deaf.frame(), request(0, answered, b"late"));
    });
    assert!(eventually(|| reply.try_next().is_none()));
    assert!(!deaf.is_closed_within(Duration::from_millis(1)));
}
