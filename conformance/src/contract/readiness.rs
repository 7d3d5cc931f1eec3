//! The readiness descriptor, which polls readable when there may be something
//! to receive.

use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use ekuiper_core::transport::TransportError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{couple, pair};
use crate::{Fixture, PATIENCE, past, soon};

fn is_ready(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&time)).unwrap() > 0
}

/// A receiver that receives until a timeout and then waits for the descriptor
/// misses no message.
pub fn readiness_misses_no_message(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let Some(readiness) = pull.readiness() else { return };
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
                Err(TransportError::Timeout) => assert!(is_ready(readiness, PATIENCE), "after {next} messages"),
                Err(error) => panic!("{error}"),
            }
        }
    });
    while pull.receive(&mut Vec::new(), past()).is_ok() {}
    assert!(!is_ready(readiness, Duration::ZERO), "ready, and nothing is there");
    // Peers that connect and disconnect, and closing.
    drop(push);
    assert!(is_ready(readiness, PATIENCE), "a peer went");
    while pull.receive(&mut Vec::new(), past()).is_ok() {}
    let push = f.push(&f.dial("data"));
    thread::scope(|scope| {
        scope.spawn(|| push.connect(soon()));
        assert!(is_ready(readiness, PATIENCE), "a peer came");
        while pull.receive(&mut Vec::new(), soon()).is_err() {}
    });
    pull.close();
    assert!(is_ready(readiness, PATIENCE), "it was closed");
}

/// A receiver that waits for a reply socket's descriptor misses no request.
pub fn readiness_misses_no_request(f: &Fixture) {
    let (request, connection, reply) = couple(f, "reply");
    let Some(readiness) = reply.readiness() else { return };
    let mut buffer = Vec::new();
    for round in 0..100u8 {
        request.send(connection, &[round], soon()).unwrap();
        loop {
            assert!(is_ready(readiness, PATIENCE), "request {round}");
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
    assert!(is_ready(readiness, PATIENCE), "it was closed");
}
