//! Tests of connections that begin and end, waits that end, and limits.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use ekuiper_core::transport::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::*;

/// Makes it likely that the other threads are blocked by then; the outcome must
/// be the same if they are not.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn deadlines_end_every_wait() {
    watched(|| {
        let place = TestFolder::new();
        let pull = nng().pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
        let push = nng().push(&Endpoint::Dial(place.at("nobody")), &Options::default()).unwrap();
        let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
        let requester = nng().request(&place.at("no host"), &Options::default()).unwrap();
        let mut buffer = Vec::new();
        for wait in [Duration::ZERO, Duration::from_millis(50)] {
            let start = Instant::now();
            let by = Some(start + wait);
            assert!(matches!(pull.receive(&mut buffer, by), Err(TransportError::Timeout)));
            assert!(matches!(reply.receive(&mut buffer, by), Err(TransportError::Timeout)));
            assert!(matches!(push.connect(by), Err(TransportError::Timeout)));
            assert!(matches!(push.send(b"x", by), Err(TransportError::Timeout)));
            assert!(matches!(requester.connect(by), Err(TransportError::Timeout)));
            assert!(start.elapsed() >= wait);
        }
        // Nothing has been sent, so there is nothing to wait for.
        push.flush(soon()).unwrap();
        assert!(matches!(requester.receive(&mut buffer, soon()), Err(TransportError::Misuse(_))));
    });
}

#[test]
fn closing_ends_every_wait_from_another_thread() {
    watched(|| {
        let place = TestFolder::new();
        let pull = nng().pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
        let push = nng().push(&Endpoint::Dial(place.at("nobody")), &Options::default()).unwrap();
        let blocked = nng().push(&Endpoint::Dial(place.at("p")), &Options::default()).unwrap();
        let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
        let requester = nng().request(&place.at("r"), &Options::default()).unwrap();
        let lonely = nng().request(&place.at("nobody"), &Options::default()).unwrap();
        let peer = requester.connect(soon()).unwrap();
        requester.send(peer, b"never answered", soon()).unwrap();
        blocked.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        while pull.receive(&mut buffer, past()).is_err() {}
        let (told, ended) = std::sync::mpsc::channel();
        let closed = |result: Result<()>| assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
        thread::scope(|scope| {
            let reply = &*reply;
            scope.spawn(move || {
                let mut buffer = Vec::new();
                request(reply, &mut buffer);
                // The requester's end is reported before the socket's own.
                let end = reply.receive(&mut buffer, None);
                assert!(matches!(end, Ok(ReplyEvent::Disconnected(_))), "{end:?}");
                told.send(()).unwrap();
                closed(reply.receive(&mut buffer, None).map(|_| ()));
            });
            scope.spawn(|| closed(pull.receive(&mut Vec::new(), None).map(|_| ())));
            scope.spawn(|| closed(push.connect(None)));
            scope.spawn(|| closed(push.send(b"x", None)));
            scope.spawn(|| closed(requester.receive(&mut Vec::new(), None)));
            scope.spawn(|| closed(lonely.connect(None).map(|_| ())));
            thread::sleep(A_WHILE);
            push.close();
            pull.close();
            requester.close();
            lonely.close();
            ended.recv_timeout(PATIENCE).unwrap();
            reply.close();
        });
        // Closing again, and every call after closing.
        reply.close();
        closed(reply.receive(&mut buffer, past()).map(|_| ()));
        closed(pull.receive(&mut buffer, None).map(|_| ()));
        closed(push.send(b"x", None));
        closed(push.flush(None));
        closed(requester.connect(None).map(|_| ()));
        closed(requester.receive(&mut buffer, None));
        assert_eq!(place.names(), Vec::<String>::new());
    });
}

#[test]
fn closing_ends_a_send_that_is_held_back() {
    watched(|| {
        let place = TestFolder::new();
        let _pull = nng().pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
        let push = nng().push(&Endpoint::Dial(place.at("p")), &Options::default()).unwrap();
        let large = vec![1; 1 << 20];
        push.send(&large, soon()).unwrap();
        // The reader takes the first message ahead; these fill the remaining
        // space.
        while push.send(&large, Some(Instant::now() + A_WHILE)).is_ok() {}
        assert!(matches!(push.flush(past()), Err(TransportError::Timeout)));
        thread::scope(|scope| {
            scope.spawn(|| assert!(matches!(push.send(&large, None), Err(TransportError::Closed))));
            scope.spawn(|| assert!(matches!(push.flush(None), Err(TransportError::Closed))));
            thread::sleep(A_WHILE);
            push.close();
        });
    });
}

#[test]
fn all_reconnect_when_the_listener_returns() {
    watched(|| {
        for (dialling, listening) in pairs() {
            let place = TestFolder::new();
            let options = Options::default();
            let listen = || {
                let pull = listening.pull(&Endpoint::Listen(place.at("p")), &options).unwrap();
                (pull, listening.reply(&place.at("r"), &options).unwrap())
            };
            let push = dialling.push(&Endpoint::Dial(place.at("p")), &options).unwrap();
            let requester = dialling.request(&place.at("r"), &options).unwrap();
            let mut former = None;
            for round in 0..3u8 {
                let (pull, reply) = listen();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let mut buffer = Vec::new();
                        let ticket = request(&*reply, &mut buffer);
                        reply.send(&ticket, &buffer, soon()).unwrap();
                        // Serves until the requester has received the answer.
                        let _ = reply.receive(&mut buffer, None);
                    });
                    let mut buffer = Vec::new();
                    let peer = requester.connect(soon()).unwrap();
                    assert_ne!(former.replace(peer), Some(peer));
                    requester.send(peer, &[round], soon()).unwrap();
                    requester.receive(&mut buffer, soon()).unwrap();
                    assert_eq!(buffer, [round]);
                    reply.close();
                });
                // A message that was accepted just when the peer disconnected
                // may be lost: send until one arrives.
                let body = message_sent_until_received(&*push, &*pull, round);
                assert_eq!(body, [round]);
                // A request in flight when its peer disconnects is not sent to
                // the next one.
                let peer = requester.connect(past());
                drop((pull, reply));
                if let Ok(peer) = peer
                    && requester.send(peer, b"lost", soon()).is_ok()
                {
                    let lost = requester.receive(&mut Vec::new(), soon());
                    assert!(matches!(lost, Err(TransportError::Disconnected)), "{lost:?}");
                }
            }
        }
    });
}

fn message_sent_until_received(push: &dyn Push, pull: &dyn Pull, round: u8) -> Vec<u8> {
    let mut buffer = Vec::new();
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        match push.send(&[round], past()) {
            Ok(()) | Err(TransportError::Timeout) => {}
            Err(error) => panic!("{error}"),
        }
        match pull.receive(&mut buffer, Some(Instant::now() + Duration::from_millis(10))) {
            Ok(PullEvent::Message(_)) if buffer == [round] => return buffer,
            Ok(_) | Err(TransportError::Timeout) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing arrives");
}

#[test]
fn a_request_never_reaches_its_peers_successor() {
    watched(|| {
        let place = TestFolder::new();
        let requester = nng().request(&place.at("r"), &Options::default()).unwrap();
        let mut buffer = Vec::new();
        for _ in 0..20 {
            let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
            let first = requester.connect(soon()).unwrap();
            drop(reply);
            let successor = nng().reply(&place.at("r"), &Options::default()).unwrap();
            // The end may be detected at once or later, but never by sending to
            // another peer.
            let outcome = requester.send(first, b"for the first", soon()).and_then(|()| {
                assert!(matches!(successor.receive(&mut buffer, past()), Err(_) | Ok(ReplyEvent::Connected(_))));
                requester.receive(&mut buffer, soon())
            });
            assert!(matches!(outcome, Err(TransportError::Disconnected)), "{outcome:?}");
            let second = requester.connect(soon()).unwrap();
            assert!(matches!(requester.send(first, b"still", soon()), Err(TransportError::Disconnected)));
            requester.send(second, b"for the second", soon()).unwrap();
            request(&*successor, &mut buffer);
            assert_eq!(buffer, b"for the second");
        }
    });
}

#[test]
fn with_retry_a_request_is_sent_again_under_its_id() {
    watched(|| {
        let place = TestFolder::new();
        let mut options = Options::default();
        options.retry = Some(Duration::from_millis(100));
        let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
        let requester = nng().request(&place.at("r"), &options).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let peer = requester.connect(soon()).unwrap();
                requester.send(peer, b"again", soon()).unwrap();
                let mut buffer = Vec::new();
                requester.receive(&mut buffer, soon()).unwrap();
                assert_eq!(buffer, b"yes");
            });
            let mut buffer = Vec::new();
            let first = request(&*reply, &mut buffer);
            let second = request(&*reply, &mut buffer);
            assert_eq!((buffer.as_slice(), second.request), (&b"again"[..], first.request));
            drop(reply);
            let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
            let third = request(&*reply, &mut buffer);
            assert_eq!((buffer.as_slice(), third.request), (&b"again"[..], first.request));
            reply.send(&third, b"yes", soon()).unwrap();
            // Serves until the requester has received the answer.
            let _ = reply.receive(&mut buffer, Some(Instant::now() + A_WHILE));
        });
    });
}

#[test]
fn events_are_told_in_order_and_once() {
    watched(|| {
        for (sender, receiver) in pairs() {
            let place = TestFolder::new();
            let pull = receiver.pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
            thread::scope(|scope| {
                for own in 0..4u8 {
                    let endpoint = Endpoint::Dial(place.at("p"));
                    scope.spawn(move || {
                        for _ in 0..25 {
                            let push = sender.push(&endpoint, &Options::default()).unwrap();
                            for number in 0..10 {
                                push.send(&[own, number], soon()).unwrap();
                            }
                            push.flush(soon()).unwrap();
                        }
                    });
                }
                let mut buffer = Vec::new();
                let mut live = std::collections::HashMap::new();
                let mut past = std::collections::HashSet::new();
                let mut complete = 0;
                while complete < 100 {
                    match pull.receive(&mut buffer, soon()).unwrap() {
                        PullEvent::Connected(id) => {
                            assert!(!past.contains(&id));
                            assert_eq!(live.insert(id, 0), None);
                        }
                        PullEvent::Message(id) => {
                            let count = live.get_mut(&id).expect("a message outside its connection");
                            assert_eq!(buffer[1], *count);
                            *count += 1;
                        }
                        PullEvent::Disconnected(id) => {
                            let count = live.remove(&id).expect("an end without a beginning");
                            assert_eq!(count, 10, "messages lost");
                            past.insert(id);
                            complete += 1;
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn a_request_and_its_peers_end_are_told_in_order() {
    watched(|| {
        for (asker, answerer) in pairs() {
            let place = TestFolder::new();
            let reply = answerer.reply(&place.at("r"), &Options::default()).unwrap();
            for round in 0..50u8 {
                let requester = asker.request(&place.at("r"), &Options::default()).unwrap();
                let mut buffer = Vec::new();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let peer = requester.connect(soon()).unwrap();
                        requester.send(peer, &[round], soon()).unwrap();
                        requester.close();
                    });
                    let ReplyEvent::Connected(peer) = reply.receive(&mut buffer, soon()).unwrap() else { panic!() };
                    let ReplyEvent::Request(ticket) = reply.receive(&mut buffer, soon()).unwrap() else {
                        panic!("request {round} is lost")
                    };
                    assert_eq!((ticket.connection, buffer[0]), (peer, round));
                    assert_eq!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(peer));
                    let late = reply.send(&ticket, b"late", soon());
                    assert!(matches!(late, Err(TransportError::Disconnected)), "{late:?}");
                });
            }
        }
    });
}

#[test]
fn tickets_are_good_once() {
    watched(|| {
        let place = TestFolder::new();
        let reply = nng().reply(&place.at("r"), &options(100)).unwrap();
        let requester = nng().request(&place.at("r"), &Options::default()).unwrap();
        let peer = requester.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        requester.send(peer, b"one", soon()).unwrap();
        let one = request(&*reply, &mut buffer);
        requester.send(peer, b"two", soon()).unwrap();
        let two = request(&*reply, &mut buffer);
        assert!(two.serial > one.serial);
        assert!(matches!(reply.send(&one, b"1", soon()), Err(TransportError::Misuse(_))));
        let long = reply.send(&two, &[0; 101], soon());
        assert!(matches!(long, Err(TransportError::TooLong { length: 101, max: 100 })));
        reply.send(&two, b"2", soon()).unwrap();
        assert!(matches!(reply.send(&two, b"2", soon()), Err(TransportError::Misuse(_))));
        requester.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, b"2");
        assert!(matches!(requester.receive(&mut buffer, soon()), Err(TransportError::Misuse(_))));
    });
}

#[test]
fn a_reply_that_comes_too_late_is_dropped() {
    watched(|| {
        let place = TestFolder::new();
        let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
        let requester = nng().request(&place.at("r"), &Options::default()).unwrap();
        let peer = requester.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        requester.send(peer, b"one", soon()).unwrap();
        let one = request(&*reply, &mut buffer);
        assert!(matches!(requester.receive(&mut buffer, past()), Err(TransportError::Timeout)));
        reply.send(&one, b"late", soon()).unwrap();
        requester.send(peer, b"two", soon()).unwrap();
        let two = request(&*reply, &mut buffer);
        reply.send(&two, b"in time", soon()).unwrap();
        requester.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, b"in time");
    });
}

#[test]
fn the_limit_holds_for_both_sides() {
    watched(|| {
        let place = TestFolder::new();
        let large = Options::default();
        let pull = nng().pull(&Endpoint::Listen(place.at("p")), &options(1000)).unwrap();
        let push = nng().push(&Endpoint::Dial(place.at("p")), &large).unwrap();
        let small = nng().push(&Endpoint::Dial(place.at("p")), &options(1000)).unwrap();
        let too_long = small.send(&[0; 1001], soon());
        assert!(matches!(too_long, Err(TransportError::TooLong { length: 1001, max: 1000 })));
        push.send(&[1; 1000], soon()).unwrap();
        assert_eq!(message(&*pull), [1; 1000]);
        push.send(&[2; 1001], soon()).unwrap();
        let mut buffer = Vec::new();
        while !matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(_)) {}
        // The socket and the other peers continue, and so does the disconnected
        // one.
        small.send(&[3; 1000], soon()).unwrap();
        assert_eq!(message(&*pull), [3; 1000]);
        message_sent_until_received(&*push, &*pull, 4);
    });
}

#[test]
fn a_request_over_the_limit_is_told_and_can_be_answered() {
    watched(|| {
        let place = TestFolder::new();
        let reply = nng().reply(&place.at("r"), &options(1000)).unwrap();
        let requester = nng().request(&place.at("r"), &Options::default()).unwrap();
        let peer = requester.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        requester.send(peer, &[0; 100_000], soon()).unwrap();
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Connected(_)));
        let ReplyEvent::Oversized(ticket, 100_000) = reply.receive(&mut buffer, soon()).unwrap() else { panic!() };
        reply.send(&ticket, b"too long", soon()).unwrap();
        requester.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, b"too long");
        assert_eq!(requester.connect(soon()).unwrap(), peer);
        // A request far above the limit ends its connection.
        requester.send(peer, &vec![0; 3 << 20], soon()).unwrap();
        assert!(matches!(requester.receive(&mut buffer, soon()), Err(TransportError::Disconnected)));
    });
}

#[test]
fn one_thread_at_a_time_receives() {
    watched(|| {
        let place = TestFolder::new();
        let pull = nng().pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
        thread::scope(|scope| {
            // Either thread may be the second one.
            scope.spawn(|| {
                while !matches!(pull.receive(&mut Vec::new(), None), Err(TransportError::Closed)) {
                    thread::yield_now();
                }
            });
            let give_up = Instant::now() + PATIENCE;
            while !matches!(pull.receive(&mut Vec::new(), past()), Err(TransportError::Misuse(_))) {
                assert!(Instant::now() < give_up);
            }
            pull.close();
        });
    });
}

#[test]
fn readiness_tells_of_messages_events_and_the_closing_and_then_rests() {
    watched(|| {
        let place = TestFolder::new();
        let pull = nng().pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
        let reply = nng().reply(&place.at("r"), &Options::default()).unwrap();
        let ready = |fd, wait: Duration| {
            let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&wait)).unwrap() == 1
        };
        let (pull_fd, reply_fd) = (pull.readiness().unwrap(), reply.readiness().unwrap());
        assert!(!ready(pull_fd, Duration::ZERO) && !ready(reply_fd, Duration::ZERO));
        let mut buffer = Vec::new();
        let push = nng().push(&Endpoint::Dial(place.at("p")), &Options::default()).unwrap();
        assert!(ready(pull_fd, PATIENCE));
        assert!(matches!(pull.receive(&mut buffer, past()).unwrap(), PullEvent::Connected(_)));
        assert!(!ready(pull_fd, Duration::ZERO));
        push.send(b"x", soon()).unwrap();
        assert!(ready(pull_fd, PATIENCE));
        assert!(matches!(pull.receive(&mut buffer, past()).unwrap(), PullEvent::Message(_)));
        assert!(!ready(pull_fd, Duration::ZERO));
        push.close();
        assert!(ready(pull_fd, PATIENCE));
        assert!(matches!(pull.receive(&mut buffer, past()).unwrap(), PullEvent::Disconnected(_)));
        assert!(!ready(pull_fd, Duration::ZERO));

        let requester = nng().request(&place.at("r"), &Options::default()).unwrap();
        let peer = requester.connect(soon()).unwrap();
        assert!(ready(reply_fd, PATIENCE));
        assert!(matches!(reply.receive(&mut buffer, past()).unwrap(), ReplyEvent::Connected(_)));
        requester.send(peer, b"x", soon()).unwrap();
        assert!(ready(reply_fd, PATIENCE));
        assert!(matches!(reply.receive(&mut buffer, past()).unwrap(), ReplyEvent::Request(_)));
        assert!(!ready(reply_fd, Duration::ZERO));
        reply.close();
        pull.close();
        assert!(ready(reply_fd, PATIENCE) && ready(pull_fd, PATIENCE));
    });
}

#[test]
fn sockets_can_be_made_and_closed_at_any_moment() {
    watched(|| {
        let place = TestFolder::new();
        thread::scope(|scope| {
            for own in 0..4 {
                let place = &place;
                scope.spawn(move || {
                    let (p, r) = (place.at(&format!("p{own}")), place.at(&format!("r{own}")));
                    for round in 0..60 {
                        let pull = nng().pull(&Endpoint::Listen(p.clone()), &Options::default()).unwrap();
                        let push = nng().push(&Endpoint::Dial(p.clone()), &Options::default()).unwrap();
                        let reply = nng().reply(&r, &Options::default()).unwrap();
                        let requester = nng().request(&r, &Options::default()).unwrap();
                        let stray = UnixStream::connect(r.path()).unwrap();
                        if round % 3 == 0 {
                            push.connect(soon()).unwrap();
                        }
                        if round % 3 == 1 {
                            let peer = requester.connect(soon()).unwrap();
                            let _ = requester.send(peer, b"x", past());
                        }
                        match round % 4 {
                            0 => drop((pull, reply)),
                            1 => drop((push, requester)),
                            2 => drop((reply, push)),
                            _ => drop((requester, pull)),
                        }
                        drop(stray);
                    }
                });
            }
        });
        assert_eq!(place.names(), Vec::<String>::new());
    });
}
