//! The resources of a socket, and the behaviour without any left.

use std::time::Duration;

use ekuiper_core::transport::{PullEvent, ReplyEvent};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::{asked, introduce, join};
use crate::raw::RawPeer;
use crate::support::message;
use crate::{Fixture, eventually, past, soon};

/// Returns the number of this process's open descriptors.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Peers that connect and disconnect leak no descriptor, nor do closed sockets.
pub fn resources_are_given_back(f: &Fixture) {
    f.alone(|f| {
        let mut buffer = Vec::new();
        // Descriptors that a process needs once do not count.
        drop(f.reply("first"));
        let before = descriptors();
        {
            let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
            let listening = descriptors();
            for _ in 0..200 {
                let push = f.push(&f.dial("pull"));
                join(&*push, &*pull);
                push.send(b"message", soon()).unwrap();
                assert_eq!(message(&*pull), b"message");
                drop(push);
                assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(_)));
                let request = f.request("reply");
                let connection = introduce(&*request, &*reply);
                request.send(connection, b"question", soon()).unwrap();
                let (ticket, _) = asked(&*reply);
                reply.send(&ticket, b"answer", soon()).unwrap();
                drop(request);
                assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(_)));
            }
            assert!(eventually(|| descriptors() <= listening), "{} instead of {listening}", descriptors());
        }
        assert!(eventually(|| descriptors() <= before), "{} instead of {before}", descriptors());
    });
}

/// Failed dial attempts leak nothing either.
pub fn resources_of_failed_attempts(f: &Fixture) {
    f.alone(|f| {
        let (push, request) = (f.push(&f.dial("nobody")), f.request("nobody"));
        let (_, _) = (push.connect(crate::shortly()), request.connect(crate::shortly()));
        let before = descriptors();
        for _ in 0..10 {
            let (_, _) = (push.connect(crate::shortly()), request.connect(crate::shortly()));
        }
        assert!(descriptors() <= before);
    });
}

/// A process without free descriptors accepts no peer, reports no event, and
/// continues when there are some again; existing connections are not affected.
pub fn resources_that_run_out(f: &Fixture) {
    f.alone(|f| {
        let reply = f.reply("reply");
        let request = f.request("reply");
        let connection = introduce(&*request, &*reply);
        let mut buffer = Vec::new();
        // A peer that waits to be accepted, and no descriptor for it.
        let late = RawPeer::dial(&f.at("reply"));
        let former = getrlimit(Resource::Nofile);
        let mut limit = former;
        limit.current = Some(descriptors() as u64 - 1);
        setrlimit(Resource::Nofile, limit).unwrap();
        let full: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        for _ in 0..5 {
            request.send(connection, b"question", soon()).unwrap();
            let (ticket, _) = asked(&*reply);
            reply.send(&ticket, b"answer", soon()).unwrap();
            request.receive(&mut buffer, soon()).unwrap();
            let _ = reply.receive(&mut buffer, past());
        }
        // No thread spins meanwhile.
        let (since, used) = (std::time::Instant::now(), cpu_time());
        let _ = reply.receive(&mut buffer, Some(since + Duration::from_millis(500)));
        let used = cpu_time() - used;
        assert!(used < Duration::from_millis(250), "{used:?} of processor time while waiting");
        drop(full);
        setrlimit(Resource::Nofile, former).unwrap();
        let mut late = late;
        late.write(&crate::raw::REQ);
        assert!(matches!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Connected(_)));
    });
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
