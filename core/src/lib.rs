//! The eKuiper portable-plugin protocol, without any I/O.
//!
//! Contents: the [messages](message) that engine and plugin exchange and the
//! [codecs](codec) that encode their values, the [addresses](address) of their
//! channels, the plugin's [manifest], its [description] of itself and its
//! [launch options](launch), the SP wire format as [state machines](sp), the
//! [inverted request/reply conversation](exchange), the transport
//! [contract](transport), the [restart policy](restart) of a crashed process,
//! the [rate limit](throttle) of repeated log lines, and the workspace's way to
//! [lock](sync).
//!
//! Not here: sockets, threads, clocks and processes. Code that depends on time
//! is given an [`Instant`](std::time::Instant) by its caller.
//!
//! Comments here and in the other crates number the faults of eKuiper's engine
//! and SDKs that must not happen here; the list is in the guide,
//! `docs/src/faults.md`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unnameable_types)]

pub mod address;
pub mod buffer;
mod chain;
pub mod codec;
#[cfg(feature = "arrow")]
pub mod columns;
pub mod description;
mod error;
pub mod exchange;
pub mod instant;
mod json;
pub mod launch;
pub mod manifest;
pub mod message;
pub mod printable;
mod request_id;
pub mod restart;
pub mod sp;
mod spelling;
pub mod sync;
pub mod text;
pub mod throttle;
pub mod transport;

pub use chain::{Chain, with_cause};
pub use error::{Error, Result};
