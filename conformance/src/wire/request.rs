//! A request socket's matching of replies: cases 19 to 21, 24 and 25.

use std::thread;
use std::time::{Duration, Instant};

use ekuiper_core::transport::{ConnectionId, Request, TransportError};

use crate::raw::{REP, REQ, RawListener, RawPeer, frame};
use crate::{Fixture, assert_error, options, past, pattern, punctual, shortly, soon};

/// Connects a request socket to a raw peer.
fn connected(request: &dyn Request, at: &RawListener) -> (ConnectionId, RawPeer) {
    thread::scope(|scope| {
        let connecting = scope.spawn(|| request.connect(soon()).unwrap());
        let peer = at.accept_as(REP, REQ);
        (connecting.join().unwrap(), peer)
    })
}

/// Splits a request into its id and its body.
fn split(content: Vec<u8>) -> ([u8; 4], Vec<u8>) {
    let (id, body) = content.split_first_chunk::<4>().unwrap();
    assert!(id[0] & 0x80 != 0, "the id's highest bit");
    (*id, body.to_vec())
}

fn reply(id: [u8; 4], body: &[u8]) -> Vec<u8> {
    frame(&[&id, body].concat())
}

/// Case 19: replies to no request, to an earlier one, or repeated, are dropped.
pub fn case_19_unknown_late_and_duplicate_replies(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    let (connection, mut peer) = connected(&*request, &at);
    let mut buffer = Vec::new();
    let mut last = None;
    for round in 0..3 {
        request.send(connection, b"question", soon()).unwrap();
        let (id, body) = split(peer.frame());
        assert_eq!(body, b"question");
        if let Some(last) = last {
            assert_eq!(u32::from_be_bytes(last) + 1, u32::from_be_bytes(id), "ids count up");
            peer.write(&reply(last, b"late"));
        }
        peer.write(&frame(b""));
        peer.write(&frame(&id[..3]));
        peer.write(&reply([0x80, 1, 2, 3], b"unknown"));
        peer.write(&reply([id[0] & 0x7f, id[1], id[2], id[3]], b"without the highest bit"));
        peer.write(&reply(id, b"right"));
        peer.write(&reply(id, b"duplicate"));
        request.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, b"right", "in round {round}");
        last = Some(id);
    }
}

/// A peer that floods a requester with replies that must be dropped delays
/// neither the deadline nor the right reply.
pub fn floods_of_dropped_replies_do_not_matter(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    let (connection, mut peer) = connected(&*request, &at);
    let flood: Vec<u8> = (0..3000).flat_map(|_| reply([0x80, 1, 2, 3], b"unknown")).collect();
    thread::scope(|scope| {
        // Dropped here on a failure, so that the flooding peer ends.
        let request = request;
        request.send(connection, b"first", soon()).unwrap();
        peer.frame();
        let flooder = peer.again();
        scope.spawn(move || flooder.flood(&flood));
        let mut buffer = Vec::new();
        for _ in 0..20 {
            let received = punctual(shortly(), |deadline| request.receive(&mut buffer, deadline));
            assert_error!(received, TransportError::Timeout);
            request.send(connection, b"again", soon()).unwrap();
        }
    });
}

/// Case 20: a second request cancels the first one, whose reply does not count.
pub fn case_20_a_second_request_cancels_the_first(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    let (connection, mut peer) = connected(&*request, &at);
    request.send(connection, b"one", soon()).unwrap();
    request.send(connection, b"two", soon()).unwrap();
    let ((one, _), (two, body)) = (split(peer.frame()), split(peer.frame()));
    assert_eq!(body, b"two");
    peer.write(&[reply(one, b"to one"), reply(two, b"to two")].concat());
    let mut buffer = Vec::new();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"to two");
    assert_error!(request.receive(&mut buffer, soon()), TransportError::Misuse(_));
}

/// Case 21: receiving without a request, or after a timeout, is refused.
pub fn case_21_receiving_without_a_request(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    let mut buffer = Vec::new();
    assert_error!(request.receive(&mut buffer, soon()), TransportError::Misuse(_));
    let (connection, mut peer) = connected(&*request, &at);
    assert_error!(request.receive(&mut buffer, soon()), TransportError::Misuse(_));
    request.send(connection, b"question", soon()).unwrap();
    let (id, _) = split(peer.frame());
    assert_error!(request.receive(&mut buffer, shortly()), TransportError::Timeout);
    peer.write(&reply(id, b"too late"));
    assert_error!(request.receive(&mut buffer, soon()), TransportError::Misuse(_));
    request.send(connection, b"next", soon()).unwrap();
    let (id, _) = split(peer.frame());
    assert_error!(request.receive(&mut buffer, past()), TransportError::Timeout);
    peer.write(&reply(id, b"too late"));
    request.send(connection, b"last", soon()).unwrap();
    let (id, _) = split(peer.frame());
    peer.write(&reply(id, b"in time"));
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"in time");
}

/// Case 24: with the option set, a silent peer receives the request repeatedly,
/// each time the same.
pub fn case_24_a_silent_peer_is_asked_again(f: &Fixture) {
    let retry = Duration::from_millis(400);
    let retrying = options(|options| options.retry = Some(retry));
    let at = RawListener::bind(&f.at("request"));
    let request = f.transport().request(&f.at("request"), &retrying).unwrap();
    let (connection, mut peer) = connected(&*request, &at);
    request.send(connection, b"anybody?", soon()).unwrap();
    let since = Instant::now();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut buffer = Vec::new();
            request.receive(&mut buffer, soon()).unwrap();
            buffer
        });
        let first = peer.frame();
        for _ in 0..3 {
            assert_eq!(peer.frame(), first);
        }
        assert!(since.elapsed() >= 2 * retry, "it asks too often");
        let (id, body) = split(first);
        assert_eq!(body, b"anybody?");
        peer.write(&reply(id, b"me"));
        assert_eq!(receiving.join().unwrap(), b"me");
    });
}

/// Case 24 without the option: a request is sent once.
pub fn case_24_without_the_option_it_is_asked_once(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    let (connection, mut peer) = connected(&*request, &at);
    request.send(connection, b"anybody?", soon()).unwrap();
    let mut buffer = Vec::new();
    assert_error!(
        request.receive(&mut buffer, Some(Instant::now() + Duration::from_millis(600))),
        TransportError::Timeout
    );
    request.send(connection, b"next", soon()).unwrap();
    assert_eq!(split(peer.frame()).1, b"anybody?");
    assert_eq!(split(peer.frame()).1, b"next");
}

/// Case 25: with repeating on, a request is sent again to the next peer.
pub fn case_25_disconnect_with_retry(f: &Fixture) {
    let retrying = options(|options| options.retry = Some(Duration::from_secs(60)));
    let at = RawListener::bind(&f.at("request"));
    let request = f.transport().request(&f.at("request"), &retrying).unwrap();
    let (connection, mut peer) = connected(&*request, &at);
    request.send(connection, b"question", soon()).unwrap();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut buffer = Vec::new();
            request.receive(&mut buffer, soon()).unwrap();
            buffer
        });
        let first = peer.frame();
        drop(peer);
        let mut next = at.accept_as(REP, REQ);
        assert_eq!(next.frame(), first);
        next.write(&reply(split(first).0, b"answer"));
        assert_eq!(receiving.join().unwrap(), b"answer");
    });
}

/// Case 25: with repeating off, a request ends with its connection, and the
/// next peer never receives it.
pub fn case_25_disconnect_without_retry(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    let (connection, mut peer) = connected(&*request, &at);
    let mut buffer = Vec::new();
    request.send(connection, b"question", soon()).unwrap();
    peer.frame();
    drop(peer);
    assert_error!(request.receive(&mut buffer, soon()), TransportError::Disconnected);
    assert_error!(request.receive(&mut buffer, soon()), TransportError::Misuse(_));
    let (next, mut peer) = connected(&*request, &at);
    assert_ne!(next, connection);
    assert_error!(request.send(connection, b"for the first", soon()), TransportError::Disconnected);
    request.send(next, b"for the second", soon()).unwrap();
    assert_eq!(split(peer.frame()).1, b"for the second");
}

/// A reply may have any length up to the limit; a longer one ends the
/// connection.
pub fn reply_lengths(f: &Fixture) {
    let limit = options(|options| options.max_message = 200_000);
    let at = RawListener::bind(&f.at("request"));
    let request = f.transport().request(&f.at("request"), &limit).unwrap();
    let (connection, mut peer) = connected(&*request, &at);
    let mut buffer = Vec::new();
    for length in [0, 1, 65_536, 200_000, 200_001] {
        request.send(connection, b"how long?", soon()).unwrap();
        let (id, _) = split(peer.frame());
        let body = pattern(length, 25);
        thread::scope(|scope| {
            scope.spawn(|| peer.try_write(&reply(id, &body)));
            let received = request.receive(&mut buffer, soon());
            if length > 200_000 {
                assert_error!(received, TransportError::Disconnected);
            } else {
                received.unwrap();
                assert!(buffer == body, "{length} bytes");
            }
        });
    }
    peer.expect_closed();
}
