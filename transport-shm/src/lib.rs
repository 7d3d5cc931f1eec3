//! The transport through shared memory, between this project's host and SDK.
//!
//! A connection is a Unix socket at the usual address, and memory beside it
//! with one ring per direction. The listening side makes the memory, seals its
//! length and passes it over the socket, which then only wakes sleepers and
//! tells each side that the other one has gone. The sockets of the four
//! patterns are those of `ekuiper-transport-uds` on this medium. Modules:
//!
//! - `memory`: the layout, and the only code that touches shared memory;
//! - `ring`: the ends of one ring, which check the peer's indices;
//! - `lane`: both rings of a connection, and how its sides wake each other;
//! - `stream`: the connection, and how the memory gets to the other side;
//! - `watcher`: notices that a peer has gone.

#[cfg(not(target_os = "linux"))]
compile_error!("shared memory needs Linux: leave the feature \"shm\" out on other systems");

mod lane;
mod memory;
mod ring;
mod stream;
mod watcher;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Request, Result, Transport};
use ekuiper_transport_ipc::wait::io_error;
use ekuiper_transport_uds::stream::{self as sockets, Medium};

use crate::stream::SharedMemory;

/// The transport through shared memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShmTransport;

impl ShmTransport {
    /// Creates the transport, which has no state of its own.
    pub fn new() -> Self {
        Self
    }

    /// Whether shared memory can be made in this process: a sandbox may forbid
    /// it.
    pub fn is_available() -> bool {
        memory::Memory::create().is_ok()
    }

    /// Number of connections of this process that were closed because the peer
    /// has set an index that it cannot have: it is broken or hostile.
    pub fn bad_indices() -> u64 {
        lane::bad_indices()
    }
}

/// The medium of the socket at `address`.
fn medium(address: &Address) -> Result<&'static dyn Medium> {
    watcher::start().map_err(|error| io_error("create a socket for", address, error))?;
    Ok(&SharedMemory)
}

impl Transport for ShmTransport {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn push(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Push>> {
        sockets::push(endpoint, options, medium(endpoint.address())?)
    }

    fn pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Pull>> {
        sockets::pull(endpoint, options, medium(endpoint.address())?)
    }

    fn request(&self, address: &Address, options: &Options) -> Result<Box<dyn Request>> {
        sockets::request(address, options, medium(address)?)
    }

    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>> {
        sockets::reply(address, options, medium(address)?)
    }
}
