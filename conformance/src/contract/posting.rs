//! Posted messages, which may be batched: the promises of `post`, and those of
//! `send` that it keeps. A transport whose `post` is its `send` passes as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ekuiper_core::transport::{PullEvent, Push, TransportError};

use super::{join, pair};
use crate::support::message;
use crate::{Fixture, PATIENCE, assert_error, eventually, options, past, pattern, punctual, shortly, soon};

/// Posts until there is no more room; returns the number of messages posted.
fn fill(push: &dyn Push, body: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        match push.post(body, shortly()) {
            Ok(()) => taken += 1,
            Err(TransportError::Timeout) => return taken,
            Err(error) => panic!("{error}"),
        }
        assert!(taken < 1_000_000, "it takes any number of messages");
    }
}

/// Posted and sent messages of any length arrive in order.
pub fn posting_keeps_the_order(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let body = |number: usize| {
        let length = [4, 5, 100, 1000, 20_000, 4, 4, 70_000, 16_384, 16_385][number % 10];
        [&(number as u32).to_be_bytes()[..], &pattern(length, number)].concat()
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..3000 {
                match number % 37 {
                    3 => push.send(&body(number), soon()).unwrap(),
                    5 => push.dispatch(soon()).and_then(|()| push.post(&body(number), soon())).unwrap(),
                    _ => push.post(&body(number), soon()).unwrap(),
                }
            }
        });
        for number in 0..3000 {
            assert!(message(&*pull) == body(number), "message {number}");
        }
    });
}

/// Of many posted messages, none is lost or duplicated.
pub fn posting_under_load(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    thread::scope(|scope| {
        scope.spawn(|| (0..300_000u32).for_each(|number| push.post(&number.to_be_bytes(), soon()).unwrap()));
        for number in 0..300_000u32 {
            assert_eq!(message(&*pull), number.to_be_bytes());
        }
    });
}

/// Posted messages of several threads do not mix, and each thread's are in
/// order.
pub fn posting_from_several_threads(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    thread::scope(|scope| {
        for thread in 0..4u32 {
            let push = &push;
            scope.spawn(move || {
                for number in 0..5000u32 {
                    let body = [&thread.to_be_bytes()[..], &number.to_be_bytes(), &[7; 90]].concat();
                    push.post(&body, soon()).unwrap();
                }
            });
        }
        let mut next = [0u32; 4];
        for _ in 0..4 * 5000 {
            let got = message(&*pull);
            let word = |at: usize| u32::from_be_bytes(got[at..at + 4].try_into().unwrap());
            let next = &mut next[word(0) as usize];
            assert_eq!((word(4), got.len()), (*next, 98));
            *next += 1;
        }
    });
}

/// Messages that are posted together arrive in their order, beside those of
/// other threads, whatever their lengths are; the last of them is flushed by
/// itself.
pub fn posting_all_of_them(f: &Fixture) {
    const ROUNDS: u32 = 30;
    const TOGETHER: u32 = 200;
    let (push, pull) = pair(f, "data");
    push.post_all(&mut std::iter::empty(), past()).unwrap();
    let body = |thread: u32, number: u32| {
        let length = [0, 90, 90, 1000, 20_000, 90, 90][number as usize % 7];
        [&thread.to_be_bytes()[..], &number.to_be_bytes(), &pattern(length, number as usize)].concat()
    };
    thread::scope(|scope| {
        for thread in 0..3 {
            let push = &push;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let bodies: Vec<_> = (0..TOGETHER).map(|number| body(thread, round * TOGETHER + number)).collect();
                    push.post_all(&mut bodies.iter().map(Vec::as_slice), soon()).unwrap();
                }
            });
        }
        let mut next = [0; 3];
        for _ in 0..3 * ROUNDS * TOGETHER {
            let got = message(&*pull);
            let thread = u32::from_be_bytes(got[..4].try_into().unwrap());
            let next = &mut next[thread as usize];
            assert!(got == body(thread, *next), "message {next} of thread {thread}");
            *next += 1;
        }
    });
}

/// Of messages that are posted together, those before one that is not posted
/// arrive, and no later one is asked for.
pub fn posting_all_before_a_failure(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let t = f.transport();
    let (pull, push) = (t.pull(&f.listen("data"), &limit).unwrap(), t.push(&f.dial("data"), &limit).unwrap());
    join(&*push, &*pull);
    let mut bodies = [&[1; 1000][..], &[2; 90], &[3; 1001], &[4; 90]].into_iter();
    let posted = push.post_all(&mut bodies, soon());
    assert_error!(posted, TransportError::TooLong { length: 1001, max: 1000 });
    assert_eq!(bodies.next(), Some(&[4; 90][..]));
    push.post_all(&mut [&b"next"[..]].into_iter(), soon()).unwrap();
    assert_eq!([message(&*pull), message(&*pull), message(&*pull)], [vec![1; 1000], vec![2; 90], b"next".to_vec()]);
    // A peer that does not read: those that had room arrive.
    let mut given = 0;
    let body = [7; 1000];
    let posted = push.post_all(&mut std::iter::repeat_with(|| &body[..]).inspect(|_| given += 1), shortly());
    assert_error!(posted, TransportError::Timeout);
    for _ in 1..given {
        assert_eq!(message(&*pull), body);
    }
    // With the socket, they end.
    thread::scope(|scope| {
        let posting = scope.spawn(|| push.post_all(&mut std::iter::repeat_with(|| &body[..]), None));
        thread::sleep(Duration::from_millis(2));
        push.close();
        assert!(eventually(|| posting.is_finished()), "posting goes on");
        assert!(matches!(posting.join().unwrap(), Err(TransportError::Closed)));
    });
    drop(pull);
}

/// A posted message without a successor is flushed by itself, in a burst and
/// alone, repeatedly.
pub fn posting_needs_no_dispatch(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    // No more than any transport has room for before the messages are read.
    for burst in [1, 2, 3, 10, 1, 200, 2].into_iter().cycle().take(70) {
        for number in 0..burst {
            push.post(&pattern(100, number), soon()).unwrap();
        }
        for number in 0..burst {
            assert_eq!(message(&*pull), pattern(100, number));
        }
    }
}

/// `dispatch` and `flush` write posted messages.
pub fn posting_and_dispatching(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let mut buffer = Vec::new();
    push.dispatch(past()).unwrap();
    for round in 0..200u8 {
        for number in 0..3 {
            push.post(&[round, number], soon()).unwrap();
        }
        push.dispatch(past()).unwrap();
        // The messages were written: they arrive without delay.
        for number in 0..3 {
            assert!(eventually(|| pull.receive(&mut buffer, past()).is_ok()));
            assert_eq!(buffer, [round, number]);
        }
    }
    push.post(b"one", soon()).unwrap();
    push.post(b"two", soon()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| push.flush(soon()).unwrap());
        assert_eq!((message(&*pull), message(&*pull)), (b"one".to_vec(), b"two".to_vec()));
    });
}

/// Of messages that may be merged, none is lost, doubled, or merged with one on
/// the other side of another message, whatever else is sent meanwhile.
pub fn posting_and_merging(f: &Fixture) {
    /// Adds numbers up to a limit; longer messages are no numbers.
    fn add(last: &mut [u8], next: &[u8]) -> bool {
        let number = |body: &[u8]| body.try_into().map(u32::from_be_bytes).ok();
        let Some(sum) = number(last).zip(number(next)).map(|(last, next)| last + next) else { return false };
        if sum <= 1000 {
            last.copy_from_slice(&sum.to_be_bytes());
        }
        sum <= 1000
    }
    const NUMBERS: u64 = 100_000;
    let (push, pull) = pair(f, "data");
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=NUMBERS {
                push.post_merged(&1u32.to_be_bytes(), add, soon()).unwrap();
                let so_far = number.to_be_bytes();
                match number {
                    _ if number % 4001 == 0 => push.send(&so_far, soon()).unwrap(),
                    _ if number % 1009 == 0 => push.dispatch(soon()).unwrap(),
                    _ if number % 97 == 0 => push.post(&so_far, soon()).unwrap(),
                    _ if number % 53 == 0 => push.post_merged(&so_far, add, soon()).unwrap(),
                    _ => {}
                }
            }
        });
        let mut sum = 0;
        while sum < NUMBERS {
            let body = message(&*pull);
            match body[..].try_into().map(u32::from_be_bytes) {
                Ok(number) => {
                    assert!((1..=1000).contains(&number), "{number}");
                    sum += u64::from(number);
                }
                Err(_) => assert_eq!(body, sum.to_be_bytes()),
            }
        }
        assert_eq!(sum, NUMBERS);
    });
}

/// Closing loses no posted message for which there is room.
pub fn posting_and_closing(f: &Fixture) {
    let mut buffer = Vec::new();
    for round in 0..50u32 {
        let (push, pull) = pair(f, &format!("data{round}"));
        let count = 1 + round * 4;
        (0..count).for_each(|number| push.post(&number.to_be_bytes(), soon()).unwrap());
        match round % 2 {
            0 => push.close(),
            _ => drop(push),
        }
        for number in 0..count {
            assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)), "of {count}");
            assert_eq!(buffer, number.to_be_bytes());
        }
        assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(_)));
    }
}

/// Closing ends concurrent posts, whether they block or not.
pub fn posting_ends_with_the_closing(f: &Fixture) {
    for round in 0..20u64 {
        let (push, pull) = pair(f, &format!("data{round}"));
        thread::scope(|scope| {
            let posting = scope.spawn(|| {
                loop {
                    if let Err(error) = push.post(&[7; 1000], None) {
                        return error;
                    }
                }
            });
            // Before, while and after the connection fills up.
            thread::sleep(Duration::from_micros(300 * round));
            push.close();
            assert!(eventually(|| posting.is_finished()), "posting goes on");
            assert!(matches!(posting.join().unwrap(), TransportError::Closed));
        });
        assert_error!(push.post(b"x", soon()), TransportError::Closed);
        drop(pull);
    }
}

/// A post blocks while the peer does not read, and accepted messages arrive.
pub fn posting_to_who_does_not_read(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    for length in [1, 100, 4096, 30_000] {
        let body = pattern(length, length);
        let taken = fill(&*push, &body);
        assert!(taken > 0);
        punctual(past(), |deadline| assert_error!(push.post(&body, deadline), TransportError::Timeout));
        punctual(shortly(), |deadline| assert_error!(push.flush(deadline), TransportError::Timeout));
        for _ in 0..taken {
            assert!(message(&*pull) == body);
        }
        push.post(b"taken again", soon()).unwrap();
        assert_eq!(message(&*pull), b"taken again");
    }
}

/// A post without a peer blocks like a send; a peer that connects receives the
/// message.
pub fn posting_without_a_peer(f: &Fixture) {
    let push = f.push(&f.dial("data"));
    assert_error!(push.post(b"lost", past()), TransportError::Timeout);
    assert_error!(push.post(b"lost", shortly()), TransportError::Timeout);
    push.dispatch(past()).unwrap();
    let pull = f.pull(&f.listen("data"));
    thread::scope(|scope| {
        scope.spawn(|| push.post(b"found", soon()).unwrap());
        assert_eq!(message(&*pull), b"found");
    });
}

/// A message that is too long is refused, and no other one is lost.
pub fn posting_what_is_too_long(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let t = f.transport();
    let (pull, push) = (t.pull(&f.listen("data"), &limit).unwrap(), t.push(&f.dial("data"), &limit).unwrap());
    join(&*push, &*pull);
    for _ in 0..3 {
        push.post(&[1; 1000], soon()).unwrap();
        assert_error!(push.post(&[2; 1001], soon()), TransportError::TooLong { length: 1001, max: 1000 });
    }
    for _ in 0..3 {
        assert_eq!(message(&*pull), [1; 1000]);
    }
}

/// Messages that a disconnected peer had not read are lost; the next peer
/// receives later ones, from the beginning of a message.
pub fn posting_to_the_next_peer(f: &Fixture) {
    let push = f.push(&f.dial("data"));
    for round in 0..10u8 {
        let pull = f.pull(&f.listen("data"));
        let mut buffer = Vec::new();
        let give_up = Instant::now() + PATIENCE;
        // A push may notice only when it sends that its former peer has gone.
        let is_connected = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_connected.load(Ordering::SeqCst) {
                    let _ = push.post(&[round; 300], shortly());
                }
            });
            let event = pull.receive(&mut buffer, soon());
            is_connected.store(true, Ordering::SeqCst);
            assert!(matches!(event, Ok(PullEvent::Connected(_))), "{event:?}");
        });
        thread::scope(|scope| {
            let posting = scope.spawn(|| {
                for _ in 0..1000 {
                    while matches!(push.post(&[round; 300], soon()), Err(TransportError::Disconnected)) {}
                }
            });
            // Some messages of the former round may have been kept for this
            // peer.
            while buffer != [round; 300] {
                assert!(Instant::now() < give_up);
                if let PullEvent::Message(_) = pull.receive(&mut buffer, soon()).unwrap() {
                    assert!(buffer.len() == 300 && buffer.iter().all(|byte| *byte == buffer[0]), "{buffer:?}");
                }
            }
            while !posting.is_finished() {
                let _ = pull.receive(&mut buffer, past());
            }
            posting.join().unwrap();
            // No peer reads now: there may be no room for another message.
            (0..50).for_each(|_| drop(push.post(&[round; 300], past())));
        });
        drop(pull);
        // A push detects the end when it next sends.
        assert!(eventually(|| push.post(&[round; 300], past()).is_err()));
    }
}
