//! The transport on ZMTP, between this project's host and SDK: ROUTER and
//! DEALER sockets of the pure Rust `zeromq` crate.
//!
//! Its wire format is not that of eKuiper, of the official SDKs, or of the
//! transports `uds` and `nng`: both ends must use it. A listener is a ROUTER, a
//! dialler a DEALER, at the same socket files as other transports' sockets.
//! What ZeroMQ's patterns do not promise is added here: a greeting, ids, a
//! window for messages in flight, a goodbye, and reconnecting. Modules:
//!
//! - `engine`: the process's one thread, with a tokio runtime, which starts
//!   with the first socket;
//! - `words`: the messages between the two ends;
//! - `hub`, `peer`: the state that callers and a socket's task share, and where
//!   callers wait;
//! - `listen`, `dial`: the tasks;
//! - `folder`: where sockets may be;
//! - `socket`, `push`, `pull`, `request`, `reply`: the four patterns.
//!
//! # Properties of the `zeromq` crate, version 0.7.0
//!
//! Found in its source; they explain this crate's design:
//!
//! - **A peer can end the process.** `ZmqCodec::decode` reserves the length
//!   that a frame claims before its bytes arrive (`src.reserve`); the allocator
//!   refuses a claim of 2⁵⁰ bytes, which aborts the process. Only a claim of
//!   about 2⁶³ bytes is an error. Neither messages nor frames have a maximum
//!   size. Hence sockets only in a folder that no other user can enter: any
//!   other folder is an error.
//! - **PUSH does not wait for a peer** (`ZmqError::ReturnToSender`), **and
//!   queues 100,000 messages for one that does not read**
//!   (`PEER_SEND_QUEUE_CAPACITY`, per peer), of any length. A PULL reports
//!   neither connections nor the sender of a message. Hence ROUTER and DEALER,
//!   and a window: at most 512 messages, or 1 MiB plus the excess of the last
//!   message, are in flight to a peer that has not received them.
//! - **Only SUB and XSUB reconnect**; `connect` waits up to 30 s between two
//!   attempts. Hence a DEALER for each connection, and a check of the file
//!   between attempts.
//! - **A listener removes its path by name** some time after it was dropped,
//!   whichever process listens there by then. Hence sockets are bound under
//!   another name, which exists for a moment only, and moved to their address.
//! - Connection events go through a queue of 1,024 and are lost when that is
//!   full; the list of connections is then read again.
//!
//! # Differences from the contract
//!
//! `tests/conformance` runs the contract's part of the suite, and shows the
//! actual behaviour in each of these cases.
//!
//! - A frame that claims more than the available memory ends the process, as
//!   above, and any claimed length is reserved. A message longer than
//!   [`Options::max_message`] is detected when it has arrived whole.
//! - A peer that connects and sends nothing stays connected until it
//!   disconnects. [`Options::stall_timeout`] has no effect: the rest of a
//!   message is waited for as long as the connection lives. A send still ends
//!   at its deadline.
//! - A process without free descriptors accepts no peer, as it should, but
//!   retries without a pause: the thread is busy until there is one.
//! - Sent messages are first in this transport's thread: when a process is
//!   killed, those that have not been written are lost. [`Push::flush`] waits
//!   until the peers have received everything, and closing (or dropping) a
//!   socket waits up to a second for that.
//! - When a connection breaks during a write, messages of its peer that were
//!   not read yet may be lost.
//! - [`Options::admission`] is not asked: the crate accepts connections itself
//!   and exposes neither their descriptors nor their processes. Any process
//!   that can enter the folder, which is every process of its user, can be a
//!   peer.
//! - Above [`Options::max_connections`] the new connection is closed, even if
//!   others have sent nothing. Connections that have not sent their first word
//!   are not counted.
//! - [`Options::spin`] has no effect.

mod dial;
mod engine;
mod folder;
mod hub;
mod listen;
mod peer;
mod pull;
mod push;
mod reply;
mod request;
mod socket;
mod words;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Request, Result, Transport};

/// The transport that speaks ZMTP through the `zeromq` crate.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeromqTransport;

impl ZeromqTransport {
    /// Creates the transport. Its thread starts with the first socket.
    pub fn new() -> Self {
        Self
    }
}

/// Listening and dialling fail with an error of the kind `PermissionDenied` for
/// an address in a folder that others can enter.
impl Transport for ZeromqTransport {
    fn name(&self) -> &'static str {
        "zeromq"
    }

    fn push(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Push>> {
        Ok(Box::new(push::ZeromqPush::new(endpoint, options)?))
    }

    fn pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Pull>> {
        Ok(Box::new(pull::ZeromqPull::new(endpoint, options)?))
    }

    fn request(&self, address: &Address, options: &Options) -> Result<Box<dyn Request>> {
        Ok(Box::new(request::ZeromqRequest::socket(address, options)?))
    }

    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>> {
        Ok(Box::new(reply::ZeromqReply::new(address, options)?))
    }
}
