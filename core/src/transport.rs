//! The contract of every transport: four patterns, and what each promises.
//!
//! | pattern | who uses it | does |
//! |---|---|---|
//! | [`Push`] | a source's data, a sink's data and acks | sends messages one way |
//! | [`Pull`] | the other ends of those | receives them |
//! | [`Request`] | a plugin's control and function channels | sends a request, gets its reply |
//! | [`Reply`] | the host's ends of those | receives requests, answers them |
//!
//! # Promises
//!
//! 1. **Whole messages, in order.** A message arrives whole or not at all, and
//!    those of one connection in the order in which they were sent.
//! 2. **Every wait ends.** A call with a deadline returns by then; a call
//!    without one ends when the socket is closed. [`Push::close`] and its
//!    namesakes may be called from any thread, end every wait with
//!    [`TransportError::Closed`], and may be called again. So may
//!    [`Pull::finish`] and [`Reply::finish`], which lose nothing that has
//!    arrived.
//! 3. **A deadline in the past** makes a call an attempt that does not wait.
//! 4. **Bad peers cost nothing.** Whoever speaks another protocol, another
//!    pattern, or nonsense is disconnected; the socket and its other peers go
//!    on. A message longer than [`Options::max_message`] ends its connection
//!    (at a [`Reply`], see [`ReplyEvent::Oversized`]); a claim of length costs
//!    no memory before the bytes arrive.
//! 5. **Backpressure.** A [`Push`] whose peers do not read blocks; nothing is
//!    dropped while a connection lives. What was accepted and not yet read is
//!    lost when the peer dies.
//! 6. **Fair.** A receiver with several connections takes from each in turn.
//! 7. **Reconnect.** A dialling socket connects again by itself, within 1 s of
//!    the listener's return, as soon as it is used. A listening socket greets
//!    whoever connects, even while nobody uses it.
//! 8. **Other people's files are safe.** A listener takes over a socket file
//!    only when nobody listens there, never another kind of file, and removes
//!    on closing only the file that it made.
//! 9. **Strangers get nothing.** With [`Options::admission`], a connection of a
//!    process that is not admitted is closed before anything is read from it,
//!    and no event tells of it. A dialling socket closes a connection to such
//!    a listener, and dials again.
//! 10. **A limit on connections.** A listening socket that has
//!     [`Options::max_connections`] closes the oldest that has not sent a whole
//!     message for the next one that comes, and that one if there is none.
//!
//! One thread at a time may receive on a socket: a second one gets
//! [`TransportError::Misuse`]. Sending from several threads is fine, also while
//! another receives; only a [`Request`] waits with that until the other has its
//! reply.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::sp::Backtrace;

/// The result of a transport's operations.
pub type Result<T, E = TransportError> = std::result::Result<T, E>;

/// When a wait ends. `None`: only with the socket's closing. In the past: at
/// once.
pub type Deadline = Option<Instant>;

/// A way to carry the four patterns.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Its name, as `--transport` and the launch options spell it.
    fn name(&self) -> &'static str;

    /// A socket that sends one way.
    ///
    /// # Errors
    /// When listening: the address is in use, is not a socket, or cannot be
    /// written. Dialling does not fail for want of a listener.
    fn push(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Push>>;

    /// A socket that receives what [`Push`] sockets send.
    ///
    /// # Errors
    /// As [`Transport::push`].
    fn pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Pull>>;

    /// A socket that dials `address` and sends requests there.
    ///
    /// # Errors
    /// Of the operating system, when no socket can be made.
    fn request(&self, address: &Address, options: &Options) -> Result<Box<dyn Request>>;

    /// A socket that listens at `address` and answers requests.
    ///
    /// # Errors
    /// The address is in use, is not a socket, or cannot be written.
    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>>;
}

/// Where a one-way socket is, and which side opens the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Wait for connections at this address.
    Listen(Address),
    /// Connect to this address, again and again.
    Dial(Address),
}

impl Endpoint {
    /// The address, whoever opens the connection.
    pub fn address(&self) -> &Address {
        match self {
            Self::Listen(address) | Self::Dial(address) => address,
        }
    }
}

/// What can be set on a socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The longest message that is sent or received, in bytes. Default: 64 MiB.
    pub max_message: usize,
    /// How long a peer may pause in the middle of a message, in either
    /// direction, before its connection is closed. Default: 10 s.
    pub stall_timeout: Duration,
    /// After how long an unanswered request is sent again, and whether it is
    /// sent again on a new connection. Default: never; a repeated request is
    /// how one command gets two answers (fault 4).
    pub retry: Option<Duration>,
    /// For how long at most whoever waits for a message, or for room for the
    /// rest of a long one, looks for it again and again before it sleeps; zero:
    /// it sleeps at once. A transport looks less long, or not at all, where that
    /// has not paid lately. Default: 20 µs.
    pub spin: Duration,
    /// Which processes may be at the other end. Default: all that can reach the
    /// socket file.
    pub admission: Option<Arc<dyn Admission>>,
    /// How many connections a listening socket may have. Default: 128.
    pub max_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_message: 64 << 20,
            stall_timeout: Duration::from_secs(10),
            retry: None,
            spin: Duration::from_micros(20),
            admission: None,
            max_connections: 128,
        }
    }
}

/// Which processes may be the peers of a socket.
///
/// A socket asks once for each connection, when it is made, while the process
/// that made it most likely lives: where it listens, about the process that
/// connected; where it dials, about the one that listens. It asks on whichever
/// thread makes the connection, and others wait meanwhile: an answer should
/// take microseconds.
pub trait Admission: Send + Sync + fmt::Debug {
    /// Whether this process may be a peer.
    fn admits(&self, process: PeerProcess) -> bool;
}

/// The process at the other end of a connection, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerProcess {
    /// Its number (`SO_PEERCRED`).
    Pid(u32),
    /// It is in a pid namespace that cannot be seen from here, and has no number
    /// here. Linux 6.9 and later tell such processes apart by another number
    /// (the inode of a pidfd), which no two processes have before the machine's
    /// next start; `None` where the kernel or the transport does not.
    Elsewhere(Option<u64>),
}

/// For how long a message that was [posted](Push::post) may wait for company.
pub const LINGER: Duration = Duration::from_micros(100);

/// One connection of one socket; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A request that can be answered: where it came from, and which it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The connection that the request arrived on, and its answer goes to.
    pub connection: ConnectionId,
    /// How many requests the socket had received before it: a later request
    /// has a higher serial.
    pub serial: u64,
    /// What the answer must carry, byte for byte. A request that its sender
    /// repeats has the same one, each other request of the connection another.
    pub backtrace: Backtrace,
}

/// Sends messages one way, in turn to each peer that takes them.
pub trait Push: Send + Sync {
    /// Waits until there is a peer.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn connect(&self, deadline: Deadline) -> Result<()>;

    /// Sends a message as soon as there is a peer that takes it. One that is
    /// being taken when the deadline passes is finished in the background.
    ///
    /// # Errors
    /// [`TransportError::Timeout`]: nothing of it was sent.
    /// [`TransportError::TooLong`]: nothing of it was sent, the connection
    /// lives. [`TransportError::Disconnected`]: the peer went away in the
    /// middle of it.
    fn send(&self, body: &[u8], deadline: Deadline) -> Result<()>;

    /// Sends a message that may wait a moment for company: under load, several
    /// leave together. It leaves with the next [`send`](Push::send),
    /// [`dispatch`](Push::dispatch) or [`flush`](Push::flush), when enough has
    /// gathered, or by itself within [`LINGER`]; after a pause, at once.
    ///
    /// Default: as [`send`](Push::send), which every transport may keep.
    ///
    /// # Errors
    /// As [`send`](Push::send). What had been posted and has not left when the
    /// peer goes away is lost with what it had not read.
    fn post(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        self.send(body, deadline)
    }

    /// Lets go at once of what was [posted](Push::post).
    ///
    /// # Errors
    /// As [`send`](Push::send).
    fn dispatch(&self, deadline: Deadline) -> Result<()> {
        let _ = deadline;
        Ok(())
    }

    /// Waits until the peers' side has read all that was sent, as far as the
    /// transport can see: at least until it left this process.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn flush(&self, deadline: Deadline) -> Result<()>;

    /// How it stands with what was sent; costs system calls, and does not wait.
    ///
    /// Default: nothing is known, which every transport may keep.
    fn backlog(&self) -> Backlog {
        Backlog::default()
    }

    /// Ends every wait and closes all connections. What was posted leaves
    /// before, as far as it can without waiting.
    fn close(&self);
}

/// How it stands with what a [`Push`] has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many connections there have been, the one that is being made
    /// included. When it grows, an earlier one has ended, and what its peer
    /// had not read is lost.
    pub connections: u64,
    /// How much the peers have not read. In the system's own measure, with its
    /// overhead: only whether it is zero, and whether it falls, says
    /// something. `None`: unknown.
    pub unread: Option<u64>,
}

/// What a [`Pull`] has to tell. A peer that has come and gone while nobody
/// received is told of as well, its coming and then its going: that is how an
/// engine learns that a source ended at once. Of more than a hundred such
/// peers, some may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullEvent {
    /// A message; it is in the buffer.
    Message(ConnectionId),
    /// A peer has come.
    Connected(ConnectionId),
    /// A peer has gone; all that came from it whole has been delivered.
    Disconnected(ConnectionId),
}

/// Receives what [`Push`] sockets send.
pub trait Pull: Send + Sync {
    /// The next message or event. A message replaces what `buffer` holds.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent>;

    /// A descriptor that polls readable when there may be something to
    /// receive; `None` when the transport has none.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// A duplicate of a connection's descriptor. Whoever has it sees what is
    /// unread when this process has died; it does not keep a connection open
    /// that is closed in order. `None` when the connection is gone, or the
    /// transport has none.
    fn descriptor(&self, connection: ConnectionId) -> Option<OwnedFd> {
        let _ = connection;
        None
    }

    /// Removes the socket file at once, where this socket listens: nobody new
    /// can connect, and another process can listen at the address. All else
    /// goes on: the peers that have connected before, one that was not accepted
    /// yet included, and what they send.
    fn stop_listening(&self);

    /// [Stops listening](Pull::stop_listening), and asks each peer that has
    /// connected to close its connection, so that it sends its next message to
    /// whoever listens at the address next. Waits until they have done so, at
    /// most until `deadline`. What they have sent before is received still.
    /// Nobody else is kept from receiving meanwhile.
    ///
    /// Default: nobody is asked, which a transport may keep whose connections
    /// cannot be closed in one direction.
    fn hand_over(&self, deadline: Deadline) {
        let _ = deadline;
        self.stop_listening();
    }

    /// No more will be waited for: the other side's process has ended. What
    /// has arrived is still received; then every wait, one that is under way
    /// included, ends with [`TransportError::Closed`]. A transport that reads
    /// in the background may wait up to 100 ms for what is on its way.
    /// Connections are not closed.
    fn finish(&self);

    /// Ends every wait and closes all connections.
    fn close(&self);
}

/// Sends requests, one at a time, and receives their replies.
///
/// A request belongs to a connection: what was meant for one host process
/// never reaches its successor (fault 4).
pub trait Request: Send + Sync {
    /// Waits for a connection. While it lives, it is the same one.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn connect(&self, deadline: Deadline) -> Result<ConnectionId>;

    /// Sends a request on `connection`. An earlier one that has no reply yet
    /// is cancelled: its reply will be dropped. While another thread waits in
    /// [`receive`](Request::receive), this waits for the end of that, at most
    /// until the deadline: it does not take a reply away from anybody.
    ///
    /// # Errors
    /// [`TransportError::Disconnected`] when `connection` is gone,
    /// [`TransportError::TooLong`], [`TransportError::Timeout`].
    fn send(&self, connection: ConnectionId, body: &[u8], deadline: Deadline) -> Result<()>;

    /// The reply to the latest request; it replaces what `buffer` holds.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] when no request is out.
    /// [`TransportError::Disconnected`] when its connection ended, unless
    /// [`Options::retry`] is set. [`TransportError::Timeout`]: the request is
    /// cancelled.
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()>;

    /// Ends every wait and closes the connection.
    fn close(&self);
}

/// What a [`Reply`] has to tell. Peers that have come and gone while nobody
/// received are told of as at a [`Pull`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyEvent {
    /// A request; its body is in the buffer.
    Request(Ticket),
    /// A request that is longer than [`Options::max_message`]. Its body was
    /// skipped, and the connection lives.
    Oversized(Ticket, u64),
    /// A peer has come.
    Connected(ConnectionId),
    /// A peer has gone; all that came from it whole has been delivered.
    Disconnected(ConnectionId),
}

/// Receives requests and answers them.
pub trait Reply: Send + Sync {
    /// The next request or event. A request replaces what `buffer` holds.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<ReplyEvent>;

    /// Answers a request.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] when it was answered already, or the same
    /// connection has sent a later one. [`TransportError::Disconnected`] when
    /// its connection is gone. [`TransportError::TooLong`],
    /// [`TransportError::Timeout`]: nothing was sent, and it can be answered
    /// still.
    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()>;

    /// A descriptor that polls readable when there may be something to
    /// receive; `None` when the transport has none.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// No more will be waited for: the other side's process has ended. What
    /// has arrived is still received; then every wait, one that is under way
    /// included, ends with [`TransportError::Closed`]. A transport that reads
    /// in the background may wait up to 100 ms for what is on its way.
    /// Connections are not closed.
    fn finish(&self);

    /// Ends every wait and closes all connections.
    fn close(&self);
}

/// What a socket cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The deadline passed.
    #[error("timed out")]
    Timeout,
    /// The socket was closed on this side.
    #[error("the socket is closed")]
    Closed,
    /// The peer went away.
    #[error("the other side closed the connection")]
    Disconnected,
    /// The call does not fit the socket's state.
    #[error("the socket is not in a state for this: {0}")]
    Misuse(&'static str),
    /// The message is longer than the limit.
    #[error("a message of {length} bytes is longer than the limit of {max}")]
    TooLong {
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Somebody listens at the address already.
    #[error("{0} is in use by a live process: stop it, or choose another socket folder")]
    AddressInUse(Address),
    /// The address is the path of something that is not a socket.
    #[error("{0} exists and is not a socket: it is left alone; remove it, or choose another socket folder")]
    NotASocket(Address),
    /// The operating system or the library refused.
    #[error("cannot {action} {address}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        address: Address,
        /// Why not.
        source: std::io::Error,
    },
}
