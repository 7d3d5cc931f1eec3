//! A process without free descriptors to which peers connect logs one line a
//! second, and continues once there are some again. The test has its own
//! process, whose limit it changes and whose log it reads.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, PullEvent, Transport, TransportError};
use ekuiper_transport_uds::UdsTransport;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

static WARNINGS: AtomicU64 = AtomicU64::new(0);
static HELD_BACK: AtomicU64 = AtomicU64::new(0);
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

/// A logger that counts the acceptor's lines.
struct Log;

impl Visit for Log {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "others" {
            HELD_BACK.fetch_add(value, Ordering::SeqCst);
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ekuiper_transport_uds") && *metadata.level() <= Level::DEBUG
    }

    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::WARN {
            WARNINGS.fetch_add(1, Ordering::SeqCst);
            event.record(&mut Log);
        } else {
            ATTEMPTS.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_shortage_is_told_once_a_second_and_passes() {
    tracing::subscriber::set_global_default(Log).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Several sockets lack the same resource.
    let pulls: Vec<_> = (0..3)
        .map(|number| {
            let address = Address::new(folder.path().join(format!("{number}.ipc"))).unwrap();
            let endpoint = Endpoint::Listen(address.clone());
            (UdsTransport::new().pull(&endpoint, &Options::default()).unwrap(), address)
        })
        .collect();
    // The peers' own ends: a connection takes no more of this process's
    // descriptors then, but for the one that it is accepted with.
    let ends: Vec<_> = pulls.iter().map(|_| socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()).collect();
    let former = getrlimit(Resource::Nofile);
    let mut limit = former;
    limit.current = Some(64);
    setrlimit(Resource::Nofile, limit).unwrap();
    let full: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let connected = |(end, (_, address)): (OwnedFd, &(_, Address))| {
        connect(&end, &SocketAddrUnix::new(address.path()).unwrap()).unwrap();
        UnixStream::from(end)
    };
    let peers: Vec<_> = ends.into_iter().zip(&pulls).map(connected).collect();
    let since = Instant::now();
    while ATTEMPTS.load(Ordering::SeqCst) < 40 {
        assert!(since.elapsed() < Duration::from_secs(60), "nobody tries to accept again");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (warnings, held_back) = (WARNINGS.load(Ordering::SeqCst), HELD_BACK.load(Ordering::SeqCst));
    assert!(warnings >= 1 && warnings <= since.elapsed().as_secs() + 1, "{warnings} lines in {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(1) || held_back > 0, "the others are not counted");
    drop(full);
    setrlimit(Resource::Nofile, former).unwrap();
    for ((pull, _), peer) in pulls.iter().zip(&peers) {
        use std::io::Write;
        let mut peer = peer;
        peer.write_all(b"\0SP\0\0\x50\0\0").unwrap();
        let deadline = Some(Instant::now() + Duration::from_secs(30));
        let event = pull.receive(&mut Vec::new(), deadline);
        assert!(matches!(event, Ok(PullEvent::Connected(_))), "{event:?}");
        let event = pull.receive(&mut Vec::new(), Some(Instant::now()));
        assert!(matches!(event, Err(TransportError::Timeout)), "{event:?}");
    }
}
