//! Both rings of a connection, and how its two sides wake each other.
//!
//! A thread that finds nothing to read, or no room, says in the ring's word how
//! it wants to be woken, looks once more, and waits: for the word itself
//! (futex), or for the socket, which also carries new connections and the
//! process's other peers. The other side looks at the word after each step, so
//! two busy sides make no system call.
//!
//! Nothing here can wait for a peer that never wakes: a thread that waits for a
//! word is also woken by this process, when the watcher finds the peer dead or
//! the socket is closed.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{Deadline, Result, TransportError};
use ekuiper_transport_ipc::wait::{Closing, has_passed, timeout};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::thread::futex;

use crate::memory::Memory;
use crate::ring::{BadIndex, Receiver, Sender, take_waiting};

/// How a side waits for the other one: in the word itself, for the socket, or
/// both.
const IN_WORD: u32 = 1;
const FOR_SOCKET: u32 = 2;

/// What a side sends over the socket to wake the other one.
pub(crate) const BELL: [u8; 1] = [0xeb];

/// Interval at which a thread that closes a connection wakes those that are
/// about to wait: a peer could undo the first time.
const WAKE_AGAIN: Duration = Duration::from_micros(200);

/// Number of connections that were closed because the peer has set an index
/// that it cannot have.
static BAD_INDICES: AtomicU64 = AtomicU64::new(0);

pub(crate) fn bad_indices() -> u64 {
    BAD_INDICES.load(Ordering::Relaxed)
}

/// The side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Listening = 0,
    Dialling = 1,
}

/// One side of a connection's rings.
#[derive(Debug)]
pub(crate) struct Lane {
    memory: Arc<Memory>,
    side: Side,
    sender: Sender,
    receiver: Receiver,
    /// Whether this side has ended the connection.
    closed: AtomicBool,
    /// Whether the peer has gone: its end of the socket is closed.
    gone: AtomicBool,
    /// Number of threads that wait in a word, or are about to.
    waiting: AtomicU32,
}

impl Lane {
    pub(crate) fn new(memory: Memory, side: Side) -> Self {
        let memory = Arc::new(memory);
        let (own, other) = (side as usize, 1 - side as usize);
        Self {
            sender: Sender::new(memory.clone(), own),
            receiver: Receiver::new(memory.clone(), other),
            memory,
            side,
            closed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
        }
    }

    /// Makes the peer's first bytes wake this side through the socket.
    pub(crate) fn expect_first(&self) {
        self.receiver.words().receiver.0.store(FOR_SOCKET, Ordering::SeqCst);
    }

    /// Whether the other side, or this one, has ended the connection.
    fn is_over(&self) -> bool {
        let peers = &self.memory.words().ended[1 - self.side as usize];
        self.closed.load(Ordering::Acquire) || self.gone.load(Ordering::Acquire) || peers.0.load(Ordering::Acquire) != 0
    }

    pub(crate) fn send(&self, socket: BorrowedFd<'_>, head: &[u8], tail: &[u8]) -> rustix::io::Result<usize> {
        if self.is_over() {
            return Err(Errno::PIPE);
        }
        match self.sender.write(head, tail) {
            Ok(Some(count)) => {
                self.ring(socket, &self.sender.words().receiver.0);
                Ok(count)
            }
            Ok(None) => Err(Errno::AGAIN),
            Err(BadIndex) => Err(self.refuse(socket)),
        }
    }

    pub(crate) fn receive(&self, socket: BorrowedFd<'_>, space: &mut [u8]) -> rustix::io::Result<usize> {
        let mut read = self.receiver.read(space);
        if read == Ok(0) {
            if !self.is_over() {
                return Err(Errno::AGAIN);
            }
            // What was written before the end.
            read = self.receiver.read(space);
        }
        match read {
            Ok(count) => {
                if count > 0 {
                    self.ring(socket, &self.receiver.words().sender.0);
                }
                Ok(count)
            }
            Err(BadIndex) => Err(self.refuse(socket)),
        }
    }

    /// Wakes the other side if it waits in this word.
    #[inline]
    fn ring(&self, socket: BorrowedFd<'_>, word: &AtomicU32) {
        let how = take_waiting(word);
        if how != 0 {
            self.wake_peer(socket, word, how);
        }
    }

    #[cold]
    fn wake_peer(&self, socket: BorrowedFd<'_>, word: &AtomicU32, how: u32) {
        if how & IN_WORD != 0 {
            wake_all(word);
        }
        if how & FOR_SOCKET != 0 {
            // No error matters: a full socket is readable too, this side may have
            // handed over, and the watcher notices the peer's end.
            let _ = send(socket, &BELL, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }

    /// Closes the connection of a peer that has set an impossible index.
    #[cold]
    fn refuse(&self, socket: BorrowedFd<'_>) -> Errno {
        if !self.closed.load(Ordering::Acquire) {
            BAD_INDICES.fetch_add(1, Ordering::Relaxed);
            static LINES: Throttle = Throttle::new();
            if let Some(others) = LINES.pass(Instant::now()) {
                tracing::warn!(others, "connection closed: the peer has set an index outside its ring");
            }
        }
        self.close(socket);
        Errno::PROTO
    }

    /// Whether `interest` is met, or will never be.
    fn is_met(&self, interest: PollFlags) -> bool {
        interest.contains(PollFlags::IN) && self.receiver.has_bytes()
            || interest.contains(PollFlags::OUT) && self.sender.has_room()
            || self.is_over()
    }

    /// Asks the other side to wake this one once `interest` may be met.
    fn ask(&self, interest: PollFlags, how: u32) {
        let (reading, writing) = (&self.receiver.words().receiver.0, &self.sender.words().sender.0);
        for (flag, word) in [(PollFlags::IN, reading), (PollFlags::OUT, writing)] {
            if interest.contains(flag) && word.load(Ordering::Relaxed) & how == 0 {
                word.fetch_or(how, Ordering::SeqCst);
            }
        }
    }

    /// Makes the socket readable once `interest` may be met; returns whether it
    /// is met already.
    pub(crate) fn ask_for_bell(&self, interest: PollFlags) -> bool {
        self.is_met(interest) || {
            self.ask(interest, FOR_SOCKET);
            self.is_met(interest)
        }
    }

    /// Asks for no bell for something to read any more.
    pub(crate) fn withdraw(&self) {
        let word = &self.receiver.words().receiver.0;
        if word.load(Ordering::Relaxed) & FOR_SOCKET != 0 {
            word.fetch_and(!FOR_SOCKET, Ordering::SeqCst);
        }
    }

    /// Takes bells out of the socket.
    pub(crate) fn take_bells(&self, socket: BorrowedFd<'_>) {
        let mut bells = [0; 64];
        match recv(socket, &mut bells[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.lose(),
            Ok((count, _)) if bells[..count].iter().all(|bell| *bell == BELL[0]) => {}
            Ok(_) => self.refuse_protocol(socket),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.lose(),
        }
    }

    /// Closes the connection of a peer that sends anything else.
    pub(crate) fn refuse_protocol(&self, socket: BorrowedFd<'_>) {
        tracing::debug!("connection closed: the peer does not speak this protocol");
        self.close(socket);
    }

    /// Waits in a word until `interest`, which is one flag, is met.
    pub(crate) fn wait(&self, interest: PollFlags, closing: Option<&Closing>, deadline: Deadline) -> Result<()> {
        let word = match interest.contains(PollFlags::IN) {
            true => &self.receiver.words().receiver.0,
            false => &self.sender.words().sender.0,
        };
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waited = loop {
            let asked = word.fetch_or(IN_WORD, Ordering::SeqCst) | IN_WORD;
            if self.is_met(interest) || closing.is_some_and(|closing| closing.check().is_err()) {
                break Ok(());
            }
            if has_passed(deadline) {
                break Err(TransportError::Timeout);
            }
            // However it ends, everything is looked at again.
            let _ = futex::wait(word, futex::Flags::empty(), asked, timeout(deadline).as_ref());
            // Before another request, which would cost the peer a system call with
            // its next message: it has taken this one.
            if self.is_met(interest) {
                break Ok(());
            }
        };
        // Another thread that is about to wait here may have taken this one's
        // request, made after a wake, for its own: it looks again.
        if self.waiting.fetch_sub(1, Ordering::SeqCst) > 1 {
            word.fetch_and(!IN_WORD, Ordering::SeqCst);
            wake_all(word);
        }
        waited
    }

    /// Ends waits of this process, which look again.
    pub(crate) fn wake(&self) {
        for word in [&self.receiver.words().receiver.0, &self.sender.words().sender.0] {
            // A changed value ends a wait that is just about to begin.
            word.fetch_and(!IN_WORD, Ordering::SeqCst);
            wake_all(word);
        }
    }

    /// Wakes until no thread waits: a peer can undo a change of a word.
    fn wake_for_good(&self) {
        self.wake();
        while self.waiting.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(WAKE_AGAIN);
            self.wake();
        }
    }

    /// Records that the peer has gone. What it has written is still read.
    pub(crate) fn lose(&self) {
        if !self.gone.swap(true, Ordering::SeqCst) {
            self.wake_for_good();
        }
    }

    /// Ends the connection, and tells the peer.
    pub(crate) fn close(&self, socket: BorrowedFd<'_>) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.memory.words().ended[self.side as usize].0.store(1, Ordering::SeqCst);
            for word in [&self.sender.words().receiver.0, &self.receiver.words().sender.0] {
                word.swap(0, Ordering::SeqCst);
                wake_all(word);
            }
            // Wakes those that wait for the socket.
            let _ = shutdown(socket, Shutdown::Both);
            self.wake_for_good();
        }
    }

    pub(crate) fn unread(&self) -> usize {
        if self.is_over() { 0 } else { self.sender.unread() }
    }
}

fn wake_all(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}
