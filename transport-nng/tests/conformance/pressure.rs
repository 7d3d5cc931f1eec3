//! libnng's actual behaviour with peers that do not read.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ekuiper_conformance::raw::{PULL, PUSH, REP, REQ, RawListener, RawPeer, claim, frame};
use ekuiper_conformance::{Fixture, eventually, options, past, pattern, shortly, soon};
use ekuiper_core::transport::{Deadline, Pull, Push, Reply, ReplyEvent, Ticket, TransportError};

use crate::observed::message;

/// A peer that stops reading in the middle of a message stays connected,
/// whatever the option; nothing else is accepted meanwhile, and everything
/// accepted arrives when it reads again.
pub(crate) fn a_stalled_reader_is_waited_for(f: &Fixture, deadline: Deadline) {
    let impatient = options(|options| options.stall_timeout = Duration::from_millis(100));
    let at = RawListener::bind(&f.at("push"));
    let push = f.transport().push(&f.dial("push"), &impatient).unwrap();
    let body = pattern(8 << 20, 14);
    let mut stalled = at.accept_as(PULL, PUSH);
    push.connect(soon()).unwrap();
    push.send(&body, deadline).unwrap();
    stalled.expect(&claim(8 << 20));
    let in_a_second = Some(Instant::now() + Duration::from_secs(1));
    assert!(matches!(push.send(b"not taken", in_a_second), Err(TransportError::Timeout)));
    assert!(!at.is_dialled_within(Duration::ZERO), "it dials anew");
    stalled.expect(&body);
    push.send(b"next", soon()).unwrap();
    assert_eq!(stalled.frame(), b"next");
}

/// Answers to a peer that does not read never block: those that exceed libnng's
/// queue are lost. Other peers are not blocked; answers that arrive are whole,
/// in order, and the right ones; and a peer that reads again is answered.
pub(crate) fn answers_that_nobody_reads_are_dropped(f: &Fixture) {
    const QUEUE: u32 = 64;
    const REQUESTS: u32 = 300;
    let reply = f.reply("reply");
    let id = |number: u32| (number | 0x8000_0000).to_be_bytes();
    let answer = |number: u32| pattern(50_000, number as usize);
    let mut deaf = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    for number in 0..REQUESTS {
        deaf.write(&frame(&id(number)));
        reply.send(&asked(&*reply), &answer(number), soon()).unwrap();
    }
    let mut other = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    other.write(&frame(&[&id(1)[..], b"other"].concat()));
    reply.send(&asked(&*reply), b"answer", soon()).unwrap();
    assert_eq!(other.frame(), [&id(1)[..], b"answer"].concat());

    let mut arrived = 0;
    let mut next = 0;
    while next <= REQUESTS {
        let content = deaf.frame();
        let (found, body) = content.split_first_chunk::<4>().unwrap();
        let number = u32::from_be_bytes(*found) & 0x7fff_ffff;
        assert!(number >= next, "answers out of order");
        assert!(body == answer(number), "a wrong answer to {number}");
        (arrived, next) = (arrived + 1, number + 1);
        if arrived == QUEUE {
            // There is room again for the last answer, which must arrive.
            deaf.write(&frame(&id(REQUESTS)));
            reply.send(&asked(&*reply), &answer(REQUESTS), soon()).unwrap();
        }
    }
    assert!(arrived < REQUESTS, "all answers have arrived");
}

/// Returns the next request of a reply socket.
fn asked(reply: &dyn Reply) -> Ticket {
    loop {
        if let ReplyEvent::Request(ticket) = reply.receive(&mut Vec::new(), soon()).unwrap() {
            return ticket;
        }
    }
}

/// Creates a push that dials and a pull that listens, connected to each other.
fn pair(f: &Fixture, name: &str) -> (Arc<dyn Push>, Arc<dyn Pull>) {
    let (pull, push) = (f.pull(&f.listen(name)), f.push(&f.dial(name)));
    push.connect(soon()).unwrap();
    (push, pull)
}

/// Sends until there is no more room; returns the number of messages sent.
fn fill(push: &dyn Push, body: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        match push.send(body, shortly()) {
            Ok(()) => taken += 1,
            Err(TransportError::Timeout) => return taken,
            Err(error) => panic!("{error}"),
        }
        assert!(taken < 100_000, "it takes any number of messages");
    }
}

/// A long message is accepted at once, even by a non-blocking attempt, on every
/// sending socket. Where there are waits (for a connection with room for the
/// next message, and for the flush), closing ends them.
pub(crate) fn closing_ends_the_waits_that_there_are(f: &Fixture) {
    let long = vec![1; 16 << 20];
    let (push, _pull) = pair(f, "push");
    push.send(&long, past()).unwrap();
    push.close();
    let (request, reply) = (f.request("reply"), f.reply("reply"));
    let connection = request.connect(soon()).unwrap();
    request.send(connection, &long, past()).unwrap();
    reply.send(&asked(&*reply), &long, soon()).unwrap();
    request.close();
    reply.close();

    type Wait = fn(&dyn Push) -> Result<(), TransportError>;
    let waits: [(&str, Wait); 2] = [("send", |push| push.send(&[1; 1000], None)), ("flush", |push| push.flush(None))];
    for (name, wait) in waits {
        for pause in [0, 1, 5, 30] {
            let (push, _pull) = pair(f, &format!("{name}{pause}"));
            fill(&*push, &[1; 1000]);
            thread::scope(|scope| {
                let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| wait(&*push))).collect();
                thread::sleep(Duration::from_millis(pause));
                push.close();
                assert!(eventually(|| waiting.iter().all(|waiting| waiting.is_finished())), "{name} goes on");
                for waiting in waiting {
                    let ended = waiting.join().unwrap();
                    assert!(matches!(ended, Err(TransportError::Closed)), "{ended:?} from {name}");
                }
            });
        }
    }
}

/// With a peer that does not read, a few long messages are accepted; the next
/// one times out, as does the flush. The accepted messages arrive, and nothing
/// else.
pub(crate) fn deadlines_hold_from_the_second_long_message_on(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let long = |number: usize| pattern(16 << 20, number);
    let mut taken = 0;
    // Time for the slowest machine to read ahead.
    while push.send(&long(taken), Some(Instant::now() + Duration::from_secs(2))).is_ok() {
        taken += 1;
        assert!(taken < 10, "it takes any number of messages");
    }
    assert!(taken >= 2, "{taken} were taken");
    assert!(matches!(push.send(b"not taken", shortly()), Err(TransportError::Timeout)));
    assert!(matches!(push.flush(shortly()), Err(TransportError::Timeout)));
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            push.send(b"next", soon()).unwrap();
            push.flush(soon()).unwrap();
        });
        for number in 0..taken {
            assert!(message(&*pull) == long(number));
        }
        assert_eq!(message(&*pull), b"next");
        sender.join().unwrap();
    });
}
