//! The readiness descriptor, which polls readable when there may be something
//! to receive.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ekuiper_core::transport::{MAX_SPIN, PullEvent, TransportError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{couple, pair};
use crate::{Fixture, PATIENCE, options, past, soon};

fn is_ready(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&time)).unwrap() > 0
}

/// A receiver that receives until a timeout and then waits for the descriptor
/// misses no message.
pub fn readiness_misses_no_message(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    if pull.readiness().is_none() {
        return;
    }
    // Asked for before each wait.
    let is_ready = |time| is_ready(pull.readiness().unwrap(), time);
    thread::scope(|scope| {
        scope.spawn(|| (0..20_000u32).for_each(|number| push.send(&number.to_be_bytes(), soon()).unwrap()));
        let mut buffer = Vec::new();
        let mut next = 0u32;
        while next < 20_000 {
            match pull.receive(&mut buffer, past()) {
                Ok(_) => {
                    assert_eq!(buffer, next.to_be_bytes());
                    next += 1;
                }
                Err(TransportError::Timeout) => assert!(is_ready(PATIENCE), "after {next} messages"),
                Err(error) => panic!("{error}"),
            }
        }
    });
    while pull.receive(&mut Vec::new(), past()).is_ok() {}
    assert!(!is_ready(Duration::ZERO), "ready, and nothing is there");
    // Peers that connect and disconnect, and closing.
    drop(push);
    assert!(is_ready(PATIENCE), "a peer went");
    while pull.receive(&mut Vec::new(), past()).is_ok() {}
    let push = f.push(&f.dial("data"));
    thread::scope(|scope| {
        scope.spawn(|| push.connect(soon()));
        assert!(is_ready(PATIENCE), "a peer came");
        while pull.receive(&mut Vec::new(), soon()).is_err() {}
    });
    pull.close();
    assert!(is_ready(PATIENCE), "it was closed");
}

/// A wait for the descriptor ends with the next message, though others were
/// received meanwhile, by busy-polling or not.
pub fn readiness_outlasts_other_receives(f: &Fixture) {
    for (name, spin) in [("blocking", Duration::ZERO), ("spinning", MAX_SPIN)] {
        let pull = f.transport().pull(&f.listen(name), &options(|options| options.spin = spin)).unwrap();
        // Asked for before there is a connection.
        let Some(readiness) = pull.readiness() else { return };
        let push = f.push(&f.dial(name));
        push.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        assert!(matches!(pull.receive(&mut buffer, soon()), Ok(PullEvent::Connected(_))));
        while pull.receive(&mut buffer, past()).is_ok() {}
        push.send(b"first", soon()).unwrap();
        assert!(is_ready(readiness, PATIENCE), "the first, {name}");
        pull.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, b"first");
        for round in 0..20u8 {
            while pull.receive(&mut buffer, past()).is_ok() {}
            let Some(readiness) = pull.readiness() else { return };
            thread::scope(|scope| {
                scope.spawn(|| push.send(&[round], soon()).unwrap());
                pull.receive(&mut buffer, soon()).unwrap();
            });
            assert_eq!(buffer, [round]);
            push.send(b"next", soon()).unwrap();
            assert!(is_ready(readiness, PATIENCE), "round {round}, {name}");
            pull.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, b"next");
        }
    }
}

/// Any thread may ask for the descriptor while another one receives.
pub fn readiness_disturbs_no_receiver(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                pull.readiness();
            }
        });
        let mut buffer = Vec::new();
        let received = (0..2000u32).try_for_each(|number| {
            push.send(&number.to_be_bytes(), soon()).unwrap();
            pull.receive(&mut buffer, soon()).map(|_| assert_eq!(buffer, number.to_be_bytes()))
        });
        done.store(true, Ordering::Relaxed);
        received.unwrap();
    });
}

/// A receiver that waits for a reply socket's descriptor misses no request.
pub fn readiness_misses_no_request(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    if reply.readiness().is_none() {
        return;
    }
    let is_ready = |time| is_ready(reply.readiness().unwrap(), time);
    let mut buffer = Vec::new();
    for round in 0..100u8 {
        request.send(connection, &[round], soon()).unwrap();
        loop {
            assert!(is_ready(PATIENCE), "request {round}");
            match reply.receive(&mut buffer, past()) {
                Ok(_) => break,
                Err(TransportError::Timeout) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(buffer, [round]);
        while reply.receive(&mut buffer, past()).is_ok() {}
    }
    reply.close();
    assert!(is_ready(PATIENCE), "it was closed");
}
