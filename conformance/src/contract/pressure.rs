//! Promises 5 and 6, backpressure and fairness.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ekuiper_core::transport::{PullEvent, TransportError};

use super::{fill, join, pair};
use crate::support::message;
use crate::{Fixture, PATIENCE, assert_error, past, pattern, shortly, soon};

/// Accepted messages arrive, refused ones do not, and the sender continues
/// where it stopped.
pub fn pressure_drops_nothing(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    for (round, length) in [1, 100, 4096, 100_000].into_iter().enumerate() {
        let body = pattern(length, round);
        let taken = fill(&*push, &body);
        assert!(taken > 0);
        assert_error!(push.send(b"not taken", past()), TransportError::Timeout);
        for _ in 0..taken {
            assert!(message(&*pull) == body);
        }
        push.send(b"taken again", soon()).unwrap();
        assert_eq!(message(&*pull), b"taken again");
    }
}

/// A slow reader slows down a fast sender.
pub fn pressure_slows_the_sender_down(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..2000u32 {
                push.send(&[&number.to_be_bytes()[..], &[0; 2000]].concat(), soon()).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        for number in 0..2000u32 {
            let ahead = sent.load(Ordering::Relaxed).saturating_sub(number as usize);
            // Kernel buffers and the queue of a peer's library: not everything.
            assert!(ahead < 1500, "{ahead} messages are under way");
            assert_eq!(message(&*pull)[..4], number.to_be_bytes());
            thread::yield_now();
        }
    });
}

/// `flush` waits until everything was read.
pub fn pressure_and_flush(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    push.flush(soon()).unwrap();
    let taken = fill(&*push, &[1; 1000]);
    assert_error!(push.flush(shortly()), TransportError::Timeout);
    assert_error!(push.flush(past()), TransportError::Timeout);
    let read = AtomicUsize::new(0);
    thread::scope(|scope| {
        let flushing = scope.spawn(|| {
            push.flush(soon()).unwrap();
            read.load(Ordering::SeqCst)
        });
        for _ in 0..taken {
            message(&*pull);
            read.fetch_add(1, Ordering::SeqCst);
        }
        // The receiver may have read ahead by one buffer.
        assert!(flushing.join().unwrap() > 0, "it did not wait");
    });
}

/// If one of two peers stops reading, the other one continues alone.
pub fn pressure_of_one_peer_is_not_the_others(f: &Fixture) {
    let push = f.push(&f.listen("data"));
    let (deaf, reading) = (f.pull(&f.dial("data")), f.pull(&f.dial("data")));
    join(&*push, &*deaf);
    join(&*push, &*reading);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                push.send(&[7; 1000], soon()).unwrap();
            }
        });
        for _ in 0..5000 {
            message(&*reading);
        }
        stop.store(true, Ordering::Relaxed);
        // The sender may be blocked.
        while !sender.is_finished() {
            let _ = reading.receive(&mut Vec::new(), shortly());
        }
        sender.join().unwrap();
    });
}

/// Of two senders of which one never stops, both are received.
pub fn fairness_between_peers(f: &Fixture) {
    let pull = f.pull(&f.listen("data"));
    let loud = f.push(&f.dial("data"));
    join(&*loud, &*pull);
    // Created when the other sender is connected: some transports dial before
    // the socket is used.
    let quiet = f.push(&f.dial("data"));
    let quiet_id = join(&*quiet, &*pull);
    thread::scope(|scope| {
        scope.spawn(|| while loud.send(b"loud", soon()).is_ok() {});
        let mut buffer = Vec::new();
        let give_up = std::time::Instant::now() + PATIENCE;
        for _ in 0..100 {
            quiet.send(b"quiet", soon()).unwrap();
            while pull.receive(&mut buffer, soon()).unwrap() != PullEvent::Message(quiet_id) {
                assert!(std::time::Instant::now() < give_up, "only one is heard");
            }
            assert_eq!(buffer, b"quiet");
        }
        loud.close();
    });
}
