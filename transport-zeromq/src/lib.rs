//! The transport on ZMTP: ROUTER and DEALER sockets of the `zeromq` crate, a
//! pure Rust library, between our host and our SDK.
//!
//! It is not the wire of eKuiper, of the official SDKs, or of the transports
//! `uds` and `nng`: both ends must use it. Who listens is a ROUTER, who dials
//! a DEALER, at the same socket files as the other transports' sockets. What
//! ZeroMQ's patterns do not promise is ours: a greeting, ids, a window
//! of what may be under way, a goodbye, and connecting again. What lives where:
//!
//! - `engine`: the process's one thread, with a tokio runtime, that starts
//!   with the first socket;
//! - `words`: what the two ends say to each other;
//! - `hub`, `peer`: what callers and a socket's task share, and where callers
//!   wait;
//! - `listen`, `dial`: the tasks;
//! - `folder`: where sockets may be;
//! - `socket`, `push`, `pull`, `request`, `reply`: the four patterns.
//!
//! # What the `zeromq` crate does, version 0.7.0
//!
//! Found in its source, and why this crate is as it is:
//!
//! - **A peer can end the process.** `ZmqCodec::decode` reserves what a frame
//!   claims before its bytes come (`src.reserve`); a claim of 2⁵⁰ bytes is one
//!   that the allocator refuses, which aborts. Only a claim of 2⁶³ bytes or so
//!   is an error. There is no limit of a message's size or of its frames.
//!   Hence sockets only in a folder that nobody else can enter: any other is
//!   an error.
//! - **PUSH does not wait for a peer** (`ZmqError::ReturnToSender`), **and queues
//!   100,000 messages for one that does not read** (`PEER_SEND_QUEUE_CAPACITY`,
//!   per peer), of any length. A PULL does not tell who comes, who goes, and
//!   whose a message is. Hence ROUTER and DEALER, and a window: no
//!   more than 512 messages, or 1 MiB and what the last message exceeds that
//!   by, are under way to a peer that has not taken them.
//! - **Nobody connects again** but SUB and XSUB; `connect` waits up to 30 s
//!   between two attempts. Hence a DEALER for each connection, and a look at
//!   the file between attempts.
//! - **A listener removes its path by name**, some time after it was dropped,
//!   whoever listens there by then. Hence sockets are bound under another name,
//!   which is there for a moment only, and moved to their address.
//! - What it tells of connections goes through a queue of 1,024 and is lost when
//!   that is full; who is connected is asked again then.
//!
//! # Where it does less than the contract
//!
//! `tests/conformance` runs the contract's part of the suite, and shows what
//! happens instead in each of these cases.
//!
//! - A frame that claims more than there is memory ends the process, as above,
//!   and whatever it claims is reserved. A message longer than
//!   [`Options::max_message`] is found out when it has arrived whole.
//! - Who connects and says nothing stays until it goes.
//!   [`Options::stall_timeout`] has no effect: the rest of a message is waited
//!   for as long as the connection lives. A send still ends at its deadline.
//! - A process that has no descriptors left accepts nobody, as it should, but
//!   keeps trying without a pause: the thread is busy until there is one.
//! - What was sent is with this transport's thread first: a process that is
//!   killed takes with it what has not been written. [`Push::flush`] waits until
//!   the peers have taken everything, and closing (or dropping) a socket waits
//!   up to a second until they have received it.
//! - When a connection breaks while something is being written to it, what its
//!   peer had sent and was not read yet may be lost.
//! - [`Options::admission`] is not asked: the crate accepts connections itself
//!   and shows neither their descriptors nor their processes. Whoever can enter
//!   the folder, which is every process of its user, can be a peer.
//! - Of the connections beyond [`Options::max_connections`] the one that comes
//!   is closed, also where others have sent nothing. Those that have not said
//!   their first word are not counted.
//! - [`Options::spin`] has no effect.

mod dial;
mod engine;
mod flag;
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

/// ZMTP through the `zeromq` crate.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeromqTransport;

impl ZeromqTransport {
    /// The transport. Its thread starts with the first socket.
    pub fn new() -> Self {
        Self
    }
}

/// An address in a folder that others can enter is an error of the kind
/// `PermissionDenied`, for who listens as for who dials.
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
        Ok(Box::new(request::ZeromqRequest::new(address, options)?))
    }

    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>> {
        Ok(Box::new(reply::ZeromqReply::new(address, options)?))
    }
}
