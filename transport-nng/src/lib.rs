//! The transport on libnng: the reference for the wire, through the `nng`
//! crate, which builds the libnng 1.4.0 that it brings.
//!
//! The bytes are those of `ekuiper-transport-uds`; either talks to the other.
//! Callers send and receive by attempts that do not wait, and wait for
//! libnng's own descriptors in between, so that a deadline and a closing end
//! every wait. libnng's threads only note who comes and goes. What lives where:
//!
//! - `endpoint`: making and closing sockets;
//! - `listen`, `watch`: listening without touching other people's files, and
//!   keeping at it;
//! - `dial`, `census`: connecting again and again;
//! - `ffi`, `flag`: what is waited for;
//! - `gatekeeper`: which connections are taken;
//! - `roster`: who is connected, in step with the messages;
//! - `inbox`: receiving messages and events in order;
//! - `line`, `outlets`: sending, with a socket for each connection;
//! - `push`, `pull`, `request`, `reply`: the four patterns.
//!
//! # Where libnng does less than the contract
//!
//! `tests/conformance` runs the suite of every transport, and shows what
//! happens instead in each of these cases.
//!
//! - [`Options::stall_timeout`] has no effect: libnng waits for the rest of a
//!   message, and for a reader, as long as the connection lives. A send still
//!   ends at its deadline.
//! - A message that a frame only claims is reserved at once, as address space;
//!   [`Options::max_message`] is 4 GiB less a byte at most.
//! - [`Options::admission`] is asked once a peer's header has come: a process
//!   that sends none keeps its connection for 10 s, and costs a descriptor.
//!   Of the connections beyond [`Options::max_connections`] the one that comes
//!   is closed, also where others have sent nothing.
//! - A header that arrives piece by piece may take 10 s per piece, not 10 s in
//!   all.
//! - A request that is longer than [`Options::max_message`] is told as
//!   [`ReplyEvent::Oversized`](ekuiper_core::transport::ReplyEvent::Oversized)
//!   up to twice that length (and up to 1 MiB more, if that is longer), since
//!   libnng must take it whole to get past it. A longer one ends its
//!   connection, as every message that is too long does elsewhere.
//! - A peer whose reply carries no request id is disconnected; only a reply to
//!   another request is dropped.
//! - Messages of any length are taken whole: one at a time waits to be written
//!   for each connection, and the receiving side reads one ahead.
//! - A [`Push`] that listens gives each connection a socket of libnng's own.
//!   Whoever comes in the same moment as another is disconnected once, and has
//!   to dial again, as all libraries do. A peer whose last message is still
//!   being written is passed over.
//! - A [`Pull`] takes from each peer in turn what libnng's threads have read by
//!   then: beside a flood that is not the very next turn.
//! - Who connects is let in, though nobody uses the socket.
//! - [`Push::flush`] waits until the kernel has the messages, not until they
//!   were read. [`Push::send`] does not learn that a peer went away in the
//!   middle of a message.
//! - An answer of [`Reply::send`] is handed to libnng, which queues 64 of them
//!   for a peer that does not read and drops what exceeds that; answers that
//!   have not been written yet when the socket is closed are lost.
//! - libnng 1.4 stops accepting when somebody connects and is gone before its
//!   first word. This is noticed within three seconds and mended; whoever has
//!   connected meanwhile is disconnected then, and what it has sent is lost.
//!   A process that listens therefore wakes twice a second.
//! - A [`Push`] that listens may send a peer away that connects in the same
//!   moment as another one; it dials again.
//! - Who connects, sends and is gone before libnng's first word, is not heard.
//! - When a peer resets its connection (it ends with data of ours unread),
//!   libnng may drop what it has not read of that peer's.

mod census;
mod dial;
mod endpoint;
mod ffi;
mod flag;
mod gatekeeper;
mod inbox;
mod line;
mod listen;
mod outlets;
mod pull;
mod push;
mod reply;
mod request;
mod roster;
mod watch;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Request, Result, Transport};

/// SP through libnng.
#[derive(Clone, Copy, Debug, Default)]
pub struct NngTransport;

impl NngTransport {
    /// The transport. libnng starts its threads with the first socket.
    pub fn new() -> Self {
        Self
    }
}

impl Transport for NngTransport {
    fn name(&self) -> &'static str {
        "nng"
    }

    fn push(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Push>> {
        Ok(Box::new(push::NngPush::new(endpoint, options)?))
    }

    fn pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Pull>> {
        Ok(Box::new(pull::NngPull::new(endpoint, options)?))
    }

    fn request(&self, address: &Address, options: &Options) -> Result<Box<dyn Request>> {
        Ok(Box::new(request::NngRequest::new(address, options)?))
    }

    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>> {
        Ok(Box::new(reply::NngReply::new(address, options)?))
    }
}
