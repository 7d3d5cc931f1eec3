//! Promise 2, every wait ends: `close` ends every wait, from any thread, for
//! good.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ekuiper_core::transport::{ConnectionId, PullEvent, Reply, ReplyEvent, Request, Result, Ticket, TransportError};

use super::{asked, couple, fill, pair};
use crate::{Fixture, assert_error, eventually, pattern, soon};

/// Runs `wait` in another thread and closes after various times, so that the
/// close happens before, at and after the wait's beginning.
fn ends<T>(what: &str, mut make: impl FnMut(u64) -> (Box<dyn FnOnce() -> Result<T> + Send>, Box<dyn Fn()>)) {
    for pause in [0, 1, 5, 30] {
        let (wait, close) = make(pause);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || wait().map(|_| ()));
            thread::sleep(Duration::from_millis(pause));
            close();
            assert!(eventually(|| waiting.is_finished()), "{what} goes on");
            assert_error!(waiting.join().unwrap(), TransportError::Closed, "from {what}, closed after {pause} ms");
        });
    }
}

/// `ends!(name, |address| (socket, peer), |socket| wait)`.
macro_rules! ends {
    ($what:literal, |$at:ident| $make:expr, |$socket:ident| $wait:expr) => {
        ends($what, |pause| {
            let $at = format!("{}{pause}", $what.replace(' ', "_"));
            let ($socket, kept) = $make;
            let own = Arc::clone(&$socket);
            let close = Box::new(move || {
                let _ = &kept;
                own.close();
            });
            (Box::new(move || $wait), close)
        })
    };
}

/// Closing ends the waits of sockets without peers.
pub fn closing_ends_waits_for_peers(f: &Fixture) {
    ends!("push dial connect", |at| (f.push(&f.dial(&at)), ()), |push| push.connect(None));
    ends!("push listen connect", |at| (f.push(&f.listen(&at)), ()), |push| push.connect(None));
    ends!("push send", |at| (f.push(&f.dial(&at)), ()), |push| push.send(b"x", None));
    ends!("pull listen", |at| (f.pull(&f.listen(&at)), ()), |pull| pull.receive(&mut Vec::new(), None));
    ends!("pull dial", |at| (f.pull(&f.dial(&at)), ()), |pull| pull.receive(&mut Vec::new(), None));
    ends!("request connect", |at| (f.request(&at), ()), |request| request.connect(None));
    ends!("reply receive", |at| (f.reply(&at), ()), |reply| reply.receive(&mut Vec::new(), None));
}

/// Closing ends waits for silent peers.
pub fn closing_ends_waits_for_silent_peers(f: &Fixture) {
    ends!("pull", |at| swap(pair(f, &at)), |pull| pull.receive(&mut Vec::new(), None));
    ends!(
        "request receive",
        |at| {
            let (request, connection, reply) = couple(f, &at);
            request.send(connection, b"question", soon()).unwrap();
            (request, reply)
        },
        |request| request.receive(&mut Vec::new(), None)
    );
    ends!(
        "reply",
        |at| {
            let (request, _, reply) = couple(f, &at);
            (reply, request)
        },
        |reply| reply.receive(&mut Vec::new(), None)
    );
}

/// Closing ends waits for peers that do not read: at a message's beginning, in
/// its middle, and behind another sender.
pub fn closing_ends_waits_for_readers(f: &Fixture) {
    let full = |at: &str| {
        let (push, pull) = pair(f, at);
        fill(&*push, &[1; 1000]);
        (push, pull)
    };
    ends!("full", |at| full(&at), |push| push.send(&[1; 1000], None));
    ends!("flush", |at| full(&at), |push| push.flush(None));
    ends!("middle", |at| pair(f, &at), |push| push.send(&vec![1; 16 << 20], None));
    ends!("behind", |at| full(&at), |push| {
        thread::scope(|scope| {
            let others = [(); 3].map(|()| scope.spawn(|| push.send(&[1; 1000], None)));
            let outcome = push.send(&[2; 1000], None);
            for other in others {
                assert_error!(other.join().unwrap(), TransportError::Closed);
            }
            outcome
        })
    });
    ends!(
        "request",
        |at| {
            let (request, connection, reply) = couple(f, &at);
            (Arc::new(Requesting(request, connection)), reply)
        },
        |requesting| requesting.0.send(requesting.1, &vec![1; 16 << 20], None)
    );
    ends!(
        "answer",
        |at| {
            let (request, connection, reply) = couple(f, &at);
            request.send(connection, b"question", soon()).unwrap();
            let ticket = asked(&*reply).0;
            (Arc::new(Answering(reply, ticket)), request)
        },
        |answering| answering.0.send(&answering.1, &vec![1; 16 << 20], None)
    );
}

struct Requesting(Arc<dyn Request>, ConnectionId);

impl Requesting {
    fn close(&self) {
        self.0.close();
    }
}

struct Answering(Arc<dyn Reply>, Ticket);

impl Answering {
    fn close(&self) {
        self.0.close();
    }
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

/// After `close`, every call fails with `Closed`, and closing again has no
/// effect.
pub fn closing_is_for_good(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"question", soon()).unwrap();
    let (ticket, mut buffer) = asked(&*reply);
    push.send(b"never read", soon()).unwrap();
    for _ in 0..2 {
        push.close();
        pull.close();
        request.close();
        reply.close();
        assert_error!(push.connect(soon()), TransportError::Closed);
        assert_error!(push.send(b"x", soon()), TransportError::Closed);
        assert_error!(push.flush(soon()), TransportError::Closed);
        assert_error!(pull.receive(&mut buffer, soon()), TransportError::Closed);
        assert_error!(request.connect(soon()), TransportError::Closed);
        assert_error!(request.send(connection, b"x", soon()), TransportError::Closed);
        assert_error!(request.receive(&mut buffer, soon()), TransportError::Closed);
        assert_error!(reply.receive(&mut buffer, soon()), TransportError::Closed);
        assert_error!(reply.send(&ticket, b"x", soon()), TransportError::Closed);
    }
}

/// A socket whose peer's process has ended finishes: its waits end, with a
/// silent peer as well as with none.
pub fn finishing_ends_waits(f: &Fixture) {
    for pause in [0, 5, 30] {
        let at = |name: &str| format!("{name}{pause}");
        let (silent_push, pull) = pair(f, &at("pull"));
        let (silent_request, _, reply) = couple(f, &at("reply"));
        let (lone_pull, lone_reply) = (f.pull(&f.listen(&at("lone_pull"))), f.reply(&at("lone_reply")));
        thread::scope(|scope| {
            let waits = [&pull, &lone_pull].map(|pull| scope.spawn(|| pull.receive(&mut Vec::new(), None).map(|_| ())));
            let others =
                [&reply, &lone_reply].map(|reply| scope.spawn(|| reply.receive(&mut Vec::new(), None).map(|_| ())));
            thread::sleep(Duration::from_millis(pause));
            [&pull, &lone_pull].into_iter().for_each(|pull| pull.finish());
            [&reply, &lone_reply].into_iter().for_each(|reply| reply.finish());
            for wait in waits.into_iter().chain(others) {
                assert!(eventually(|| wait.is_finished()), "a wait goes on");
                assert_error!(wait.join().unwrap(), TransportError::Closed);
            }
        });
        assert_error!(pull.receive(&mut Vec::new(), soon()), TransportError::Closed, "for good");
        drop((silent_push, silent_request));
    }
}

/// A socket that stops listening frees its address at once, and its peers are
/// not affected.
pub fn stopping_to_listen_frees_the_address(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    push.send(b"before", soon()).unwrap();
    pull.stop_listening();
    let next = f.pull(&f.listen("data"));
    push.send(b"after", soon()).unwrap();
    let mut buffer = Vec::new();
    for expected in [&b"before"[..], b"after"] {
        while !matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)) {}
        assert_eq!(buffer, expected);
    }
    // Closing it leaves the other socket's file alone.
    pull.close();
    let other = f.push(&f.dial("data"));
    other.send(b"next", soon()).unwrap();
    while !matches!(next.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)) {}
    assert_eq!(buffer, b"next");
}

/// Data that arrived before `finish` is still received.
pub fn finishing_loses_nothing(f: &Fixture) {
    const MESSAGES: usize = 50;
    let (push, pull) = pair(f, "data");
    for number in 0..MESSAGES {
        push.send(&pattern(100, number), soon()).unwrap();
    }
    let (request, connection, reply) = couple(f, "reply");
    request.send(connection, b"question", soon()).unwrap();
    // The waiting thread has not received anything yet.
    let (mut buffer, mut received) = (Vec::new(), 0);
    push.flush(Some(std::time::Instant::now() + Duration::from_millis(20))).ok();
    pull.finish();
    reply.finish();
    loop {
        match pull.receive(&mut buffer, soon()) {
            Ok(PullEvent::Message(_)) => {
                assert!(buffer == pattern(100, received), "message {received}");
                received += 1;
            }
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, TransportError::Closed), "{error}");
                break;
            }
        }
    }
    assert_eq!(received, MESSAGES);
    let (ticket, question) = asked(&*reply);
    assert_eq!(question, b"question");
    // The connection is still alive.
    reply.send(&ticket, b"answer", soon()).unwrap();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"answer");
    assert_error!(reply.receive(&mut buffer, soon()), TransportError::Closed);
}

/// Peers see that a socket was closed, and that one was dropped.
pub fn closing_is_seen_by_peers(f: &Fixture) {
    let mut buffer = Vec::new();
    for drop_it in [false, true] {
        let at = |name: &str| format!("{name}{drop_it}");
        let (push, pull) = pair(f, &at("push"));
        if !drop_it {
            push.close();
        }
        let kept = (!drop_it).then_some(push);
        assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(_)));
        drop(kept);

        let (request, connection, reply) = couple(f, &at("reply"));
        request.send(connection, b"question", soon()).unwrap();
        asked(&*reply);
        if !drop_it {
            reply.close();
        }
        let kept = (!drop_it).then_some(reply);
        assert_error!(request.receive(&mut buffer, soon()), TransportError::Disconnected);
        drop(kept);

        let (request, _, reply) = couple(f, &at("request"));
        if !drop_it {
            request.close();
        }
        let kept = (!drop_it).then_some(request);
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(_)));
        drop(kept);
    }
}

/// Closing while other threads connect, send and receive causes neither a hang
/// nor a panic, and every peer sees the end.
pub fn closing_amid_traffic(f: &Fixture) {
    for round in 0..20 {
        let name = format!("data{round}");
        let pull = f.pull(&f.listen(&name));
        let pushes: Vec<_> = (0..3).map(|_| f.push(&f.dial(&name))).collect();
        let body = pattern(1 << (round % 18), round);
        thread::scope(|scope| {
            for push in &pushes {
                let body = &body;
                scope.spawn(move || while push.send(body, None).is_ok() {});
            }
            let receiver = scope.spawn(|| {
                let mut buffer = Vec::new();
                loop {
                    match pull.receive(&mut buffer, None) {
                        Ok(PullEvent::Message(_)) => assert!(buffer == body),
                        Ok(_) => {}
                        Err(error) => return error,
                    }
                }
            });
            thread::sleep(Duration::from_millis(round as u64));
            pull.close();
            assert!(matches!(receiver.join().unwrap(), TransportError::Closed));
            pushes.iter().for_each(|push| push.close());
        });
    }
}
