//! Tests of when a dialler dials, and what arrives after closing.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use support::*;

/// A dialler without a listener reconnects when it is used, not before.
#[test]
fn a_dialler_that_nobody_uses_does_not_dial_again() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("p");
        let push = push(&at);
        let first = pull(&at);
        push.connect(soon()).unwrap();
        drop(first);
        let second = pull(&at);
        let a_moment = Some(Instant::now() + Duration::from_millis(300));
        let nobody = second.receive(&mut Vec::new(), a_moment);
        assert!(matches!(nobody, Err(TransportError::Timeout)), "{nobody:?}");
        push.send(b"used", soon()).unwrap();
        assert_eq!(message(&*second), b"used");
    });
}

/// Sent messages arrive even if the sender closes at once: from a dialler and
/// from a listener, short and long ones.
#[test]
fn what_was_sent_before_the_closing_arrives() {
    watched(|| {
        let place = TestFolder::new();
        for (round, length) in [0, 10, 3000, 500_000, 1 << 20].into_iter().enumerate() {
            for listens in [false, true] {
                let at = place.at(&format!("{round}{listens}"));
                let (listen, dial) = (Endpoint::Listen(at.clone()), Endpoint::Dial(at));
                let (own, other) = if listens { (listen, dial) } else { (dial, listen) };
                let push = zeromq().push(&own, &Options::default()).unwrap();
                let pull = zeromq().pull(&other, &Options::default()).unwrap();
                push.connect(soon()).unwrap();
                let mut sent = 0;
                while push.send(&vec![round as u8; length], Some(Instant::now())).is_ok() {
                    sent += 1;
                }
                assert!(sent > 0);
                push.close();
                for _ in 0..sent {
                    assert!(message(&*pull) == vec![round as u8; length], "{length} bytes");
                }
                assert!(matches!(next(&*pull), PullEvent::Disconnected(_)));
            }
        }
    });
}

const SENDER: &str = "EKUIPER_ZEROMQ_SENDER";

/// A process that exits right after closing loses no message either.
#[test]
fn a_process_that_closes_and_ends_loses_nothing() {
    let body = vec![7; 3 << 20];
    if let Some(path) = std::env::var_os(SENDER) {
        let at = Address::new(path).unwrap();
        let endpoint = if at.path().exists() { Endpoint::Dial(at) } else { Endpoint::Listen(at) };
        let push = zeromq().push(&endpoint, &Options::default()).unwrap();
        push.connect(soon()).unwrap();
        for part in body.chunks(10_000) {
            push.send(part, soon()).unwrap();
        }
        push.close();
        std::process::exit(0);
    }
    watched(|| {
        let place = TestFolder::new();
        for name in ["listens", "dials"] {
            let at = place.at(name);
            let listen = || pull(&at);
            let dial = || zeromq().pull(&Endpoint::Dial(at.clone()), &Options::default()).unwrap();
            let pull = if name == "dials" { listen() } else { dial() };
            let mut sender = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "a_process_that_closes_and_ends_loses_nothing", "--nocapture"])
                .env(SENDER, at.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut got = Vec::new();
            let mut buffer = Vec::new();
            loop {
                match pull.receive(&mut buffer, soon()).unwrap() {
                    PullEvent::Message(_) => got.extend_from_slice(&buffer),
                    PullEvent::Connected(_) => {}
                    PullEvent::Disconnected(_) => break,
                }
            }
            assert!(got == body, "{} bytes of {}, where it {name}", got.len(), body.len());
            sender.wait().unwrap();
        }
    });
}

/// An answer arrives even if the socket that sent it closes at once.
#[test]
fn an_answer_before_the_closing_arrives() {
    watched(|| {
        let place = TestFolder::new();
        for round in 0..50u8 {
            let reply = zeromq().reply(&place.at("r"), &Options::default()).unwrap();
            let request = zeromq().request(&place.at("r"), &Options::default()).unwrap();
            let connection = request.connect(soon()).unwrap();
            request.send(connection, &[round], soon()).unwrap();
            let mut buffer = Vec::new();
            let ticket = loop {
                if let ReplyEvent::Request(ticket) = reply.receive(&mut buffer, soon()).unwrap() {
                    break ticket;
                }
            };
            reply.send(&ticket, &buffer, soon()).unwrap();
            drop(reply);
            request.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, [round]);
        }
    });
}

/// Answers to a requester that does not read block, are not dropped, and do not
/// block answers to others.
#[test]
fn a_requester_that_does_not_read_is_waited_for() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("r");
        let reply = zeromq().reply(&at, &Options::default()).unwrap();
        let mut deaf = RawPeer::dealer(&at);
        deaf.write(&frame(b"\0ekuiper\x01?"));
        deaf.expect(&frame(b"\0ekuiper\x01!"));
        let mut buffer = Vec::new();
        let mut asked = || loop {
            if let ReplyEvent::Request(ticket) = reply.receive(&mut buffer, soon()).unwrap() {
                return ticket;
            }
        };
        let body = vec![5; 50_000];
        let mut answered = 0u64;
        let pending = loop {
            deaf.write(&frame(b"\x01\x80\0\0\x07"));
            let ticket = asked();
            match reply.send(&ticket, &body, Some(Instant::now())) {
                Ok(()) => answered += 1,
                Err(TransportError::Timeout) => break ticket,
                Err(error) => panic!("{error}"),
            }
            assert!(answered < 1000, "it takes any number of answers");
        };
        let other = zeromq().request(&at, &Options::default()).unwrap();
        let connection = other.connect(soon()).unwrap();
        other.send(connection, b"other", soon()).unwrap();
        reply.send(&asked(), b"answer", soon()).unwrap();
        let mut got = Vec::new();
        other.receive(&mut got, soon()).unwrap();
        assert_eq!(got, b"answer");
        // It reports everything as taken: there is room again.
        let taken = [&[2][..], &answered.to_be_bytes(), &(answered * 50_004).to_be_bytes()].concat();
        deaf.write(&frame(&taken));
        reply.send(&pending, b"late", soon()).unwrap();
    });
}
