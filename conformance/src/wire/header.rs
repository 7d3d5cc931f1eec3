//! The eight header bytes of each side: cases 1 to 4, 7 and 8.

use std::thread;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;

use crate::pump::{PullPump, ReplyPump};
use crate::raw::{PULL, PUSH, REP, REQ, RawListener, RawPeer, frame};
use crate::{Fixture, soon};

/// Maximum time for a peer's header, and how late a busy machine may detect its
/// end.
const HEADER_TIME: Duration = Duration::from_secs(10);
const LATE: Duration = Duration::from_secs(6);

/// Case 1: a listener sends its header unprompted, even while no thread uses
/// the socket.
pub fn case_01_header_of_each_listener(f: &Fixture) {
    let _sockets = (f.pull(&f.listen("pull")), f.reply("reply"), f.push(&f.listen("push")));
    RawPeer::dial(&f.at("pull")).expect(&PULL);
    RawPeer::dial(&f.at("reply")).expect(&REP);
    RawPeer::dial(&f.at("push")).expect(&PUSH);
}

/// Case 1: a dialler sends its header unprompted.
pub fn case_01_header_of_each_dialler(f: &Fixture) {
    let pull_at = RawListener::bind(&f.at("pull"));
    let push_at = RawListener::bind(&f.at("push"));
    let request_at = RawListener::bind(&f.at("request"));
    let _pull = PullPump::of(f.pull(&f.dial("pull")));
    let push = f.push(&f.dial("push"));
    let request = f.request("request");
    thread::scope(|scope| {
        scope.spawn(|| push.connect(soon()));
        scope.spawn(|| request.connect(soon()));
        pull_at.accept().expect(&PULL);
        push_at.accept().expect(&PUSH);
        request_at.accept().expect(&REQ);
        push.close();
        request.close();
    });
}

/// Invalid headers.
const BAD: [(&str, &[u8]); 6] = [
    ("magic", b"\x00SQ\x00\x00\x50\x00\x00"),
    ("first byte", b"\x01SP\x00\x00\x50\x00\x00"),
    ("version", b"\x00SP\x01\x00\x50\x00\x00"),
    ("reserved", b"\x00SP\x00\x00\x50\x00\x01"),
    ("unknown protocol", b"\x00SP\x00\x12\x34\x00\x00"),
    ("nothing but zeros", &[0; 8]),
];

/// Asserts that `wrong` peers are disconnected, and that a later valid PUSH
/// peer is served.
fn refused_by_pull(f: &Fixture, wrong: &[(&str, &[u8])]) {
    let pull = PullPump::of(f.pull(&f.listen("pull")));
    refuse(&f.at("pull"), wrong);
    let mut good = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    good.write(&frame(b"good"));
    // No other peer counts as a connection.
    pull.connected();
    assert_eq!(pull.message(), b"good");
}

/// Asserts that `wrong` peers are disconnected, and that a later valid REQ peer
/// is served.
fn refused_by_reply(f: &Fixture, wrong: &[(&str, &[u8])]) {
    let reply = ReplyPump::of(f.reply("reply"));
    refuse(&f.at("reply"), wrong);
    let mut good = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    good.write(&frame(b"\x80\0\0\x01good"));
    reply.connected();
    assert_eq!(reply.request().1, b"good");
}

fn refuse(address: &Address, wrong: &[(&str, &[u8])]) {
    for (what, bytes) in wrong {
        let mut peer = RawPeer::dial(address);
        // The peer may be disconnected before the last byte.
        peer.try_write(bytes);
        assert!(peer.is_closed_within(crate::PATIENCE), "still connected after: {what}");
    }
}

/// Case 2: invalid magic, version or reserved bytes end the connection; the
/// listener lives.
pub fn case_02_bad_headers_are_refused(f: &Fixture) {
    refused_by_pull(f, &BAD);
    refused_by_reply(f, &BAD);
}

/// Case 2: a dialler disconnects from such a listener and retries.
pub fn case_02_a_dialler_hangs_up_and_tries_again(f: &Fixture) {
    let (push, request) = (f.push(&f.dial("push")), f.request("request"));
    let push_at = RawListener::bind(&f.at("push"));
    let request_at = RawListener::bind(&f.at("request"));
    thread::scope(|scope| {
        scope.spawn(|| push.send(b"good", soon()).unwrap());
        let connecting = scope.spawn(|| request.connect(soon()).unwrap());
        for (_, bytes) in BAD {
            for listener in [&push_at, &request_at] {
                let mut peer = listener.accept();
                peer.try_write(bytes);
                peer.expect_closed();
            }
        }
        let _good = request_at.accept_as(REP, REQ);
        connecting.join().unwrap();
        assert_eq!(push_at.accept_as(PULL, PUSH).frame(), b"good");
    });
}

/// Case 3: the wrong end of a pattern, or another pattern, is disconnected.
pub fn case_03_wrong_roles_are_refused(f: &Fixture) {
    refused_by_pull(f, &[("REQ", &REQ), ("REP", &REP), ("PULL", &PULL)]);
    refused_by_reply(f, &[("REP", &REP), ("PUSH", &PUSH), ("PULL", &PULL)]);
    let push = f.push(&f.listen("push"));
    thread::scope(|scope| {
        scope.spawn(|| push.connect(soon()));
        refuse(&f.at("push"), &[("REQ", &REQ), ("REP", &REP), ("PUSH", &PUSH)]);
        push.close();
    });
}

/// Case 4: a web browser is disconnected, even while no thread uses the socket.
pub fn case_04_http_is_refused(f: &Fixture) {
    let http: [(&str, &[u8]); 1] = [("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")];
    refused_by_pull(f, &http);
    refused_by_reply(f, &http);
    let _idle = (f.pull(&f.listen("idle pull")), f.reply("idle reply"), f.push(&f.listen("idle push")));
    for name in ["idle pull", "idle reply", "idle push"] {
        refuse(&f.at(name), &http);
    }
}

/// Case 7: a peer without a header is disconnected after 10 s, and other peers
/// are not affected.
pub fn case_07_no_header(f: &Fixture) {
    let pull = PullPump::of(f.pull(&f.listen("pull")));
    let _reply = ReplyPump::of(f.reply("reply"));
    let since = Instant::now();
    let mut silent = [RawPeer::dial(&f.at("pull")), RawPeer::dial(&f.at("reply"))];
    let mut good = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    good.write(&frame(b"good"));
    assert_eq!(pull.message(), b"good");
    for peer in &mut silent {
        assert!(!peer.is_closed_within((HEADER_TIME - Duration::from_secs(1)).saturating_sub(since.elapsed())));
    }
    for peer in &mut silent {
        assert!(peer.is_closed_within((HEADER_TIME + LATE).saturating_sub(since.elapsed())), "still waited for");
    }
    good.write(&frame(b"still good"));
    assert_eq!(pull.message(), b"still good");
}

/// Case 7: a listener without a header is disconnected too, and redialled.
pub fn case_07_no_header_from_a_listener(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    thread::scope(|scope| {
        let connecting = scope.spawn(|| request.connect(soon()).unwrap());
        let mut silent = at.accept();
        assert!(!silent.is_closed_within(HEADER_TIME - Duration::from_secs(1)));
        silent.expect_closed();
        let _good = at.accept_as(REP, REQ);
        connecting.join().unwrap();
    });
}

/// Case 8: the limit of 10 s is for the whole header.
pub fn case_08_a_dripping_header(f: &Fixture) {
    let _pull = PullPump::of(f.pull(&f.listen("pull")));
    let mut peer = RawPeer::dial(&f.at("pull"));
    let since = Instant::now();
    // The pace of the bytes is the case; it ends early if the machine is late.
    for byte in &PUSH[..3] {
        if !peer.try_write(&[*byte]) || peer.is_closed_within(Duration::from_secs(4)) {
            assert!(since.elapsed() >= HEADER_TIME - Duration::from_secs(1), "too early");
            return;
        }
    }
    // With 10 s for each byte it would take 18 s.
    assert!(peer.is_closed_within((HEADER_TIME + LATE).saturating_sub(since.elapsed())), "each byte has its own time");
}

/// Case 7 holds while no thread uses the socket.
pub fn case_07_no_header_while_nobody_receives(f: &Fixture) {
    let _idle = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
    let mut silent = ["pull", "push", "reply"].map(|name| RawPeer::dial(&f.at(name)));
    silent.iter_mut().for_each(RawPeer::expect_closed);
}
