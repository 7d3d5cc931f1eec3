//! Every decoder of `ekuiper-core`, and shared memory, under arbitrary bytes, and
//! what must hold whatever those are: each function here panics when it does not.
//!
//! The fuzzer in `libfuzzer/` searches for such bytes, `tests/corpus.rs` runs
//! what it has found so far, and the program of this crate runs one file.

// All of it is test code.
#![allow(clippy::unwrap_used)]

mod backtrace;
mod columns;
mod connection;
mod exchange;
mod launch;
mod messages;
mod requester;
#[cfg(target_os = "linux")]
mod shared_memory;

pub use backtrace::backtrace;
pub use columns::columns;
pub use connection::connection;
pub use exchange::exchange;
pub use launch::{description, launch, manifest};
pub use messages::{ack, batch_reply, call, call_messagepack, command, hello, messagepack, reply, source};
pub use requester::requester;
#[cfg(target_os = "linux")]
pub use shared_memory::shared_memory;

/// Feeds one input to one decoder.
pub type Target = fn(&[u8]);

/// Every decoder there is, by its name; `corpus/` has a folder for each.
pub const TARGETS: [(&str, Target); 18] = [
    ("ack", ack),
    ("backtrace", backtrace),
    ("batch_reply", batch_reply),
    ("call", call),
    ("call_messagepack", call_messagepack),
    ("columns", columns),
    ("command", command),
    ("connection", connection),
    ("description", description),
    ("exchange", exchange),
    ("hello", hello),
    ("launch", launch),
    ("manifest", manifest),
    ("messagepack", messagepack),
    ("reply", reply),
    ("requester", requester),
    ("shared_memory", shared_memory),
    ("source", source),
];

/// Shared memory, which other systems do not have.
#[cfg(not(target_os = "linux"))]
pub fn shared_memory(_: &[u8]) {}

/// The decoder of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
