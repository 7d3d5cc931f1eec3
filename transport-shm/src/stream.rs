//! A connection: its socket, and its memory once both sides have it.
//!
//! The listening side makes the memory and sends its descriptor with the eight
//! bytes [`GREETING`]; after that the socket carries bells only, one byte each.
//! The headers of both sides, and everything else, go through the rings.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};

use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Deadline, Result};
use ekuiper_transport_ipc::wait::{Closing, wait_unless_closed};
use ekuiper_transport_uds::stream::{Medium, Stream};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};

use crate::lane::{Lane, Side};
use crate::memory::Memory;
use crate::watcher::{Watch, watch};

/// The listener's only bytes but bells: a name, and the version of the memory's
/// layout and of its use.
pub(crate) const GREETING: [u8; 8] = *b"\0ShM\0\x01\0\0";

/// Maximum number of bytes that are sent before the memory is there.
const MAX_EARLY: usize = 64;

/// Shared memory beside the socket.
#[derive(Debug)]
pub(crate) struct SharedMemory;

impl Medium for SharedMemory {
    fn is_in_memory(&self) -> bool {
        true
    }

    fn accepted(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>> {
        let (memory, descriptor) = Memory::create()?;
        let stream = ShmStream::new(socket);
        let lane = Lane::new(memory, Side::Listening);
        lane.expect_first();
        stream.install(lane)?;
        greet(&stream.socket, &descriptor)?;
        Ok(Box::new(stream))
    }

    fn dialled(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(ShmStream::new(socket)))
    }
}

/// Sends the memory of a new connection, whose socket has room for it.
fn greet(socket: &OwnedFd, memory: &OwnedFd) -> io::Result<()> {
    let descriptors = [memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(socket, &[IoSlice::new(&GREETING)], &mut ancillary, flags)? {
        sent if sent == GREETING.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

#[derive(Debug)]
struct ShmStream {
    /// The lane and its watch; absent until the listener's memory has arrived.
    lane: OnceLock<(Arc<Lane>, Watch)>,
    /// What is sent until then.
    early: Mutex<Vec<u8>>,
    socket: OwnedFd,
}

impl ShmStream {
    fn new(socket: OwnedFd) -> Self {
        Self { lane: OnceLock::new(), early: Mutex::default(), socket }
    }

    #[inline]
    fn lane(&self) -> Option<&Lane> {
        self.lane.get().map(|(lane, _)| &**lane)
    }

    fn install(&self, lane: Lane) -> io::Result<&Lane> {
        let lane = Arc::new(lane);
        let watch = watch(self.socket.as_fd(), &lane)?;
        Ok(&self.lane.get_or_init(|| (lane, watch)).0)
    }

    /// Takes the listener's memory, if it has arrived.
    #[cold]
    fn take_memory(&self) -> rustix::io::Result<&Lane> {
        let mut greeting = [0; GREETING.len()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut greeting)], &mut ancillary, flags)?;
        // Descriptors that are not taken are closed by dropping the message.
        let descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let mut descriptors = descriptors.flatten();
        let (Some(descriptor), None) = (descriptors.next(), descriptors.next()) else { return Err(Errno::PROTO) };
        if received.bytes != GREETING.len() || greeting != GREETING || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::PROTO);
        }
        let failed = |error: io::Error| {
            tracing::debug!(%error, "the listener's memory is refused");
            // None that means that the greeting may still come.
            let errno = Errno::from_io_error(&error).filter(|errno| !matches!(*errno, Errno::AGAIN | Errno::INTR));
            errno.unwrap_or(Errno::PROTO)
        };
        let lane = Lane::new(Memory::adopt(&descriptor).map_err(failed)?, Side::Dialling);
        let mut early = lock(&self.early);
        let lane = self.install(lane).map_err(failed)?;
        let early = std::mem::take(&mut *early);
        if lane.send(self.socket.as_fd(), &early, &[])? != early.len() {
            return Err(Errno::PROTO);
        }
        Ok(lane)
    }
}

impl Stream for ShmStream {
    fn send(&self, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize> {
        if let Some(lane) = self.lane() {
            return lane.send(self.socket.as_fd(), head, tail);
        }
        let mut early = lock(&self.early);
        // It may have arrived meanwhile.
        if let Some(lane) = self.lane() {
            return lane.send(self.socket.as_fd(), head, tail);
        }
        if early.len() + head.len() + tail.len() > MAX_EARLY {
            return Err(Errno::AGAIN);
        }
        early.extend_from_slice(head);
        early.extend_from_slice(tail);
        Ok(head.len() + tail.len())
    }

    fn receive(&self, space: &mut [u8]) -> rustix::io::Result<usize> {
        let lane = match self.lane() {
            Some(lane) => lane,
            None => self.take_memory()?,
        };
        lane.receive(self.socket.as_fd(), space)
    }

    fn receive_waiting(&self, space: &mut [u8]) -> rustix::io::Result<usize> {
        loop {
            match self.receive(space) {
                Err(Errno::AGAIN) => {}
                received => return received,
            }
            // Without a deadline, it ends only when there is something.
            let _ = self.wait(PollFlags::IN, None, None);
        }
    }

    fn let_reads_wait(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_socket(&self) -> bool {
        false
    }

    fn poll_flags(&self, interest: PollFlags) -> PollFlags {
        let is_met = self.lane().is_some_and(|lane| lane.ask_for_bell(interest));
        if is_met { PollFlags::empty() } else { PollFlags::IN | PollFlags::RDHUP }
    }

    fn withdraw(&self) {
        if let Some(lane) = self.lane() {
            lane.withdraw();
        }
    }

    fn woken(&self) {
        if let Some(lane) = self.lane() {
            lane.take_bells(self.socket.as_fd());
        }
    }

    fn wait(&self, interest: PollFlags, closing: Option<&Closing>, deadline: Deadline) -> Result<()> {
        match self.lane() {
            Some(lane) => lane.wait(interest, closing, deadline),
            None => wait_unless_closed(PollFd::new(&self.socket, PollFlags::IN), closing, deadline),
        }
    }

    fn wake(&self) {
        if let Some(lane) = self.lane() {
            lane.wake();
        }
    }

    fn unread(&self) -> usize {
        self.lane().map_or(0, Lane::unread)
    }

    fn send_no_more(&self) {
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    fn shutdown(&self) {
        match self.lane() {
            Some(lane) => lane.close(self.socket.as_fd()),
            None => drop(shutdown(&self.socket, Shutdown::Both)),
        }
    }
}

impl AsFd for ShmStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for ShmStream {
    fn drop(&mut self) {
        if let Some((lane, watch)) = self.lane.get() {
            watch.end(self.socket.as_fd());
            lane.close(self.socket.as_fd());
        }
    }
}
