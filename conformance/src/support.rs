//! Support of a transport's own tests: a folder for its sockets, a watchdog, and
//! the next message.

use std::path::Path;
use std::sync::mpsc;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Pull, PullEvent, Reply, ReplyEvent, Ticket};

use crate::{PATIENCE, soon};

/// A folder for sockets that no other user can enter; removed on drop.
#[derive(Debug)]
pub struct TestFolder(tempfile::TempDir);

impl TestFolder {
    /// Creates the folder.
    pub fn new() -> Self {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        Self(tempfile::Builder::new().permissions(mode).tempdir().unwrap())
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The address of this name in the folder.
    pub fn at(&self, name: &str) -> Address {
        Address::new(self.0.path().join(name)).unwrap()
    }

    /// The names of the files in the folder.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Default for TestFolder {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a test, and ends the process if the test hangs.
pub fn watched(test: impl FnOnce()) {
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

/// Receives the next message of a PULL; skips connection events.
pub fn message(pull: &dyn Pull) -> Vec<u8> {
    let mut buffer = Vec::new();
    loop {
        if let PullEvent::Message(_) = pull.receive(&mut buffer, soon()).unwrap() {
            return buffer;
        }
    }
}

/// Receives the next request of a REP; skips connection events.
pub fn request(reply: &dyn Reply, buffer: &mut Vec<u8>) -> Ticket {
    loop {
        if let ReplyEvent::Request(ticket) = reply.receive(buffer, soon()).unwrap() {
            return ticket;
        }
    }
}
