//! What the tests share: sockets in folders of their own, deadlines, a
//! watchdog.
// Clippy takes only functions with #[test] for tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use ekuiper_transport_nng::NngTransport;
use ekuiper_transport_uds::UdsTransport;
use tempfile::TempDir;

/// Long enough for a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}

pub(crate) fn past() -> Deadline {
    Some(Instant::now())
}

/// Runs a test, and ends the process when it hangs.
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

pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(&self, name: &str) -> Address {
        Address::new(self.0.path().join(name)).unwrap()
    }

    /// What is in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// Each pair that has libnng on at least one side.
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

/// The next message at a PULL; events before it are skipped.
pub(crate) fn message(pull: &dyn Pull) -> Vec<u8> {
    let mut buffer = Vec::new();
    loop {
        if let PullEvent::Message(_) = pull.receive(&mut buffer, soon()).unwrap() {
            return buffer;
        }
    }
}

/// The next request at a REP; events before it are skipped.
pub(crate) fn request(reply: &dyn Reply, buffer: &mut Vec<u8>) -> Ticket {
    loop {
        if let ReplyEvent::Request(ticket) = reply.receive(buffer, soon()).unwrap() {
            return ticket;
        }
    }
}
