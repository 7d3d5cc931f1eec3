//! Shared test support: sockets in folders of their own, deadlines, a watchdog.
// Clippy takes only functions with #[test] for tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use ekuiper_transport_nng::NngTransport;
use ekuiper_transport_uds::UdsTransport;
use tempfile::TempDir;

/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}

pub(crate) fn past() -> Deadline {
    Some(Instant::now())
}

/// Runs a test, and ends the process if the test hangs.
pub(crate) fn watched(test: impl FnOnce()) {
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(PATIENCE * 3) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the test hangs");
            std::process::abort();
        }
    });
    test();
    drop(alive);
}

pub(crate) struct TestFolder(pub(crate) TempDir);

impl TestFolder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(&self, name: &str) -> Address {
        Address::new(self.0.path().join(name)).unwrap()
    }

    /// Returns the names of the files in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// Returns each pair of transports with libnng on at least one side.
pub(crate) fn pairs() -> [(&'static dyn Transport, &'static dyn Transport); 3] {
    const NNG: &NngTransport = &NngTransport;
    const UDS: &UdsTransport = &UdsTransport;
    [(NNG, NNG), (NNG, UDS), (UDS, NNG)]
}

pub(crate) fn nng() -> NngTransport {
    NngTransport::new()
}

pub(crate) fn options(max_message: usize) -> Options {
    let mut options = Options::default();
    options.max_message = max_message;
    options
}

/// Returns the next message of a PULL; skips connection events.
pub(crate) fn message(pull: &dyn Pull) -> Vec<u8> {
    let mut buffer = Vec::new();
    loop {
        if let PullEvent::Message(_) = pull.receive(&mut buffer, soon()).unwrap() {
            return buffer;
        }
    }
}

/// Returns the next request of a REP; skips connection events.
pub(crate) fn request(reply: &dyn Reply, buffer: &mut Vec<u8>) -> Ticket {
    loop {
        if let ReplyEvent::Request(ticket) = reply.receive(buffer, soon()).unwrap() {
            return ticket;
        }
    }
}
