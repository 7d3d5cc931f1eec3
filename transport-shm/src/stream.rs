//! A connection: its socket, and its memory once both sides have it.
//!
//! The listening side makes the memory and sends its descriptor with the eight
//! bytes [`GREETING`]; after that the socket carries bells only, one byte each.
//! The headers of both sides, and everything else, go through the rings.
//!
//! Where the memory cannot be made, or its descriptor does not arrive (the
//! system may refuse both), the socket carries everything itself, as that of
//! `ekuiper-transport-uds` does: the listening side sends [`WITHOUT_MEMORY`]
//! in the greeting's place, or the dialling side answers the greeting with
//! [`REFUSAL`], before its own first byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use ekuiper_core::sync::lock;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{Deadline, Result};
use ekuiper_transport_ipc::wait::{Closing, wait_unless_closed};
use ekuiper_transport_uds::stream::{Medium, SocketStream, Stream};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};

use crate::lane::{BELL, Lane, Side};
use crate::memory::Memory;
use crate::watcher::{Watch, watch};

/// The listener's only bytes but bells: a name, and the version of the memory's
/// layout and of its use.
pub(crate) const GREETING: [u8; 8] = *b"\0ShM\0\x01\0\0";

/// The listener's greeting where it has no memory: what follows is SP.
const WITHOUT_MEMORY: [u8; 8] = *b"\0ShM\0\x01\0\x01";

/// The dialler's answer to a greeting whose memory it cannot use: what follows
/// is SP.
const REFUSAL: [u8; 1] = [0xec];

/// Maximum number of bytes that are sent before the connection is settled.
const MAX_EARLY: usize = 64;

/// Shared memory beside the socket.
#[derive(Debug)]
pub(crate) struct SharedMemory;

impl Medium for SharedMemory {
    fn is_in_memory(&self) -> bool {
        true
    }

    fn accepted(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>> {
        let stream = ShmStream::new(Side::Listening, socket);
        if let Err(error) = stream.offer_memory() {
            if is_over(&error) {
                return Err(error);
            }
            tell(&error);
            stream.use_socket(&WITHOUT_MEMORY)?;
        }
        Ok(Box::new(stream))
    }

    fn dialled(&self, socket: OwnedFd) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(ShmStream::new(Side::Dialling, socket)))
    }
}

/// Whether the error is the connection's end.
fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
}

/// Tells why a connection is not in memory.
fn tell(error: &io::Error) {
    static LINES: Throttle = Throttle::new();
    if let Some(others) = LINES.pass(Instant::now()) {
        tracing::warn!(%error, others, "a connection cannot share memory, and uses its socket instead");
    }
}

/// Sends the memory of a new connection, whose socket has room for it.
fn greet(socket: &SocketStream, memory: &OwnedFd) -> io::Result<()> {
    let descriptors = [memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(socket, &[IoSlice::new(&GREETING)], &mut ancillary, flags)? {
        sent if sent == GREETING.len() => Ok(()),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// The listener's greeting.
enum Greeting {
    Memory(OwnedFd),
    /// The listener shares memory, but its descriptor has not arrived.
    Stripped,
    WithoutMemory,
}

fn receive_greeting(socket: &SocketStream) -> rustix::io::Result<Greeting> {
    let mut greeting = [0; GREETING.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut greeting)], &mut ancillary, flags)?;
    // Descriptors that are not taken are closed by dropping the message.
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors = descriptors.flatten();
    if received.bytes != GREETING.len() {
        return Err(Errno::PROTO);
    }
    match (greeting, descriptors.next(), descriptors.next()) {
        (GREETING, Some(memory), None) if !received.flags.contains(ReturnFlags::CTRUNC) => Ok(Greeting::Memory(memory)),
        (GREETING, None, None) => Ok(Greeting::Stripped),
        (WITHOUT_MEMORY, None, None) => Ok(Greeting::WithoutMemory),
        _ => Err(Errno::PROTO),
    }
}

/// What carries the bytes of a connection, which is settled by the dialler.
enum Carrier<'a> {
    /// The greeting, or the answer to it, has not arrived.
    Unsettled,
    Memory(&'a Lane),
    Socket,
}

const UNSETTLED: u8 = 0;
const IN_MEMORY: u8 = 1;
const ON_SOCKET: u8 = 2;

#[derive(Debug)]
struct ShmStream {
    side: Side,
    /// One of the three constants; changes once.
    carrier: AtomicU8,
    /// The lane and its watch; on the dialling side absent until the listener's
    /// memory has arrived.
    lane: OnceLock<(Arc<Lane>, Watch)>,
    /// What is sent while nothing is settled; locked until it is.
    early: Mutex<Vec<u8>>,
    socket: SocketStream,
}

impl ShmStream {
    fn new(side: Side, socket: OwnedFd) -> Self {
        let (carrier, lane, early) = (AtomicU8::new(UNSETTLED), OnceLock::new(), Mutex::default());
        Self { side, carrier, lane, early, socket: SocketStream::new(socket) }
    }

    /// Returns the lane, even if it is not in use.
    #[inline]
    fn lane(&self) -> Option<&Lane> {
        self.lane.get().map(|(lane, _)| &**lane)
    }

    #[inline]
    fn carrier(&self) -> Carrier<'_> {
        match (self.carrier.load(Ordering::Acquire), self.lane()) {
            (IN_MEMORY, Some(lane)) => Carrier::Memory(lane),
            (ON_SOCKET, _) => Carrier::Socket,
            _ => Carrier::Unsettled,
        }
    }

    fn install(&self, lane: Lane) -> io::Result<&Lane> {
        let lane = Arc::new(lane);
        let watch = watch(self.socket.as_fd(), &lane)?;
        Ok(&self.lane.get_or_init(|| (lane, watch)).0)
    }

    /// Makes the memory of a new connection, and sends it to the dialler.
    fn offer_memory(&self) -> io::Result<()> {
        let (memory, descriptor) = Memory::create()?;
        let lane = Lane::new(memory, Side::Listening);
        lane.expect_first();
        self.install(lane)?;
        greet(&self.socket, &descriptor)
    }

    /// Settles that the socket carries everything, beginning with `first`, which
    /// it has room for.
    fn use_socket(&self, first: &[u8]) -> io::Result<()> {
        if !first.is_empty() && self.socket.send(first, &[])? != first.len() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.carrier.store(ON_SOCKET, Ordering::Release);
        Ok(())
    }

    #[cold]
    fn send_early(&self, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize> {
        let mut early = lock(&self.early);
        // It may be settled by now.
        match self.carrier() {
            Carrier::Memory(lane) => return lane.send(self.socket.as_fd(), head, tail),
            Carrier::Socket => return self.socket.send(head, tail),
            Carrier::Unsettled => {}
        }
        let length = head.len() + tail.len();
        if early.len() + length > MAX_EARLY {
            return Err(Errno::AGAIN);
        }
        // The dialler, which has its lane only when it is settled, may refuse
        // the memory and need this on the socket.
        if let Some(lane) = self.lane()
            && lane.send(self.socket.as_fd(), head, tail)? != length
        {
            return Err(Errno::PROTO);
        }
        early.extend_from_slice(head);
        early.extend_from_slice(tail);
        Ok(length)
    }

    #[cold]
    fn receive_first(&self, space: &mut [u8]) -> rustix::io::Result<usize> {
        if self.side == Side::Dialling {
            self.take_greeting()?;
            return self.receive(space);
        }
        let Some(lane) = self.lane() else { return Err(Errno::PROTO) };
        let count = lane.receive(self.socket.as_fd(), space)?;
        // The dialler uses the memory.
        self.carrier.store(IN_MEMORY, Ordering::Release);
        Ok(count)
    }

    /// Takes the listener's greeting, if it has arrived, and settles by it.
    fn take_greeting(&self) -> rustix::io::Result<()> {
        // Nothing is sent meanwhile.
        let early = lock(&self.early);
        let adopted = match receive_greeting(&self.socket)? {
            Greeting::Memory(memory) => Memory::adopt(&memory),
            Greeting::Stripped => Err(io::Error::other("the system has not passed the listener's memory on")),
            Greeting::WithoutMemory => return self.use_socket(&early).map_err(|_| Errno::PIPE),
        };
        match adopted.and_then(|memory| self.install(Lane::new(memory, Side::Dialling))) {
            Ok(lane) => {
                if lane.send(self.socket.as_fd(), &early, &[])? != early.len() {
                    return Err(Errno::PROTO);
                }
                self.carrier.store(IN_MEMORY, Ordering::Release);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::debug!(%error, "the listener's memory is refused");
                Err(Errno::PROTO)
            }
            Err(error) => {
                tell(&error);
                self.use_socket(&[&REFUSAL, &**early].concat()).map_err(|_| Errno::PIPE)
            }
        }
    }

    /// Takes the dialler's first byte out of the socket: a bell, or its refusal
    /// of the memory.
    fn take_answer(&self, lane: &Lane) {
        let mut first = [0];
        match recv(&self.socket, &mut first[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => lane.lose(),
            Ok(_) if first == BELL => {}
            Ok(_) if first == REFUSAL => {
                let early = lock(&self.early);
                if self.use_socket(&early).is_err() {
                    lane.close(self.socket.as_fd());
                }
            }
            Ok(_) => lane.refuse_protocol(self.socket.as_fd()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => lane.lose(),
        }
    }
}

impl Stream for ShmStream {
    fn send(&self, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize> {
        match self.carrier() {
            Carrier::Memory(lane) => lane.send(self.socket.as_fd(), head, tail),
            Carrier::Socket => self.socket.send(head, tail),
            Carrier::Unsettled => self.send_early(head, tail),
        }
    }

    fn receive(&self, space: &mut [u8]) -> rustix::io::Result<usize> {
        match self.carrier() {
            Carrier::Memory(lane) => lane.receive(self.socket.as_fd(), space),
            Carrier::Socket => self.socket.receive(space),
            Carrier::Unsettled => self.receive_first(space),
        }
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
        matches!(self.carrier(), Carrier::Socket)
    }

    fn poll_flags(&self, interest: PollFlags) -> PollFlags {
        let lane = match self.carrier() {
            Carrier::Memory(lane) => Some(lane),
            Carrier::Socket => return interest,
            Carrier::Unsettled => self.lane(),
        };
        let is_met = lane.is_some_and(|lane| lane.ask_for_bell(interest));
        if is_met { PollFlags::empty() } else { PollFlags::IN | PollFlags::RDHUP }
    }

    fn withdraw(&self) {
        if let Carrier::Memory(lane) = self.carrier() {
            lane.withdraw();
        }
    }

    fn woken(&self) {
        match self.carrier() {
            Carrier::Memory(lane) => lane.take_bells(self.socket.as_fd()),
            Carrier::Socket => {}
            Carrier::Unsettled => self.lane().into_iter().for_each(|lane| self.take_answer(lane)),
        }
    }

    fn wait(&self, interest: PollFlags, closing: Option<&Closing>, deadline: Deadline) -> Result<()> {
        match self.carrier() {
            Carrier::Memory(lane) => lane.wait(interest, closing, deadline),
            Carrier::Socket => self.socket.wait(interest, closing, deadline),
            Carrier::Unsettled if self.poll_flags(interest).is_empty() => Ok(()),
            Carrier::Unsettled => wait_unless_closed(PollFd::new(&self.socket, PollFlags::IN), closing, deadline),
        }
    }

    fn wake(&self) {
        if let Some(lane) = self.lane() {
            lane.wake();
        }
    }

    fn unread(&self) -> usize {
        match self.carrier() {
            Carrier::Socket => self.socket.unread(),
            Carrier::Memory(_) | Carrier::Unsettled => self.lane().map_or(0, Lane::unread),
        }
    }

    fn send_no_more(&self) {
        self.socket.send_no_more();
    }

    fn shutdown(&self) {
        match self.lane() {
            Some(lane) => lane.close(self.socket.as_fd()),
            None => self.socket.shutdown(),
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
