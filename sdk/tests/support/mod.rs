//! The host's side, with raw transport sockets: starts the plugin `unruly` and
//! talks to it. Every wait has a deadline, and every test a watchdog.
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
pub use plugin::{Plugin, exit_of};

use ekuiper_core::transport::Deadline;

/// How long anything may take: far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}

/// Waits until `done`, looking often: for what has no event to wait for.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of a journal, none when there is none.
pub fn journal(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Ends a test that hangs in spite of all deadlines.
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
