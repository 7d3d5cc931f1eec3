//! The transport on libnng, the reference implementation of the wire format,
//! through the `nng` crate, which builds its bundled libnng 1.4.0.
//!
//! The wire format is that of `ekuiper-transport-uds`; the two interoperate.
//! Callers send and receive with non-blocking attempts, and wait on libnng's
//! own descriptors in between, so that a deadline and closing end every wait.
//! libnng's threads only record connection events. Modules:
//!
//! - `socket`, `endpoint`: creating and closing sockets;
//! - `listen`, `watch`, `arrivals`: listening without touching foreign files,
//!   and recovering a stuck listener;
//! - `dial`, `census`: connecting with retries;
//! - `ffi`: descriptors to wait on;
//! - `gatekeeper`: which connections are admitted;
//! - `roster`: connection events in order with messages;
//! - `inbox`: receiving messages and events in order;
//! - `line`, `outlets`: sending, with a socket for each connection;
//! - `push`, `pull`, `request`, `reply`: the four patterns.
//!
//! # Differences from the contract
//!
//! `tests/conformance` runs the suite of every transport, and shows the actual
//! behaviour in each of these cases.
//!
//! - [`Options::stall_timeout`] has no effect: libnng waits for the rest of a
//!   message, and for a reader, as long as the connection lives. A send still
//!   ends at its deadline.
//! - A length that a frame merely claims is reserved at once, as address space;
//!   [`Options::max_message`] is limited to 4 GiB less a byte.
//! - [`Options::admission`] is asked once a peer's header has arrived: a
//!   process that sends none keeps its connection for 10 s, and costs a
//!   descriptor. Above [`Options::max_connections`] the new connection is
//!   closed, even if others have sent nothing.
//! - A header that arrives in pieces may take 10 s per piece, not 10 s in
//!   total.
//! - A request that is longer than [`Options::max_message`] is reported as
//!   [`ReplyEvent::Oversized`](ekuiper_core::transport::ReplyEvent::Oversized)
//!   up to twice that length (and up to 1 MiB more, if that is longer), since
//!   libnng must receive the whole request to get past it. A longer one ends
//!   its connection, like every other message that is too long.
//! - A peer whose reply has no request id is disconnected; only a reply to
//!   another request is dropped.
//! - Messages of any length are accepted whole: for each connection one message
//!   waits to be written, and the receiver reads one ahead.
//! - A [`Push`] that listens gives each connection its own libnng socket. A
//!   peer that connects at the same moment as another one is disconnected once,
//!   and has to redial, as all libraries do. A peer whose last message is still
//!   being written is skipped.
//! - A [`Pull`] serves its peers in turn, but only with messages that libnng's
//!   threads have read by then: with a flooding peer, that is not the very next
//!   turn.
//! - A peer is connected even while no thread uses the socket.
//! - [`Push::flush`] waits until the kernel has the messages, not until they
//!   were read. [`Push::send`] does not learn that a peer went away in the
//!   middle of a message.
//! - An answer of [`Reply::send`] is handed to libnng, which queues 64 of them
//!   for a peer that does not read and drops any further ones; answers that
//!   have not been written when the socket is closed are lost.
//! - libnng 1.4 stops accepting when a peer connects and disconnects before
//!   libnng has sent its header. This is detected within three seconds and
//!   repaired by disconnecting the peers that have connected meanwhile; what
//!   they have sent is lost. Therefore a process that listens wakes twice a
//!   second.
//! - A [`Push`] that listens may disconnect a peer that connects at the same
//!   moment as another one; the peer redials.
//! - A peer that connects, sends and disconnects before libnng has sent its
//!   header is not received.
//! - When a peer resets its connection (it disconnects with unread data of
//!   ours), libnng may drop data of that peer that it has not read.

mod arrivals;
mod census;
mod dial;
mod endpoint;
mod ffi;
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
mod socket;
mod watch;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Request, Result, Transport};

/// The transport that speaks SP through libnng.
#[derive(Clone, Copy, Debug, Default)]
pub struct NngTransport;

impl NngTransport {
    /// Creates the transport. libnng starts its threads with the first socket.
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
        Ok(Box::new(request::NngRequest::socket(address, options)?))
    }

    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>> {
        Ok(Box::new(reply::NngReply::new(address, options)?))
    }
}
