//! A host on raw transport sockets, which starts the plugin `unruly` and talks to
//! it. Every wait has a deadline, and every test a watchdog.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

pub mod build;
pub mod channels;
pub mod plugin;
pub mod processes;

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use channels::{Asked, Channel, drain};
pub use ekuiper_conformance::wait_until;
pub use plugin::{Plugin, exit_of};

use ekuiper_core::transport::Deadline;

/// The deadline of every wait, far longer than any takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}

/// The lines of a journal; empty if it does not exist.
pub fn journal(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Ends a test that hangs despite all deadlines.
pub struct Watchdog(mpsc::Sender<()>);

pub fn watchdog() -> Watchdog {
    let (alive, over) = mpsc::channel::<()>();
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    std::thread::spawn(move || {
        if over.recv_timeout(PATIENCE * 4) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name} hangs");
            std::process::abort();
        }
    });
    Watchdog(alive)
}
