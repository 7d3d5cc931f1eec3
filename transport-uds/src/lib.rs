//! The transport over Unix domain sockets: SP framing in pure Rust,
//! wire-compatible with libnng and mangos.
//!
//! No thread stands between a caller and its socket: whoever sends writes to
//! it, whoever receives reads from it, and dials while it waits. Only
//! newcomers at a listener are greeted by a thread, one per process; another
//! lets go of what was posted and got no company in time; and what is left of
//! a long message when its sender's time is up has one of its own.
//! What lives where:
//!
//! - `dial`, `listen`, `acceptor`: making connections;
//! - `link`, `finish`: writing frames to one connection, reading bytes from it;
//! - `outbox`, `flusher`: frames that wait for company;
//! - `inbox`: receiving from many connections in turn;
//! - `spin`: looking for what is about to come, before sleeping;
//! - `push`, `pull`, `request`, `reply`: the four patterns.
//!
//! Which socket file may be taken over or removed, and how waits end, is in
//! `ekuiper-transport-ipc`, for every transport alike.

mod acceptor;
mod dial;
mod finish;
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

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Request, Result, Transport};

/// SP over Unix domain sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdsTransport;

impl UdsTransport {
    /// The transport; it has no state of its own.
    pub fn new() -> Self {
        Self
    }
}

impl Transport for UdsTransport {
    fn name(&self) -> &'static str {
        "uds"
    }

    fn push(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Push>> {
        Ok(Box::new(push::UdsPush::new(endpoint, options)?))
    }

    fn pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Pull>> {
        Ok(Box::new(pull::UdsPull::new(endpoint, options)?))
    }

    fn request(&self, address: &Address, options: &Options) -> Result<Box<dyn Request>> {
        Ok(Box::new(request::UdsRequest::new(address, options)?))
    }

    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>> {
        Ok(Box::new(reply::UdsReply::new(address, options)?))
    }
}
