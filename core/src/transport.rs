//! The transport contract: four socket patterns, and what each one promises.
//!
//! | pattern | used for | role |
//! |---|---|---|
//! | [`Push`] | source data, sink data, sink acks | sends messages one way |
//! | [`Pull`] | the other end of a [`Push`] | receives messages |
//! | [`Request`] | a plugin's control and function channels | sends a request, receives its reply |
//! | [`Reply`] | the host's end of those channels | receives requests, answers them |
//!
//! # Promises
//!
//! 1. **Whole messages, in order.** A message arrives whole or not at all.
//!    Messages of one connection arrive in the order in which they were sent.
//! 2. **Every wait ends.** A call with a deadline returns by that deadline; a
//!    call without one ends when the socket is closed. `close` may be called
//!    from any thread and more than once, and ends every wait with
//!    [`TransportError::Closed`]. [`Pull::finish`] and [`Reply::finish`] may be
//!    called in the same way, and lose nothing that has arrived.
//! 3. **A deadline in the past** makes a call a single attempt that never
//!    blocks.
//! 4. **Bad peers cost nothing.** A peer that speaks another protocol, another
//!    pattern, or nonsense is disconnected; the socket and its other peers are
//!    not affected. A message longer than [`Options::max_message`] ends its
//!    connection (for a [`Reply`], see [`ReplyEvent::Oversized`]). A claimed
//!    length costs no memory before the bytes arrive.
//! 5. **Backpressure.** A [`Push`] blocks while its peers do not read; nothing
//!    is dropped while a connection lives. Messages that were accepted but not
//!    yet read are lost when the peer dies.
//! 6. **Fairness.** A receiver with several connections serves them in turn.
//! 7. **Reconnect.** A dialling socket that is in use reconnects by itself
//!    within 1 s after the listener returns. A listening socket completes the
//!    transport handshake with every peer that connects, even while no thread
//!    uses the socket.
//! 8. **Foreign files are safe.** A listener takes over a socket file only when
//!    no process listens on it, never takes over another kind of file, and on
//!    closing removes only the file that it made.
//! 9. **Unadmitted processes get nothing.** With [`Options::admission`], a
//!    connection from a process that is not admitted is closed before anything
//!    is read from it, and no event reports it. A dialling socket closes a
//!    connection to such a listener, and retries.
//! 10. **A limit on connections.** A listening socket that has reached
//!     [`Options::max_connections`] makes room for a new connection by closing
//!     the oldest one that has not sent a whole message. If there is none, the
//!     new connection is closed.
//!
//! One thread at a time may receive on a socket: a second one gets
//! [`TransportError::Misuse`]. Several threads may send at the same time, also
//! while another thread receives. A [`Request`] is the exception: its `send`
//! waits until a thread that is receiving has its reply.

use std::fmt;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::Address;
pub use crate::request_id::RequestId;

/// The result of a transport's operations.
pub type Result<T, E = TransportError> = std::result::Result<T, E>;

/// The instant at which a wait ends. `None`: only when the socket is closed. In
/// the past: at once, without blocking.
pub type Deadline = Option<Instant>;

/// A factory for sockets of the four patterns.
pub trait Transport: Send + Sync + fmt::Debug {
    /// The transport's name, as `--transport` and the launch options spell it.
    fn name(&self) -> &'static str;

    /// Creates a socket that sends one way.
    ///
    /// # Errors
    /// When listening: the address is in use, is not a socket, or cannot be
    /// written. Dialling does not fail because no listener is there.
    fn push(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Push>>;

    /// Creates a socket that receives what [`Push`] sockets send.
    ///
    /// # Errors
    /// As [`Transport::push`].
    fn pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn Pull>>;

    /// Creates a socket that dials `address` and sends requests there.
    ///
    /// # Errors
    /// The operating system's error when no socket can be created.
    fn request(&self, address: &Address, options: &Options) -> Result<Box<dyn Request>>;

    /// Creates a socket that listens at `address` and answers requests.
    ///
    /// # Errors
    /// The address is in use, is not a socket, or cannot be written.
    fn reply(&self, address: &Address, options: &Options) -> Result<Box<dyn Reply>>;
}

/// The address of a one-way socket, and which side opens the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Listen at this address.
    Listen(Address),
    /// Dial this address, and reconnect whenever the connection ends.
    Dial(Address),
}

impl Endpoint {
    /// The address, for listening and dialling alike.
    pub fn address(&self) -> &Address {
        match self {
            Self::Listen(address) | Self::Dial(address) => address,
        }
    }
}

/// Whether the transport of this name speaks SP, as eKuiper does. The others, of
/// this project alone, each have a wire protocol of their own.
pub fn speaks_sp(transport: &str) -> bool {
    !["zeromq", "shm"].contains(&transport)
}

/// Adds a message to the one before it, in place, if both can be one of the same
/// length; returns whether it did. See [`Push::post_merged`].
pub type Merge = fn(last: &mut [u8], next: &[u8]) -> bool;

/// Maximum time to busy-poll: a deadline that passes meanwhile is noticed after
/// it.
pub const MAX_SPIN: Duration = Duration::from_millis(10);

/// Socket options.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Maximum length of a sent or received message, in bytes. Default: 64 MiB.
    pub max_message: usize,
    /// Maximum pause of a peer in the middle of a message, in either direction,
    /// before its connection is closed. Default: 10 s.
    pub stall_timeout: Duration,
    /// Time after which an unanswered request is sent again; when set, a
    /// request is also sent again on a new connection. Default: never, because
    /// a repeated request is how one command gets two answers (fault 4).
    pub retry: Option<Duration>,
    /// Maximum time to busy-poll before blocking, when waiting for a message or
    /// for room for the rest of a long one. Zero disables spinning. A transport
    /// spins for less time, or not at all, where spinning has not paid off
    /// recently; and for up to 30 µs more, a few times, where the peer seems to
    /// need that to wake up and then to spin as well. Default: 20 µs; more than
    /// [`MAX_SPIN`] counts as that.
    pub spin: Duration,
    /// Decides which processes may be peers. Default: every process that can
    /// reach the socket file.
    pub admission: Option<Arc<dyn Admission>>,
    /// Maximum number of connections of a listening socket. Default: 128.
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

/// A rule for which processes may be peers of a socket.
///
/// A socket asks once per connection, when the connection is made, since the
/// process that made it is then most likely alive. A listening socket asks
/// about the process that connected, a dialling socket about the process that
/// listens. The call runs on the thread that makes the connection and blocks
/// others meanwhile: it should take microseconds.
pub trait Admission: Send + Sync + fmt::Debug {
    /// Whether this process may be a peer.
    fn admits(&self, process: PeerProcess) -> bool;
}

/// The process at the other end of a connection, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerProcess {
    /// The process id (`SO_PEERCRED`).
    Pid(u32),
    /// A process in a pid namespace that is not visible from here, so that it
    /// has no process id here. Linux 6.9 and later identify such a process by
    /// the inode of its pidfd, which is unique until the machine reboots;
    /// `None` where the kernel or the transport does not support that.
    Elsewhere(Option<u64>),
}

/// Identifies one connection of one socket; never reused for another
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A request that can be answered: which request it was, and on which
/// connection it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The connection that the request arrived on and the answer goes to.
    pub connection: ConnectionId,
    /// The request's place in the order in which the socket received its
    /// requests: a later request has a higher serial.
    pub serial: u64,
    /// The request's identity. A request that its sender repeats has the same
    /// id; every other request of the connection has a different one.
    pub request: RequestId,
}

/// Sends messages one way, to its peers in turn.
pub trait Push: Send + Sync {
    /// Blocks until there is a peer.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn connect(&self, deadline: Deadline) -> Result<()>;

    /// Sends a message as soon as a peer has room for it. If the deadline
    /// passes in the middle of the message, the rest is written in the
    /// background.
    ///
    /// # Errors
    /// [`TransportError::Timeout`]: nothing was sent.
    /// [`TransportError::TooLong`]: nothing was sent, and the connection lives.
    /// [`TransportError::Disconnected`]: the peer went away in the middle of
    /// the message.
    fn send(&self, body: &[u8], deadline: Deadline) -> Result<()>;

    /// Sends a message that may be batched: under load, several messages are
    /// written together. A batch is flushed by the next [`send`](Push::send),
    /// [`dispatch`](Push::dispatch) or [`flush`](Push::flush), when it is full,
    /// or after at most 100 µs; 500 µs, if the batches before it were flushed
    /// sooner than that. A message that follows a pause is written at once.
    ///
    /// The default implementation calls [`send`](Push::send); a transport may
    /// keep it.
    ///
    /// # Errors
    /// As [`send`](Push::send). Posted messages that have not been written when
    /// the peer goes away are lost, as are those that the peer had not read.
    fn post(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        self.send(body, deadline)
    }

    /// [Posts](Push::post) a message, unless the message posted last has not
    /// been written and `merge` adds this one to it: the peer then receives one
    /// message for both.
    ///
    /// The default implementation calls [`post`](Push::post); a transport may
    /// keep it.
    ///
    /// # Errors
    /// As [`post`](Push::post).
    fn post_merged(&self, body: &[u8], merge: Merge, deadline: Deadline) -> Result<()> {
        let _ = merge;
        self.post(body, deadline)
    }

    /// [Posts](Push::post) these messages, in their order. `bodies` is asked for
    /// the next one when the one before is posted, and must not block: other
    /// senders wait meanwhile.
    ///
    /// The default implementation calls [`post`](Push::post); a transport may
    /// keep it.
    ///
    /// # Errors
    /// As [`post`](Push::post). What `bodies` gave last was not sent; what it
    /// gave before was posted.
    fn post_all(&self, bodies: &mut dyn Iterator<Item = &[u8]>, deadline: Deadline) -> Result<()> {
        for body in bodies {
            self.post(body, deadline)?;
        }
        Ok(())
    }

    /// Writes all [posted](Push::post) messages now, without waiting for the
    /// batching delay.
    ///
    /// # Errors
    /// As [`send`](Push::send).
    fn dispatch(&self, deadline: Deadline) -> Result<()> {
        let _ = deadline;
        Ok(())
    }

    /// Waits until the peers have read everything that was sent, as far as the
    /// transport can tell; at least until everything has left this process.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn flush(&self, deadline: Deadline) -> Result<()>;

    /// Returns what polls writable when a message that timed out may have room.
    ///
    /// The default implementation knows of nothing; a transport may keep it.
    #[cfg(unix)]
    fn room(&self) -> Option<Arc<dyn AsFd + Send + Sync>> {
        None
    }

    /// Reports what was sent and not read yet. Costs system calls, and never
    /// blocks.
    ///
    /// The default implementation reports that nothing is known; a transport
    /// may keep it.
    fn backlog(&self) -> Backlog {
        Backlog::default()
    }

    /// Ends every wait and closes all connections. Posted messages are written
    /// first, as far as that does not block.
    fn close(&self);
}

/// The connections of a [`Push`], and how much their peers have not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of connections made so far, including one that is being made.
    /// When it grows, an earlier connection has ended, and what its peer had
    /// not read is lost.
    pub connections: u64,
    /// Amount of sent data that the peers have not read. The unit is the
    /// kernel's and includes its overhead: only whether the value is zero, and
    /// whether it falls, is meaningful. `None`: unknown.
    pub unread: Option<u64>,
}

/// An event of a [`Pull`]. A peer that connected and disconnected while no
/// thread received is reported as well, first as connected and then as
/// disconnected: that is how an engine learns that a source ended at once. Of
/// more than a hundred such peers, some may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullEvent {
    /// A message arrived; its body is in the buffer.
    Message(ConnectionId),
    /// A peer connected.
    Connected(ConnectionId),
    /// A peer disconnected; every whole message that it sent has been
    /// delivered.
    Disconnected(ConnectionId),
}

/// Receives what [`Push`] sockets send.
pub trait Pull: Send + Sync {
    /// Receives the next message or event. A message replaces the buffer's
    /// content.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent>;

    /// Returns a descriptor that polls readable when there may be something to
    /// receive; `None` when the transport has none. Must be called before each
    /// wait for the descriptor: a transport may report what arrives to no later
    /// one, so that it costs nothing where no thread waits. Whatever other
    /// threads receive meanwhile, the wait ends with the next message.
    #[cfg(unix)]
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Removes the socket file of a listening socket at once: no new peer can
    /// connect, and another process can listen at the address. Existing
    /// connections, including one that was not accepted yet, and their messages
    /// are not affected.
    fn stop_listening(&self);

    /// [Stops listening](Pull::stop_listening), and asks each connected peer to
    /// close its connection, so that it sends its next message to the next
    /// listener at the address. Waits until the peers have done so, at most
    /// until `deadline`. Messages that they sent before are still received, and
    /// other threads can receive meanwhile.
    ///
    /// The default implementation asks no peer; a transport whose connections
    /// cannot be closed in one direction may keep it.
    fn hand_over(&self, deadline: Deadline) {
        let _ = deadline;
        self.stop_listening();
    }

    /// Stops waiting for new messages: the other side's process has ended.
    /// Messages that have arrived are still received; after that every wait,
    /// including one in progress, ends with [`TransportError::Closed`]. A
    /// transport that reads in the background may wait up to 100 ms for data in
    /// flight. Connections are not closed.
    fn finish(&self);

    /// Ends every wait and closes all connections.
    fn close(&self);
}

/// Sends requests, one at a time, and receives their replies.
///
/// A request belongs to one connection: a request for one host process never
/// reaches that process's successor (fault 4).
pub trait Request: Send + Sync {
    /// Waits for a connection. Returns the same connection as long as it lives.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn connect(&self, deadline: Deadline) -> Result<ConnectionId>;

    /// Sends a request on `connection`. An earlier request without a reply is
    /// cancelled: its reply will be dropped. While another thread waits in
    /// [`receive`](Request::receive), `send` blocks until that call ends, at
    /// most until the deadline, so that it never takes another thread's reply
    /// away.
    ///
    /// # Errors
    /// [`TransportError::Disconnected`] when `connection` is gone,
    /// [`TransportError::TooLong`], [`TransportError::Timeout`].
    fn send(&self, connection: ConnectionId, body: &[u8], deadline: Deadline) -> Result<()>;

    /// Receives the reply to the latest request; it replaces the buffer's
    /// content.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] when no request is in flight.
    /// [`TransportError::Disconnected`] when its connection ended, unless
    /// [`Options::retry`] is set. [`TransportError::Timeout`]: the request is
    /// cancelled.
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()>;

    /// Ends every wait and closes the connection.
    fn close(&self);
}

/// An event of a [`Reply`]. Peers that connected and disconnected while no
/// thread received are reported as by a [`Pull`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyEvent {
    /// A request arrived; its body is in the buffer.
    Request(Ticket),
    /// A request longer than [`Options::max_message`] arrived, with its length
    /// in bytes. Its body was skipped, and the connection lives.
    Oversized(Ticket, u64),
    /// A peer connected.
    Connected(ConnectionId),
    /// A peer disconnected; every whole request that it sent has been
    /// delivered.
    Disconnected(ConnectionId),
}

/// Receives requests and answers them.
pub trait Reply: Send + Sync {
    /// Receives the next request or event. A request replaces the buffer's
    /// content.
    ///
    /// # Errors
    /// [`TransportError::Timeout`], [`TransportError::Closed`].
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<ReplyEvent>;

    /// Answers a request.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] when the request was answered already, or the
    /// same connection has sent a later one. [`TransportError::Disconnected`]
    /// when its connection is gone. [`TransportError::TooLong`],
    /// [`TransportError::Timeout`]: nothing was sent, and the request can still
    /// be answered.
    fn send(&self, ticket: &Ticket, body: &[u8], deadline: Deadline) -> Result<()>;

    /// The process at the other end of a connection that has sent a request;
    /// `None` when the connection has ended, or the transport cannot tell.
    ///
    /// The default implementation knows of no process; a transport that ignores
    /// [`Options::admission`] keeps it.
    fn peer(&self, connection: ConnectionId) -> Option<PeerProcess> {
        let _ = connection;
        None
    }

    /// Returns a descriptor that polls readable when there may be something to
    /// receive; `None` when the transport has none. Must be called before each
    /// wait for the descriptor: a transport may report what arrives to no later
    /// one, so that it costs nothing where no thread waits. Whatever other
    /// threads receive meanwhile, the wait ends with the next message.
    #[cfg(unix)]
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Stops waiting for new requests: the other side's process has ended.
    /// Requests that have arrived are still received; after that every wait,
    /// including one in progress, ends with [`TransportError::Closed`]. A
    /// transport that reads in the background may wait up to 100 ms for data in
    /// flight. Connections are not closed.
    fn finish(&self);

    /// Ends every wait and closes all connections.
    fn close(&self);
}

/// An error of a socket's operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The deadline passed.
    #[error("timed out")]
    Timeout,
    /// The socket was closed on this side.
    #[error("the socket is closed")]
    Closed,
    /// The peer closed the connection, or its process ended.
    #[error("the other side closed the connection")]
    Disconnected,
    /// The call is not valid in the socket's current state.
    #[error("the call is not valid in the socket's current state: {0}")]
    Misuse(&'static str),
    /// The message is longer than the limit.
    #[error("a message of {length} bytes is longer than the limit of {max}")]
    TooLong {
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Another process listens at the address already.
    #[error("{0} is in use by a live process: stop it, or choose another socket folder")]
    AddressInUse(Address),
    /// A file that is not a socket exists at the address.
    #[error("{0} exists and is not a socket: remove it, or choose another socket folder")]
    NotASocket(Address),
    /// The operating system or the transport's library reported an error.
    #[error("cannot {action} {address}")]
    Io {
        /// The operation that was tried.
        action: &'static str,
        /// The address that it was tried at.
        address: Address,
        /// The cause.
        source: std::io::Error,
    },
}
