//! Tests of the four patterns, libnng with itself and with the transport in
//! Rust, each side listening and dialling.

mod support;

use std::thread;

use ekuiper_core::transport::*;
use support::*;

const COUNT: u32 = 2000;

#[test]
fn one_way_in_order_whoever_listens() {
    watched(|| {
        for (sender, receiver) in pairs() {
            for push_listens in [false, true] {
                let place = TestFolder::new();
                let (listen, dial) = (Endpoint::Listen(place.at("p")), Endpoint::Dial(place.at("p")));
                let (push_at, pull_at) = if push_listens { (&listen, &dial) } else { (&dial, &listen) };
                let options = Options::default();
                let push = sender.push(push_at, &options).unwrap();
                let pull = receiver.pull(pull_at, &options).unwrap();
                let pushing = thread::spawn(move || {
                    push.connect(soon()).unwrap();
                    for number in 0..COUNT {
                        push.send(&number.to_be_bytes(), soon()).unwrap();
                    }
                    push.send(b"", soon()).unwrap();
                    push.flush(soon()).unwrap();
                    push.close();
                });
                let mut buffer = Vec::new();
                let PullEvent::Connected(peer) = pull.receive(&mut buffer, soon()).unwrap() else {
                    panic!("a message before its connection")
                };
                for number in 0..COUNT {
                    assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(peer));
                    assert_eq!(buffer, number.to_be_bytes());
                }
                assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(peer));
                assert_eq!(buffer, b"");
                assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(peer));
                pushing.join().unwrap();
            }
        }
    });
}

#[test]
fn large_messages_arrive_whole() {
    watched(|| {
        for (sender, receiver) in pairs() {
            let place = TestFolder::new();
            let large: Vec<u8> = (0..8 << 20).map(|byte: u32| (byte * 7 + byte / 251) as u8).collect();
            let options = Options::default();
            let pull = receiver.pull(&Endpoint::Listen(place.at("p")), &options).unwrap();
            let push = sender.push(&Endpoint::Dial(place.at("p")), &options).unwrap();
            let reply = receiver.reply(&place.at("r"), &options).unwrap();
            let requester = sender.request(&place.at("r"), &options).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| push.send(&large, soon()).unwrap());
                assert!(message(&*pull) == large);
                scope.spawn(|| {
                    let mut buffer = Vec::new();
                    let ticket = request(&*reply, &mut buffer);
                    reply.send(&ticket, &buffer, soon()).unwrap();
                });
                let mut buffer = Vec::new();
                let peer = requester.connect(soon()).unwrap();
                requester.send(peer, &large, soon()).unwrap();
                requester.receive(&mut buffer, soon()).unwrap();
                assert!(buffer == large);
            });
        }
    });
}

#[test]
fn requests_and_replies() {
    watched(|| {
        for (asker, answerer) in pairs() {
            let place = TestFolder::new();
            let options = Options::default();
            let reply = answerer.reply(&place.at("r"), &options).unwrap();
            let requester = asker.request(&place.at("r"), &options).unwrap();
            let asking = thread::spawn(move || {
                let peer = requester.connect(soon()).unwrap();
                let mut buffer = Vec::new();
                for number in 0..COUNT {
                    requester.send(peer, &number.to_be_bytes(), soon()).unwrap();
                    requester.receive(&mut buffer, soon()).unwrap();
                    assert_eq!(buffer, (number + 1).to_be_bytes());
                }
                assert_eq!(requester.connect(soon()).unwrap(), peer);
            });
            let mut buffer = Vec::new();
            let ReplyEvent::Connected(peer) = reply.receive(&mut buffer, soon()).unwrap() else {
                panic!("a request before its connection")
            };
            for number in 0..COUNT {
                let ReplyEvent::Request(ticket) = reply.receive(&mut buffer, soon()).unwrap() else {
                    panic!("no request {number}")
                };
                assert_eq!((ticket.connection, &buffer[..]), (peer, &number.to_be_bytes()[..]));
                reply.send(&ticket, &(number + 1).to_be_bytes(), soon()).unwrap();
            }
            assert_eq!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(peer));
            asking.join().unwrap();
        }
    });
}

#[test]
fn several_requesters_each_get_their_own_answer() {
    watched(|| {
        for (asker, answerer) in pairs() {
            let place = TestFolder::new();
            let reply = answerer.reply(&place.at("r"), &Options::default()).unwrap();
            thread::scope(|scope| {
                let asking: Vec<_> = (0..4u32)
                    .map(|own| {
                        let requester = asker.request(&place.at("r"), &Options::default()).unwrap();
                        scope.spawn(move || {
                            let peer = requester.connect(soon()).unwrap();
                            let mut buffer = Vec::new();
                            for number in 0..200u32 {
                                let body = [own.to_be_bytes(), number.to_be_bytes()].concat();
                                requester.send(peer, &body, soon()).unwrap();
                                requester.receive(&mut buffer, soon()).unwrap();
                                assert_eq!(buffer, body);
                            }
                        })
                    })
                    .collect();
                let mut buffer = Vec::new();
                // Answers are sent out of order: always to the request before
                // the last one.
                let mut held: Option<(Ticket, Vec<u8>)> = None;
                let mut left = 4;
                while left > 0 {
                    match reply.receive(&mut buffer, Some(std::time::Instant::now() + PATIENCE / 1000)) {
                        Ok(ReplyEvent::Request(ticket)) => {
                            if let Some((ticket, body)) = held.replace((ticket, buffer.clone())) {
                                reply.send(&ticket, &body, soon()).unwrap();
                            }
                        }
                        Ok(ReplyEvent::Disconnected(_)) => left -= 1,
                        Ok(_) => {}
                        Err(TransportError::Timeout) => {
                            if let Some((ticket, body)) = held.take() {
                                reply.send(&ticket, &body, soon()).unwrap();
                            }
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                asking.into_iter().for_each(|thread| thread.join().unwrap());
            });
        }
    });
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    watched(|| {
        for (sender, receiver) in pairs() {
            let place = TestFolder::new();
            let pull = receiver.pull(&Endpoint::Listen(place.at("p")), &Options::default()).unwrap();
            let push = sender.push(&Endpoint::Dial(place.at("p")), &Options::default()).unwrap();
            let mut buffer = Vec::new();
            // Some transports accept a connection only while receiving.
            thread::scope(|scope| {
                scope.spawn(|| push.connect(soon()).unwrap());
                assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
            });
            let body = [7; 4096];
            let mut sent = 0;
            loop {
                match push.send(&body, Some(std::time::Instant::now() + std::time::Duration::from_millis(200))) {
                    Ok(()) => sent += 1,
                    Err(TransportError::Timeout) => break,
                    Err(error) => panic!("{error}"),
                }
                assert!(sent < 10_000, "nothing holds the sender back");
            }
            for _ in 0..sent {
                assert_eq!(message(&*pull), body);
            }
            // The message that timed out was not sent.
            assert!(matches!(pull.receive(&mut buffer, past()), Err(TransportError::Timeout)));
            push.send(b"next", soon()).unwrap();
            assert_eq!(message(&*pull), b"next");
        }
    });
}
