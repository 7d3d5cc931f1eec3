//! Promise 7, reconnect: a dialler finds a listener that returns: case 30.

use std::thread;
use std::time::{Duration, Instant};

use ekuiper_core::transport::{Deadline, PullEvent, ReplyEvent, TransportError};

use super::{asked, introduce, join};
use crate::pump::{PullPump, ReplyPump};
use crate::support::message;
use crate::{Fixture, assert_error, eventually, soon};

/// Maximum time from the listener's return until every dialler has reconnected.
const RETURN: Duration = Duration::from_secs(1);

/// Duration of the listener's absence: long enough to detect pauses that grow
/// without bound.
const ABSENCE: Duration = Duration::from_millis(2200);

/// Case 30: diallers find a listener that is closed and created again.
pub fn case_30_a_listener_that_restarts(f: &Fixture) {
    let push = f.push(&f.dial("pull"));
    let request = f.request("reply");
    let mut buffer = Vec::new();
    for round in 0..5u8 {
        let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
        join(&*push, &*pull);
        push.send(&[round], soon()).unwrap();
        assert_eq!(message(&*pull), [round]);
        let connection = introduce(&*request, &*reply);
        request.send(connection, &[round], soon()).unwrap();
        assert_eq!(asked(&*reply).1, [round]);
        drop((pull, reply));
        assert_error!(request.receive(&mut buffer, soon()), TransportError::Disconnected);
        // A push detects the end when it next sends.
        assert!(eventually(|| push.send(b"lost", crate::past()).is_err()));
    }
}

/// Case 30: a listening process is killed, and another one replaces it: all
/// diallers have reconnected within a second.
pub fn case_30_a_listener_that_is_killed(f: &Fixture) {
    if f.role().is_some() {
        let (_pull, _reply) = (PullPump::of(f.pull(&f.listen("pull"))), ReplyPump::of(f.reply("reply")));
        return f.until_parent_is_gone();
    }
    let mut child = f.spawn("listener");
    let pushes: Vec<_> = (0..4).map(|_| f.push(&f.dial("pull"))).collect();
    let requests: Vec<_> = (0..4).map(|_| f.request("reply")).collect();
    let all_connect = |deadline: fn() -> Deadline| {
        thread::scope(|scope| {
            for push in &pushes {
                scope.spawn(
                    move || while matches!(push.send(b"here", deadline()), Err(TransportError::Disconnected)) {},
                );
            }
            for request in &requests {
                scope.spawn(move || request.connect(deadline()));
            }
        });
    };
    let mut times = Vec::new();
    for round in 0..4 {
        if round > 0 {
            child.kill();
            // A dialler that has failed for a while reconnects just as fast.
            all_connect(|| Some(Instant::now() + ABSENCE));
            child = f.spawn("listener");
        }
        let listening = [f.at("pull"), f.at("reply")];
        assert!(eventually(|| listening.iter().all(crate::raw::is_listening)));
        let since = Instant::now();
        all_connect(soon);
        times.push(since.elapsed());
    }
    // A busy machine may be late once.
    assert!(times.iter().filter(|time| **time <= RETURN).count() >= 3, "{times:?}");
}

/// Case 30: the end of a killed dialler is reported, and then its successor.
pub fn case_30_a_dialler_that_is_killed(f: &Fixture) {
    if f.role().is_some() {
        let (push, request) = (f.push(&f.dial("pull")), f.request("reply"));
        push.send(b"message", soon()).unwrap();
        let connection = request.connect(soon()).unwrap();
        request.send(connection, b"question", soon()).unwrap();
        return f.until_parent_is_gone();
    }
    let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
    let mut buffer = Vec::new();
    for _ in 0..3 {
        let child = f.spawn("dialler");
        assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
        assert_eq!(message(&*pull), b"message");
        let (ticket, body) = asked(&*reply);
        assert_eq!(body, b"question");
        child.kill();
        assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(_)));
        assert_eq!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(ticket.connection));
        assert_error!(reply.send(&ticket, b"answer", soon()), TransportError::Disconnected);
    }
}

/// A dialler that is first is served as well as one whose listener is first.
pub fn reconnect_finds_late_listeners(f: &Fixture) {
    let (push, pull, request) = (f.push(&f.dial("one")), f.pull(&f.dial("two")), f.request("three"));
    assert_error!(push.connect(crate::shortly()), TransportError::Timeout);
    assert_error!(pull.receive(&mut Vec::new(), crate::shortly()), TransportError::Timeout);
    assert_error!(request.connect(crate::shortly()), TransportError::Timeout);
    join(&*push, &*f.pull(&f.listen("one")));
    join(&*f.push(&f.listen("two")), &*pull);
    introduce(&*request, &*f.reply("three"));
}

/// A dialler of a socket that no thread uses yet is connected, and can send: an
/// official plugin waits for that before it answers a `start`.
pub fn reconnect_needs_no_receiver(f: &Fixture) {
    let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
    let (push, request) = (f.push(&f.dial("pull")), f.request("reply"));
    push.connect(soon()).unwrap();
    push.send(b"first", soon()).unwrap();
    let connection = request.connect(soon()).unwrap();
    request.send(connection, b"question", soon()).unwrap();
    assert_eq!(message(&*pull), b"first");
    assert_eq!(asked(&*reply).1, b"question");
    let _idle = f.push(&f.listen("push"));
    let pull = f.pull(&f.dial("push"));
    assert!(matches!(pull.receive(&mut Vec::new(), soon()).unwrap(), PullEvent::Connected(_)));
}

/// A request belongs to the connection that it was sent on: the listener's
/// successor never receives it, even if it was never answered (fault 4).
pub fn reconnect_repeats_no_request(f: &Fixture) {
    let request = f.request("reply");
    let mut buffer = Vec::new();
    let mut former = None;
    for round in 0..5u8 {
        let reply = f.reply("reply");
        let connection = introduce(&*request, &*reply);
        assert_ne!(former, Some(connection));
        if let Some(former) = former {
            assert_error!(request.send(former, b"for the former", soon()), TransportError::Disconnected);
        }
        request.send(connection, &[round], soon()).unwrap();
        assert_eq!(asked(&*reply).1, [round]);
        drop(reply);
        assert_error!(request.receive(&mut buffer, soon()), TransportError::Disconnected);
        former = Some(connection);
    }
}
