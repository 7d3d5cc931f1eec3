//! The `zeromq` crate's actual behaviour.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_conformance::raw::RawPeer;
use ekuiper_conformance::{Fixture, PATIENCE, eventually, options, past, shortly, soon};
use ekuiper_core::transport::{Admission, PeerProcess, PullEvent, ReplyEvent, Ticket};
use rustix::process::{Resource, getrlimit, setrlimit};

/// A process without free descriptors accepts no peer, and keeps its thread
/// busy; existing connections are not affected, and once there are descriptors
/// again, waiting peers are accepted.
pub(crate) fn a_process_without_descriptors_keeps_trying(f: &Fixture) {
    f.alone(|f| {
        let (reply, request) = (f.reply("reply"), f.request("reply"));
        let connection = request.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Connected(_)));
        let former = getrlimit(Resource::Nofile);
        let mut limit = former;
        limit.current = Some(std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 + 10);
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut full: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        // The last one is for the visiting peer's own end.
        full.pop();
        let visitor = RawPeer::dial(&f.at("reply"));
        for _ in 0..5 {
            request.send(connection, b"question", soon()).unwrap();
            let mut asked = None::<Ticket>;
            while asked.is_none() {
                if let ReplyEvent::Request(ticket) = reply.receive(&mut buffer, soon()).unwrap() {
                    asked = Some(ticket);
                }
            }
            reply.send(&asked.unwrap(), b"answer", soon()).unwrap();
            request.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, b"answer");
        }
        let (give_up, used) = (Instant::now() + PATIENCE, cpu_time());
        while cpu_time() - used < Duration::from_millis(200) {
            assert!(Instant::now() < give_up, "it waits: not an exception any more");
            let _ = reply.receive(&mut buffer, Some(Instant::now() + Duration::from_millis(20)));
        }
        assert!(!visitor.has_something(), "it was accepted");
        drop(full);
        setrlimit(Resource::Nofile, former).unwrap();
        assert!(eventually(|| visitor.has_something()), "it is not greeted");
        let _late = f.request("reply");
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Connected(_)));
        while reply.receive(&mut buffer, past()).is_ok() {}
    });
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Admits no process.
#[derive(Debug)]
struct Nobody;

impl Admission for Nobody {
    fn admits(&self, _: PeerProcess) -> bool {
        false
    }
}

/// No process is checked on connecting: the folder's permissions are the only
/// protection.
pub(crate) fn every_process_that_enters_the_folder_is_heard(f: &Fixture) {
    if f.role().is_some() {
        let push = f.push(&f.dial("pull"));
        push.send(b"from another process", soon()).unwrap();
        push.flush(soon()).unwrap();
        return f.until_parent_is_gone();
    }
    let nobody = options(|options| options.admission = Some(Arc::new(Nobody)));
    let pull = f.transport().pull(&f.listen("pull"), &nobody).unwrap();
    let _other = f.spawn("other");
    let mut buffer = Vec::new();
    while !matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)) {}
    assert_eq!(buffer, b"from another process");
}

/// A peer that connects above the limit is disconnected, until an earlier one
/// has left.
pub(crate) fn who_comes_beyond_the_limit_has_to_go(f: &Fixture) {
    let limit = options(|options| options.max_connections = 2);
    let pull = f.transport().pull(&f.listen("pull"), &limit).unwrap();
    let mut buffer = Vec::new();
    let mut there: Vec<_> = (0..2)
        .map(|_| {
            let push = f.push(&f.dial("pull"));
            push.connect(soon()).unwrap();
            assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
            push
        })
        .collect();
    let late = f.push(&f.dial("pull"));
    assert!(late.connect(shortly()).is_err());
    drop(there.pop());
    late.send(b"late", soon()).unwrap();
    while !matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)) {}
    assert_eq!(buffer, b"late");
}
