//! The contract's part of the conformance suite. The rest is about the bytes of
//! SP on a socket, where this transport has bells only.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::time::{Duration, Instant};

use ekuiper_conformance::{Exception, Fixture, past, soon, wait_until};
use ekuiper_core::transport::{ReplyEvent, Ticket, Transport};
use ekuiper_transport_shm::ShmTransport;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

ekuiper_conformance::contract_suite!(ShmTransport::new(), exceptions = [
    resources_that_run_out: Exception::observed(
        "the late peer of the case speaks SP on the socket: here it is one of this transport",
        resources_that_run_out_and_come_back,
    ),
]);

/// The case of this name, with a late peer that dials as this transport does:
/// it is connected once there is a descriptor for its socket, and works without
/// one for the memory.
fn resources_that_run_out_and_come_back(f: &Fixture) {
    // A folder, which takes no descriptor: the late peer dials once it is there.
    let go = f.at("go");
    if f.role() == Some("late") {
        wait_until("the descriptors are taken", || go.path().exists());
        let late = f.request("reply");
        let connection = late.connect(soon()).unwrap();
        late.send(connection, b"late", soon()).unwrap();
        late.receive(&mut Vec::new(), soon()).unwrap();
        return;
    }
    f.alone(|f| {
        let reply = ShmTransport::new().reply(&f.at("reply"), &Default::default()).unwrap();
        let request = f.request("reply");
        let connection = request.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        let asked = |buffer: &mut Vec<u8>| -> Ticket {
            loop {
                if let ReplyEvent::Request(ticket) = reply.receive(buffer, soon()).unwrap() {
                    return ticket;
                }
            }
        };
        let late = f.spawn("late");
        let former = getrlimit(Resource::Nofile);
        let limit = rustix::process::Rlimit { current: Some(256), ..former };
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut full: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        std::fs::create_dir(go.path()).unwrap();
        for _ in 0..200 {
            request.send(connection, b"question", soon()).unwrap();
            let ticket = asked(&mut buffer);
            assert_eq!(buffer, b"question", "the late peer was accepted");
            reply.send(&ticket, b"answer", soon()).unwrap();
            request.receive(&mut buffer, soon()).unwrap();
            let _ = reply.receive(&mut buffer, past());
        }
        // No thread spins meanwhile.
        let (since, used) = (Instant::now(), cpu_time());
        let _ = reply.receive(&mut buffer, Some(since + Duration::from_millis(500)));
        let used = cpu_time() - used;
        assert!(used < Duration::from_millis(250), "{used:?} of processor time while waiting");
        // One to accept with, and none for the memory.
        full.pop();
        let ticket = asked(&mut buffer);
        assert_eq!(buffer, b"late");
        reply.send(&ticket, b"answer", soon()).unwrap();
        drop(full);
        setrlimit(Resource::Nofile, former).unwrap();
        drop(late);
    });
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
