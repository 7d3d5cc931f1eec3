//! Tests of the wire format, and of the peers that are disconnected.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use ekuiper_core::transport::*;
use support::*;

#[test]
fn words_are_the_documented_bytes() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("p");
        let pull = pull(&at);
        let mut peer = RawPeer::pushing(&at);
        peer.write(&[frame(b"\x01abc"), frame(b"\x01")].concat());
        assert_eq!(message(&*pull), b"abc");
        assert_eq!(message(&*pull), b"");
        // Reported when everything is taken, and possibly before.
        let taken =
            |messages: u64, bytes: u64| frame(&[&[2][..], &messages.to_be_bytes(), &bytes.to_be_bytes()].concat());
        let mut said = vec![0; taken(0, 0).len()];
        while said != taken(2, 3) {
            std::io::Read::read_exact(&mut peer.0, &mut said).unwrap();
        }
        peer.write(&frame(b"\x03"));
        peer.expect_end();
        assert!(matches!(next(&*pull), PullEvent::Disconnected(_)));
    });
}

#[test]
fn who_closes_says_goodbye() {
    watched(|| {
        let place = TestFolder::new();
        let pull = pull(&place.at("p"));
        let mut peer = RawPeer::pushing(&place.at("p"));
        std::thread::scope(|scope| {
            scope.spawn(|| pull.close());
            peer.expect(&frame(b"\x03"));
            drop(peer);
        });
    });
}

#[test]
fn whoever_speaks_otherwise_is_disconnected_and_the_others_go_on() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("p");
        let pull = zeromq().pull(&Endpoint::Listen(at.clone()), &options(1 << 20)).unwrap();
        let good = push(&at);
        good.connect(soon()).unwrap();
        assert!(matches!(next(&*pull), PullEvent::Connected(_)));
        let http = b"GET / HTTP/1.1\r\nHost: here\r\nUser-Agent: somebody who speaks HTTP\r\n\r\n";
        let mut old = greeting();
        old[10] = 2;
        let greeted = |rest: Vec<u8>| [&greeting()[..], &rest].concat();
        for bytes in
            [http.to_vec(), old.to_vec(), greeted(ready("PUSH")), greeted(ready("NOTHING")), greeted(frame(b"x"))]
        {
            let mut peer = RawPeer::dial(&at);
            peer.write(&bytes);
            peer.expect_end();
        }
        let hello = |version: u8, role: u8| frame(&[b"\0ekuiper", &[version, role][..]].concat());
        for first in [frame(b""), frame(b"\x01abc"), hello(2, b'>'), hello(1, b'<'), hello(1, b'?'), vec![1, 0, 0, 0]] {
            let mut peer = RawPeer::dealer(&at);
            peer.write(&first);
            peer.expect_end();
        }
        // None of them was reported.
        good.send(b"good", soon()).unwrap();
        assert!(matches!(next(&*pull), PullEvent::Message(_)));
        let too_long = frame(&[&[1][..], &vec![0; (1 << 20) + 1]].concat());
        let lie = frame(&[2; 17]);
        for word in
            [frame(b""), frame(b"\x07"), frame(b"\x02\0"), hello(1, b'>'), vec![1, 1, 1, 0, 1, 1], too_long, lie]
        {
            let mut peer = RawPeer::pushing(&at);
            peer.write(&frame(b"\x01before"));
            // The peer may be disconnected in the middle.
            let _ = peer.0.write_all(&word);
            peer.expect_end();
            let PullEvent::Connected(id) = next(&*pull) else { panic!("nobody came") };
            assert_eq!(next(&*pull), PullEvent::Message(id));
            assert_eq!(next(&*pull), PullEvent::Disconnected(id));
        }
        good.send(b"good", soon()).unwrap();
        assert!(matches!(next(&*pull), PullEvent::Message(_)));
    });
}

#[test]
fn whoever_ignores_the_window_is_disconnected() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("p");
        let pull = pull(&at);
        let mut peer = RawPeer::pushing(&at);
        for number in 0..513u32 {
            peer.write(&frame(&[&[1][..], &number.to_be_bytes()].concat()));
        }
        peer.expect_end();
        let PullEvent::Connected(id) = next(&*pull) else { panic!("nobody came") };
        for _ in 0..512 {
            assert_eq!(next(&*pull), PullEvent::Message(id));
        }
        assert_eq!(next(&*pull), PullEvent::Disconnected(id));
    });
}

/// Silent peers stay connected, do not affect others, and free their
/// descriptors when they disconnect.
#[test]
fn silent_visitors_stay_until_they_go() {
    // Other tests open descriptors meanwhile.
    alone("silent_visitors_stay_until_they_go", || {
        let place = TestFolder::new();
        let at = place.at("p");
        let pull = pull(&at);
        let peers = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = peers();
        let visitors: Vec<_> = (0..100).map(|_| RawPeer::dial(&at)).collect();
        let good = push(&at);
        good.send(b"good", soon()).unwrap();
        assert_eq!(message(&*pull), b"good");
        drop(visitors);
        let give_up = soon().unwrap();
        // The good peer has a descriptor at both ends, and three of its own: two
        // events and its folder.
        while peers() > before + 5 {
            assert!(std::time::Instant::now() < give_up, "{} instead of {before}", peers());
            std::thread::yield_now();
        }
    });
}

const ALONE: &str = "EKUIPER_ZEROMQ_ALONE";

/// Runs this test's `case` in a process without other tests.
fn alone(test: &str, case: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return watched(case);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "yes")
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(child.status.success(), "{}\n{}{}", child.status, said(&child.stdout), said(&child.stderr));
    assert!(said(&child.stdout).contains("1 passed"), "{}", said(&child.stdout));
}

const VICTIM: &str = "EKUIPER_ZEROMQ_VICTIM";

/// The reason why this transport requires private folders.
#[test]
fn a_frame_of_2_to_the_50_bytes_ends_the_process() {
    if let Some(path) = std::env::var_os(VICTIM) {
        let _pull = pull(&ekuiper_core::address::Address::new(path).unwrap());
        // Until the parent has ended.
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new());
        return;
    }
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("p");
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_frame_of_2_to_the_50_bytes_ends_the_process", "--nocapture"])
            .env(VICTIM, at.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !at.path().exists() {
            assert!(victim.try_wait().unwrap().is_none());
            std::thread::yield_now();
        }
        let mut peer = RawPeer::pushing(&at);
        peer.write(&claim(1 << 50));
        peer.expect_end();
        // Its standard input stays open until it has ended.
        let stdin = victim.stdin.take();
        assert_eq!(victim.wait().unwrap().signal(), Some(6), "it survives: not an exception any more");
        drop(stdin);
    });
}
