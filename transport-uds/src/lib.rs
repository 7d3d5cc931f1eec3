//! The transport over Unix domain sockets: SP framing in pure Rust,
//! wire-compatible with libnng and mangos.
//!
//! There is no thread between a caller and its socket: a sender writes to the
//! socket, and a receiver reads from it and dials while it waits. Threads exist
//! only for three purposes: one per process exchanges headers with new
//! connections at its listeners, another one flushes posted messages whose
//! batching delay has expired, and a temporary one writes the rest of a long
//! message whose sender's deadline has passed. Modules:
//!
//! - `dial`, `listen`, `acceptor`: making connections;
//! - [`stream`]: what carries the bytes of a connection, the socket itself or a
//!   medium of another crate;
//! - `link`: writing frames to one connection, reading bytes from it;
//! - `outbox`, `flusher`: batches of posted frames;
//! - `inbox`: receiving from many connections in turn;
//! - `spin`: busy-polling before blocking;
//! - `push`, `pull`, `request`, `reply`: the four patterns.
//!
//! The rules for taking over and removing socket files, and the way in which
//! waits end, are in `ekuiper-transport-ipc`, shared by all transports.

mod acceptor;
mod dial;
mod flusher;
mod inbox;
mod link;
mod listen;
mod outbox;
mod peers;
mod pull;
mod push;
mod reply;
mod request;
mod spin;
pub mod stream;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Request, Result, Transport};
use ekuiper_transport_ipc::retained::{RetainedPull, RetainedTransport};

use crate::stream::Sockets;

/// The transport that speaks SP over Unix domain sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdsTransport;

impl UdsTransport {
    /// Creates the transport, which has no state of its own.
    pub fn new() -> Self {
        Self
    }
}

impl Transport for UdsTransport {
    fn name(&self) -> &'static str {
        "uds"
    }

    fn push(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Push>> {
        Ok(Box::new(push::UdsPush::new(endpoint, options, &Sockets)?))
    }

    fn pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Pull>> {
        Ok(Box::new(pull::UdsPull::new(endpoint, options, &Sockets)?))
    }

    fn request(&self, address: &Address, options: &Options) -> Result<Box<dyn Request>> {
        Ok(Box::new(request::UdsRequest::socket(address, options, &Sockets)?))
    }

    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>> {
        Ok(Box::new(reply::UdsReply::new(address, options, &Sockets)?))
    }
}

impl RetainedTransport for UdsTransport {
    fn retained_pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn RetainedPull>> {
        Ok(Box::new(pull::UdsPull::new(endpoint, options, &Sockets)?))
    }
}
