//! One connection: writing frames and reading bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use ekuiper_core::sp::{FRAME_HEADER, MAX_WORDS, Protocol, frame_header};
use ekuiper_core::transport::{ConnectionId, Deadline, Result, TransportError};
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::spin::{MAX_LOOK, Spinner};
use crate::stream::Stream;
use ekuiper_transport_ipc::wait::{Closing, earlier, has_passed};

/// Maximum length of a body that is copied behind its header so that one plain
/// write sends both: cheaper than a vectored write.
const COPY_UP_TO: usize = 1024;

/// Maximum length of what precedes a body: frame header and backtrace.
const MAX_HEAD: usize = FRAME_HEADER + MAX_WORDS * 4;

/// A connection. Its id is unique in this process.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    stream: Box<dyn Stream>,
    /// Whether a frame is being finished in the background.
    unfinished: AtomicBool,
    /// Whether finishing a frame in the background has failed.
    cut_off: AtomicBool,
}

/// The outcome of writing a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The kernel has the whole frame, or the rest will be written in the
    /// background.
    All,
    /// The connection has no room now; nothing was written.
    Nothing,
    /// The peer is gone; nothing was written.
    Gone,
}

impl Link {
    /// Wraps a new connection and sends our header on it.
    pub(crate) fn greet(stream: Box<dyn Stream>, own: Protocol) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // A new connection has room for these eight bytes.
        match stream.send(&own.header(), &[])? {
            8 => {
                let id = ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed));
                Ok(Self { id, stream, unfinished: AtomicBool::new(false), cut_off: AtomicBool::new(false) })
            }
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Writes one frame whose content is `prefix` and `body`. Does not block
    /// before the frame's first byte is written; after that the frame is
    /// finished as long as the peer never pauses for `stall`: here until
    /// `deadline`, then in the background. One thread at a time may write;
    /// `spinner` is for its waits.
    ///
    /// # Errors
    /// The peer went away or paused too long in the middle of the frame, or the
    /// socket was closed then: the link can no longer be used.
    pub(crate) fn write(
        self: &Arc<Self>,
        prefix: &[u8],
        body: &[u8],
        closing: &Closing,
        stall: Duration,
        deadline: Deadline,
        spinner: &mut Spinner,
    ) -> Result<Written> {
        debug_assert!(prefix.len() <= MAX_WORDS * 4);
        if self.is_unfinished() {
            return Ok(if self.is_cut_off() { Written::Gone } else { Written::Nothing });
        }
        // Not an array: clearing one costs more than filling it.
        let mut head = ArrayVec::<u8, { MAX_HEAD + COPY_UP_TO }>::new();
        let mut copy = |bytes: &[u8]| head.try_extend_from_slice(bytes).expect("a head and a short body have room");
        copy(&frame_header(prefix.len() + body.len()));
        copy(prefix);
        let mut tail = body;
        if body.len() <= COPY_UP_TO {
            copy(body);
            tail = &[];
        }
        let mut head = &head[..];
        let mut begun = false;
        // The amount that was written while busy-polling for room.
        let mut looked = None;
        loop {
            match looked.take().unwrap_or_else(|| self.send(head, tail)) {
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
                Err(Errno::AGAIN) if has_passed(deadline) => {
                    self.unfinished.store(true, Ordering::Release);
                    return match finish_in_background(self.clone(), [head, tail].concat(), stall) {
                        Ok(()) => Ok(Written::All),
                        Err(_) => Err(TransportError::Disconnected),
                    };
                }
                Err(Errno::AGAIN) => {
                    let next = &tail[..tail.len().min(MAX_LOOK)];
                    let look = || match self.send(head, next) {
                        Err(Errno::AGAIN) if closing.check().is_ok() => None,
                        sent => Some(sent),
                    };
                    looked = spinner.spin(Instant::now(), !self.is_socket(), look).map(|(sent, _)| sent);
                    if looked.is_none() || closing.check().is_err() {
                        spinner.sleep(deadline, || self.wait_writable(closing, stall, deadline))?;
                    }
                }
                Err(_) if !begun => return Ok(Written::Gone),
                Err(_) => {
                    closing.check()?;
                    return Err(TransportError::Disconnected);
                }
            }
        }
    }

    /// Whether a frame is being finished in the background.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished.load(Ordering::Acquire)
    }

    /// Records that the frame was finished in the background.
    fn finished(&self) {
        self.unfinished.store(false, Ordering::Release);
    }

    /// Records that the peer was gone before the frame was finished: the
    /// connection is over.
    fn cut_off(&self) {
        self.cut_off.store(true, Ordering::Release);
        self.shutdown();
    }

    fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }

    /// Writes as much of both pieces as there is room for.
    pub(crate) fn send(&self, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize> {
        self.stream.send(head, tail)
    }

    fn wait_writable(&self, closing: &Closing, stall: Duration, deadline: Deadline) -> Result<()> {
        let stalled = Instant::now().checked_add(stall);
        let waited = self.stream.wait(PollFlags::OUT, Some(closing), earlier(stalled, deadline));
        closing.check()?;
        if waited.is_err() && has_passed(stalled) { Err(TransportError::Disconnected) } else { Ok(()) }
    }

    /// Reads the available bytes. `Ok(None)`: there are none now.
    ///
    /// # Errors
    /// The peer is gone.
    pub(crate) fn read(&self, space: &mut [u8]) -> Result<Option<usize>> {
        Self::read_with(|| self.stream.receive(space))
    }

    /// Reads bytes, and blocks until there are some or either side has closed
    /// the connection. Requires [`let_reads_wait`](Self::let_reads_wait).
    pub(crate) fn read_waiting(&self, space: &mut [u8]) -> Result<Option<usize>> {
        Self::read_with(|| self.stream.receive_waiting(space))
    }

    fn read_with(mut receive: impl FnMut() -> rustix::io::Result<usize>) -> Result<Option<usize>> {
        loop {
            match receive() {
                Ok(0) => return Err(TransportError::Disconnected),
                Ok(count) => return Ok(Some(count)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(_) => return Err(TransportError::Disconnected),
            }
        }
    }

    /// Makes [`read_waiting`](Self::read_waiting) block.
    pub(crate) fn let_reads_wait(&self) -> io::Result<()> {
        self.stream.let_reads_wait()
    }

    /// Whether the socket itself polls readable and writable.
    pub(crate) fn is_socket(&self) -> bool {
        self.stream.is_socket()
    }

    /// The flags to poll the descriptor for; none if `interest` is met already.
    pub(crate) fn poll_flags(&self, interest: PollFlags) -> PollFlags {
        self.stream.poll_flags(interest)
    }

    /// Withdraws what [`poll_flags`](Self::poll_flags) has prepared.
    pub(crate) fn withdraw(&self) {
        self.stream.withdraw();
    }

    /// Takes back what has made the descriptor readable.
    pub(crate) fn woken(&self) {
        self.stream.woken();
    }

    /// Waits as [`Stream::wait`] does.
    pub(crate) fn wait(&self, interest: PollFlags, closing: Option<&Closing>, deadline: Deadline) -> Result<()> {
        self.stream.wait(interest, closing, deadline)
    }

    /// Ends waits of this process, which check whether the socket is closed.
    pub(crate) fn wake(&self) {
        self.stream.wake();
    }

    /// Whether the peer has read everything that was written, or is gone.
    pub(crate) fn is_drained(&self) -> bool {
        // In this order: a frame that was finished in between is in the kernel
        // now.
        self.is_cut_off() || !self.is_unfinished() && self.unread() == 0
    }

    /// Amount of sent data that the peer has not read.
    pub(crate) fn unread(&self) -> usize {
        self.stream.unread()
    }

    /// Tells the peer that nothing more will be sent: one that only sends then
    /// closes the connection. Messages that it sends until then can be read.
    pub(crate) fn send_no_more(&self) {
        self.stream.send_no_more();
    }

    /// Closes the connection in both directions, even while other threads hold
    /// the link.
    pub(crate) fn shutdown(&self) {
        self.stream.shutdown();
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Writes `rest` to `link` on a new thread; until it is done, the link takes no
/// other frame. Closes the connection if the peer pauses for `stall`.
///
/// A long message to a slow peer can only be cut off by closing its connection.
/// So if a call's deadline passes in the middle of one, this temporary thread
/// writes the rest: the message counts as accepted, like one in the kernel's
/// buffer.
fn finish_in_background(link: Arc<Link>, rest: Vec<u8>, stall: Duration) -> io::Result<()> {
    std::thread::Builder::new().name("ekuiper-finish".into()).spawn(move || match finish(&link, &rest, stall) {
        Ok(()) => link.finished(),
        Err(reason) => {
            tracing::debug!(connection = link.id.0, %reason, "connection closed in the middle of a message");
            link.cut_off();
        }
    })?;
    Ok(())
}

fn finish(link: &Link, mut rest: &[u8], stall: Duration) -> rustix::io::Result<()> {
    while !rest.is_empty() {
        match link.send(rest, &[]) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            // This wait also ends when either side closes the connection.
            Err(Errno::AGAIN) => {
                let give_up = Instant::now().checked_add(stall);
                link.wait(PollFlags::OUT, None, give_up).map_err(|_| Errno::TIMEDOUT)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
