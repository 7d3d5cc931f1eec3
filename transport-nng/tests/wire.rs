//! Tests of the bundled libnng's wire format, with a peer that writes and reads
//! raw bytes.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "checks the ids")]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use support::*;

const REQ: [u8; 8] = *b"\0SP\0\0\x30\0\0";
const REP: [u8; 8] = *b"\0SP\0\0\x31\0\0";
const PUSH: [u8; 8] = *b"\0SP\0\0\x50\0\0";
const PULL: [u8; 8] = *b"\0SP\0\0\x51\0\0";

fn connect(address: &Address, header: &[u8]) -> UnixStream {
    let mut peer = UnixStream::connect(address.path()).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.write_all(header).unwrap();
    peer
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&[1], &(body.len() as u64).to_be_bytes()[..], body].concat()
}

fn expect(peer: &mut UnixStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

/// Asserts that the other side disconnects, and sends nothing more than its
/// header.
fn expect_end(peer: &mut UnixStream) {
    let mut rest = Vec::new();
    // Unread data turns the end into a reset.
    let _ = peer.read_to_end(&mut rest);
    assert!(rest.len() <= 8, "{rest:?}");
}

#[test]
fn headers_frames_and_sample_bytes() {
    watched(|| {
        let place = TestFolder::new();
        let pull = nng().pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
        let mut peer = connect(&place.at("p"), &[&PUSH[..], &frame(b"abc")].concat());
        expect(&mut peer, &PULL);
        assert_eq!(message(&*pull), b"abc");
        for byte in frame(b"slow") {
            peer.write_all(&[byte]).unwrap();
        }
        assert_eq!(message(&*pull), b"slow");
        peer.write_all(&frame(b"")).unwrap();
        assert_eq!(message(&*pull), b"");

        let push = nng().push(&Endpoint::Listen(place.at("q")), &Options::default()).unwrap();
        let mut peer = connect(&place.at("q"), &PULL);
        expect(&mut peer, &PUSH);
        push.send(b"abc", soon()).unwrap();
        expect(&mut peer, b"\x01\0\0\0\0\0\0\0\x03abc");
        push.send(b"", soon()).unwrap();
        expect(&mut peer, b"\x01\0\0\0\0\0\0\0\0");
    });
}

#[test]
fn a_request_has_an_id_and_only_its_reply_counts() {
    watched(|| {
        let place = TestFolder::new();
        let listener = UnixListener::bind(place.at("r").path()).unwrap();
        let requester = nng().request(&place.at("r"), &Options::default()).unwrap();
        let (mut host, _) = listener.accept().unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        host.write_all(&REP).unwrap();
        expect(&mut host, &REQ);
        let peer = requester.connect(soon()).unwrap();
        let mut ids = Vec::new();
        let mut buffer = Vec::new();
        for _ in 0..2 {
            requester.send(peer, b"hello", soon()).unwrap();
            let mut request = [0; 18];
            host.read_exact(&mut request).unwrap();
            assert_eq!(request[..9], *b"\x01\0\0\0\0\0\0\0\x09");
            assert_eq!(request[13..], *b"hello");
            let id: [u8; 4] = request[9..13].try_into().unwrap();
            assert_eq!(id[0] & 0x80, 0x80);
            ids.push(u32::from_be_bytes(id));
            let other = (u32::from_be_bytes(id) ^ 1).to_be_bytes();
            host.write_all(&frame(&[&other[..], b"another's"].concat())).unwrap();
            host.write_all(&frame(&[b"\0\0\0\x07", &id[..], b"a device's"].concat())).unwrap();
            host.write_all(&frame(&[&id[..], b"mine"].concat())).unwrap();
            host.write_all(&frame(&[&id[..], b"mine again"].concat())).unwrap();
            requester.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, b"mine");
        }
        assert_eq!(ids[1], (ids[0] + 1) | 0x8000_0000);
        for _ in 0..4 {
            host.write_all(&frame(&[&ids[1].to_be_bytes()[..], b"mine once more"].concat())).unwrap();
        }
        drop(host);
        // Its end is detected after the replies that were not received.
        let (mut next, _) = std::thread::scope(|scope| {
            let reconnected = scope.spawn(|| {
                while requester.connect(soon()).unwrap() == peer {
                    std::thread::yield_now();
                }
            });
            let mut accepted = listener.accept().unwrap();
            accepted.0.write_all(&REP).unwrap();
            reconnected.join().unwrap();
            accepted
        });
        expect(&mut next, &REQ);
    });
}

#[test]
fn a_reply_carries_the_backtrace_and_bad_ones_are_dropped() {
    watched(|| {
        let place = TestFolder::new();
        let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
        let mut good = connect(&place.at("r"), &REQ);
        expect(&mut good, &REP);
        let mut buffer = Vec::new();
        good.write_all(&frame(b"\0\0\0\x07\x80\0\0\x2aping")).unwrap();
        let ticket = request(&*reply, &mut buffer);
        assert_eq!(buffer, b"ping");
        assert_eq!(ticket.request.as_bytes(), b"\0\0\0\x07\x80\0\0\x2a");
        reply.send(&ticket, b"pong", soon()).unwrap();
        expect(&mut good, b"\x01\0\0\0\0\0\0\0\x0c\0\0\0\x07\x80\0\0\x2apong");

        for garbage in [&b""[..], b"abc", b"\0\0\0\x01\0\0\0\x02body"] {
            let mut bad = connect(&place.at("r"), &REQ);
            bad.write_all(&frame(garbage)).unwrap();
            expect_end(&mut bad);
        }
        let hops = |count: usize| [vec![0; (count - 1) * 4], b"\x80\0\0\x01hop".to_vec()].concat();
        good.write_all(&frame(&hops(9))).unwrap();
        good.write_all(&frame(&hops(8))).unwrap();
        let ticket = request(&*reply, &mut buffer);
        assert_eq!((buffer.as_slice(), ticket.request.as_bytes().len()), (&b"hop"[..], 32));
        reply.send(&ticket, b"", soon()).unwrap();
        expect(&mut good, &frame(&hops(8)[..32]));
    });
}

#[test]
fn whoever_speaks_otherwise_is_disconnected_and_the_others_go_on() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("p");
        let pull = nng().pull(&Endpoint::Listen(at.clone()), &options(1 << 20)).unwrap();
        let mut good = connect(&at, &PUSH);
        expect(&mut good, &PULL);
        let mut buffer = Vec::new();
        assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
        let long =
            |type_byte: u8, length: u64| [&PUSH[..], &[type_byte], &length.to_be_bytes(), b"some of it"].concat();
        let bad = [
            b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
            b"\0SQ\0\0\x50\0\0".to_vec(),
            b"\0SP\x01\0\x50\0\0".to_vec(),
            b"\0SP\0\0\x50\0\x01".to_vec(),
            REQ.to_vec(),
            PULL.to_vec(),
            long(0, 10),
            long(2, 10),
            long(1, (1 << 20) + 1),
            long(1, 1 << 50),
            long(1, 1 << 63),
            long(1, u64::MAX),
        ];
        for bytes in &bad {
            expect_end(&mut connect(&at, bytes));
        }
        good.write_all(&frame(b"still here")).unwrap();
        assert_eq!(message(&*pull), b"still here");
        // A truncated message is not delivered.
        let mut broken = connect(&at, &PUSH);
        expect(&mut broken, &PULL);
        broken.write_all(&frame(b"whole")).unwrap();
        broken.write_all(&frame(b"not whole")[..12]).unwrap();
        drop(broken);
        assert_eq!(message(&*pull), b"whole");
        good.write_all(&frame(b"next")).unwrap();
        assert_eq!(message(&*pull), b"next");
    });
}

#[test]
fn whoever_hangs_up_at_once_stops_no_listener() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("r");
        let reply = nng().reply(&at, &Options::default()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                loop {
                    match reply.receive(&mut buffer, None) {
                        Ok(ReplyEvent::Request(ticket)) => reply.send(&ticket, &buffer, soon()).unwrap_or_default(),
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            });
            let inode = || std::fs::metadata(at.path()).unwrap().ino();
            let first = inode();
            let early = nng().request(&at, &Options::default()).unwrap();
            let peer = early.connect(soon()).unwrap();
            // From now on it has its own listener.
            let give_up = Instant::now() + PATIENCE;
            while inode() == first {
                assert!(Instant::now() < give_up);
                std::thread::yield_now();
            }
            let mut buffer = Vec::new();
            for round in 0..3u8 {
                for _ in 0..200 {
                    drop(UnixStream::connect(at.path()).unwrap());
                }
                // It may wait in vain for a moment, and be disconnected then.
                let late = nng().request(&at, &Options::default()).unwrap();
                loop {
                    let peer = late.connect(soon()).unwrap();
                    match late.send(peer, &[round], soon()).and_then(|()| late.receive(&mut buffer, soon())) {
                        Ok(()) => break,
                        Err(TransportError::Disconnected) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(buffer, [round]);
                // Existing connections are not affected.
                early.send(peer, b"still here", soon()).unwrap();
                early.receive(&mut buffer, soon()).unwrap();
                assert_eq!(buffer, b"still here");
            }
            reply.close();
        });
    });
}

/// A process whose connection ends may redial and hang up at once, which stops
/// its listener: the next one is not to wait behind it.
#[test]
fn a_peer_that_has_left_leaves_a_new_listener() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("r");
        let reply = nng().reply(&at, &Options::default()).unwrap();
        let listener = || std::fs::metadata(at.path()).map(|file| (file.ino(), file.ctime_nsec())).unwrap();
        let await_another = |former| {
            let give_up = Instant::now() + PATIENCE;
            while listener() == former {
                assert!(Instant::now() < give_up);
                std::thread::yield_now();
            }
        };
        let first = listener();
        let mut peer = connect(&at, &REQ);
        expect(&mut peer, &REP);
        await_another(first);
        let second = listener();
        drop(peer);
        await_another(second);
        drop(reply);
    });
}

#[test]
fn a_trickle_gets_its_turn_beside_a_flood() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("p");
        let pull = nng().pull(&Endpoint::Listen(at.clone()), &Options::default()).unwrap();
        let mut flood = connect(&at, &PUSH);
        expect(&mut flood, &PULL);
        let mut trickle = connect(&at, &PUSH);
        expect(&mut trickle, &PULL);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let many = frame(b"flood").repeat(100);
                while flood.write_all(&many).is_ok() {}
            });
            for _ in 0..100 {
                assert_eq!(message(&*pull), b"flood");
            }
            for _ in 0..20 {
                trickle.write_all(&frame(b"trickle")).unwrap();
                let give_up = Instant::now() + PATIENCE;
                while message(&*pull) == b"flood" {
                    if Instant::now() > give_up {
                        pull.close();
                        panic!("the flood leaves no turn");
                    }
                }
            }
            pull.close();
        });
    });
}
