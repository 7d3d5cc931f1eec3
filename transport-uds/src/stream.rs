//! What carries the bytes of a connection: the Unix socket itself, or another
//! medium beside it.
//!
//! Everything above it (frames, batches, dialling, admission, limits, waits) is
//! the same for every medium: a transport on another one creates its sockets
//! with [`push`], [`pull`], [`request`] and [`reply`].

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Deadline, Endpoint, Options, Pull, Push, Reply, Request, Result};
use ekuiper_transport_ipc::platform::{NO_SIGNAL, unread};
use ekuiper_transport_ipc::wait::{Closing, wait_unless_closed};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};

/// Makes a stream of each connected Unix socket.
pub trait Medium: Debug + Send + Sync {
    /// Whether it makes streams that are not the socket itself.
    fn is_in_memory(&self) -> bool;

    /// The stream of a connection that a listening socket has accepted;
    /// `socket` does not block.
    ///
    /// # Errors
    /// The peer is gone, or this process lacks a resource.
    fn accepted(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>>;

    /// The stream of a connection that was dialled; `socket` does not block.
    /// The medium may need something of the listener first: until that has
    /// arrived the stream keeps what is sent, at most 64 bytes.
    ///
    /// # Errors
    /// As [`accepted`](Medium::accepted).
    fn dialled(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>>;
}

/// The two byte streams of a connection. Its descriptor is the socket, which
/// ends when the peer closes it or dies.
///
/// One thread at a time sends and one receives; every thread may wait.
pub trait Stream: AsFd + Debug + Send + Sync {
    /// Writes as much of both pieces as there is room for, without blocking.
    ///
    /// # Errors
    /// `EAGAIN`: there is no room. Any other: the connection is over.
    fn send(&self, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize>;

    /// Reads what is there, without blocking. Zero bytes: the peer has ended
    /// the connection.
    ///
    /// # Errors
    /// `EAGAIN`: nothing is there. Any other: the connection is over.
    fn receive(&self, space: &mut [u8]) -> rustix::io::Result<usize>;

    /// Reads as [`receive`](Stream::receive) does, and blocks until there is
    /// something, or either side has ended the connection. Requires
    /// [`let_reads_wait`](Stream::let_reads_wait).
    ///
    /// # Errors
    /// The connection is over.
    fn receive_waiting(&self, space: &mut [u8]) -> rustix::io::Result<usize>;

    /// Makes [`receive_waiting`](Stream::receive_waiting) block.
    ///
    /// # Errors
    /// The operating system's error.
    fn let_reads_wait(&self) -> io::Result<()>;

    /// Whether the socket itself polls readable and writable, which it may do
    /// from some time on. If not, each wait for the descriptor begins with
    /// [`poll_flags`](Stream::poll_flags).
    fn is_socket(&self) -> bool;

    /// Prepares a wait for the descriptor; one thread at a time waits for it.
    /// Returns the flags to poll for: none if `interest` is met already.
    fn poll_flags(&self, interest: PollFlags) -> PollFlags;

    /// Withdraws what [`poll_flags`](Stream::poll_flags) has prepared: the
    /// caller busy-polls instead.
    fn withdraw(&self);

    /// Takes back what has made the descriptor readable. Must be called after
    /// each such wait.
    fn woken(&self);

    /// Waits until `interest` may be met, the connection or `closing` ends, at
    /// most until `deadline`.
    ///
    /// # Errors
    /// The deadline has passed.
    fn wait(&self, interest: PollFlags, closing: Option<&Closing>, deadline: Deadline) -> Result<()>;

    /// Ends waits of this process, which check their `closing` again.
    fn wake(&self);

    /// Amount of sent data that the peer has not read; 0 if it is gone.
    fn unread(&self) -> usize;

    /// Tells the peer that nothing more will be sent.
    fn send_no_more(&self);

    /// Ends the connection in both directions, also while other threads use the
    /// stream.
    fn shutdown(&self);
}

/// Creates a socket as [`Transport::push`](ekuiper_core::transport::Transport)
/// does, on this medium.
///
/// # Errors
/// As there.
pub fn push(endpoint: &Endpoint, options: &Options, medium: &'static dyn Medium) -> Result<Box<dyn Push>> {
    Ok(Box::new(crate::push::UdsPush::new(endpoint, options, medium)?))
}

/// Creates a socket as [`Transport::pull`](ekuiper_core::transport::Transport)
/// does, on this medium.
///
/// # Errors
/// As there.
pub fn pull(endpoint: &Endpoint, options: &Options, medium: &'static dyn Medium) -> Result<Box<dyn Pull>> {
    Ok(Box::new(crate::pull::UdsPull::new(endpoint, options, medium)?))
}

/// Creates a socket as
/// [`Transport::request`](ekuiper_core::transport::Transport) does, on this
/// medium.
///
/// # Errors
/// As there.
pub fn request(address: &Address, options: &Options, medium: &'static dyn Medium) -> Result<Box<dyn Request>> {
    Ok(Box::new(crate::request::UdsRequest::socket(address, options, medium)?))
}

/// Creates a socket as [`Transport::reply`](ekuiper_core::transport::Transport)
/// does, on this medium.
///
/// # Errors
/// As there.
pub fn reply(address: &Address, options: &Options, medium: &'static dyn Medium) -> Result<Box<dyn Reply>> {
    Ok(Box::new(crate::reply::UdsReply::new(address, options, medium)?))
}

/// The medium of [`UdsTransport`](crate::UdsTransport): the socket itself.
#[derive(Debug)]
pub(crate) struct Sockets;

impl Medium for Sockets {
    fn is_in_memory(&self) -> bool {
        false
    }

    fn accepted(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(SocketStream(socket)))
    }

    fn dialled(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(SocketStream(socket)))
    }
}

/// Writes never block in the kernel, since closing the socket must end a wait
/// too.
const NO_WAIT: SendFlags = NO_SIGNAL.union(SendFlags::DONTWAIT);

/// A stream that is the socket itself.
#[derive(Debug)]
pub struct SocketStream(OwnedFd);

impl SocketStream {
    /// Creates the stream of a connected Unix socket that does not block.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Stream for SocketStream {
    fn send(&self, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize> {
        if tail.is_empty() {
            return send(&self.0, head, NO_WAIT);
        }
        let pieces = [IoSlice::new(head), IoSlice::new(tail)];
        sendmsg(&self.0, &pieces, &mut SendAncillaryBuffer::default(), NO_WAIT)
    }

    fn receive(&self, space: &mut [u8]) -> rustix::io::Result<usize> {
        recv(&self.0, space, RecvFlags::DONTWAIT).map(|(count, _)| count)
    }

    fn receive_waiting(&self, space: &mut [u8]) -> rustix::io::Result<usize> {
        recv(&self.0, space, RecvFlags::empty()).map(|(count, _)| count)
    }

    fn let_reads_wait(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, false)?)
    }

    fn is_socket(&self) -> bool {
        true
    }

    fn poll_flags(&self, interest: PollFlags) -> PollFlags {
        interest
    }

    fn withdraw(&self) {}

    fn woken(&self) {}

    fn wait(&self, interest: PollFlags, closing: Option<&Closing>, deadline: Deadline) -> Result<()> {
        wait_unless_closed(PollFd::new(&self.0, interest), closing, deadline)
    }

    fn wake(&self) {}

    fn unread(&self) -> usize {
        unread(self.0.as_fd())
    }

    fn send_no_more(&self) {
        let _ = shutdown(&self.0, Shutdown::Write);
    }

    fn shutdown(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for SocketStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
