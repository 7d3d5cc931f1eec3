//! One connection: writes frames, reads bytes.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::sp::{FRAME_HEADER, MAX_WORDS, Protocol, frame_header};
use ekuiper_core::transport::{ConnectionId, Result, TransportError};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, send, sendmsg, shutdown};

use crate::wait::{Closing, wait_for};

/// Up to this length a body is copied behind its header and both are written
/// at once: cheaper than a vectored write.
const COPY_UP_TO: usize = 4096;

/// The longest that stands in front of a body: frame header and backtrace.
const MAX_HEAD: usize = FRAME_HEADER + MAX_WORDS * 4;

/// A connected socket. Its id is unique in this process.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    stream: OwnedFd,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The kernel has all of it.
    All,
    /// The kernel takes nothing now; nothing of it was written.
    Nothing,
    /// The peer is gone; nothing of it was written.
    Gone,
}

impl Link {
    /// Takes a connected, non-blocking socket and sends our header on it.
    pub(crate) fn greet(stream: OwnedFd, own: Protocol) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // A new socket's buffer holds these eight bytes.
        match send(&stream, &own.header(), SendFlags::NOSIGNAL)? {
            8 => Ok(Self { id: ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed)), stream }),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Writes one frame whose content is `prefix` and `body`. Does not wait
    /// for its beginning; a frame that has begun is finished, as long as the
    /// peer never pauses for `stall`.
    ///
    /// # Errors
    /// The peer went away or paused too long in the middle of the frame, or
    /// the socket was closed then: the link is of no more use.
    pub(crate) fn write(&self, prefix: &[u8], body: &[u8], closing: &Closing, stall: Duration) -> Result<Written> {
        debug_assert!(prefix.len() <= MAX_WORDS * 4);
        let mut head = [0; MAX_HEAD + COPY_UP_TO];
        head[..FRAME_HEADER].copy_from_slice(&frame_header(prefix.len() + body.len()));
        let mut head_length = FRAME_HEADER + prefix.len();
        head[FRAME_HEADER..head_length].copy_from_slice(prefix);
        let mut tail = body;
        if body.len() <= COPY_UP_TO {
            head[head_length..head_length + body.len()].copy_from_slice(body);
            head_length += body.len();
            tail = &[];
        }
        let mut head = &head[..head_length];
        let mut begun = false;
        loop {
            match self.send(head, tail) {
                Ok(count) => {
                    begun = true;
                    let of_head = count.min(head.len());
                    head = &head[of_head..];
                    tail = &tail[count - of_head..];
                    if head.is_empty() && tail.is_empty() {
                        return Ok(Written::All);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !begun => return Ok(Written::Nothing),
                Err(Errno::AGAIN) => self.wait_writable(closing, stall)?,
                Err(_) if !begun => return Ok(Written::Gone),
                Err(_) => return Err(TransportError::Disconnected),
            }
        }
    }

    fn send(&self, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize> {
        if tail.is_empty() {
            return send(&self.stream, head, SendFlags::NOSIGNAL);
        }
        let pieces = [IoSlice::new(head), IoSlice::new(tail)];
        sendmsg(&self.stream, &pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
    }

    fn wait_writable(&self, closing: &Closing, stall: Duration) -> Result<()> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::OUT), PollFd::new(closing, PollFlags::IN)];
        match wait_for(&mut fds, Some(Instant::now() + stall)) {
            Err(_) => Err(TransportError::Disconnected),
            Ok(()) => closing.check(),
        }
    }

    /// Reads what is there. `Ok(None)`: nothing now.
    ///
    /// # Errors
    /// The peer is gone.
    pub(crate) fn read(&self, space: &mut [u8]) -> Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.stream, &mut *space) {
                Ok(0) => return Err(TransportError::Disconnected),
                Ok(count) => return Ok(Some(count)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(_) => return Err(TransportError::Disconnected),
            }
        }
    }

    /// How many bytes the peer has not read yet.
    pub(crate) fn unread(&self) -> usize {
        crate::unread::unread(self.stream.as_fd())
    }

    /// Ends the connection for both sides, while others may still hold the
    /// link.
    pub(crate) fn shutdown(&self) {
        let _ = shutdown(&self.stream, Shutdown::Both);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
