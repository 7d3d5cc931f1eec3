//! The eKuiper portable-plugin protocol, without any I/O.
//!
//! What lives here: the [messages](message) that engine and plugin exchange and
//! the [codecs](codec) that write their values,
//! the [addresses](address) of their channels, the plugin's [manifest] and
//! [launch options](launch), the SP wire format as [state machines](sp), the
//! [inverted request/reply conversation](exchange), the
//! [contract](transport) that every transport keeps, when a crashed process
//! is [started again](restart), and how repeated log lines are
//! [held back](throttle).
//!
//! What does not: sockets, threads, clocks and processes. Whatever depends on
//! time is handed an [`Instant`](std::time::Instant) by its caller.
//!
//! Comments here and in the other crates number faults of eKuiper's engine and
//! SDKs that must not happen here: the list is in the guide,
//! `docs/src/faults.md`.

pub mod address;
pub mod codec;
mod error;
pub mod exchange;
mod json;
pub mod launch;
pub mod manifest;
pub mod message;
pub mod restart;
pub mod sp;
pub mod text;
pub mod throttle;
pub mod transport;

pub use error::{Error, Result};
