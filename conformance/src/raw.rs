//! A peer that is a raw Unix socket: it sends exactly the given bytes, valid or
//! not.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::PATIENCE;

/// The header of REQ, spelled out byte by byte, as the ones below: the suite
/// does not trust the code under test.
pub const REQ: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x30, 0, 0];
/// The header of REP.
pub const REP: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x31, 0, 0];
/// The header of PUSH.
pub const PUSH: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x50, 0, 0];
/// The header of PULL.
pub const PULL: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x51, 0, 0];

/// Returns one frame with this content.
pub fn frame(content: &[u8]) -> Vec<u8> {
    [&claim(content.len() as u64)[..], content].concat()
}

/// Returns the nine header bytes of a frame whose content has `length` bytes.
pub fn claim(length: u64) -> [u8; 9] {
    let mut bytes = [1; 9];
    bytes[1..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A listening raw socket.
pub struct RawListener(UnixListener);

impl RawListener {
    /// Listens at an unused address.
    pub fn bind(address: &Address) -> Self {
        Self(UnixListener::bind(address.path()).unwrap())
    }

    /// Accepts the next connection, and fails if there is none in time.
    pub fn accept(&self) -> RawPeer {
        assert!(self.is_dialled_within(PATIENCE), "nobody dialled");
        RawPeer::new(self.0.accept().unwrap().0)
    }

    /// Whether a peer dials within `time`.
    pub fn is_dialled_within(&self, time: Duration) -> bool {
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time)).unwrap() > 0
    }

    /// Accepts the next connection, and exchanges headers.
    pub fn accept_as(&self, own: [u8; 8], other: [u8; 8]) -> RawPeer {
        let mut peer = self.accept();
        peer.write(&own);
        peer.expect(&other);
        peer
    }
}

/// One connection of a raw socket.
pub struct RawPeer(UnixStream);

impl RawPeer {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Connects to a listening socket.
    pub fn dial(address: &Address) -> Self {
        Self::new(UnixStream::connect(address.path()).unwrap())
    }

    /// Connects, and exchanges headers.
    pub fn dial_as(address: &Address, own: [u8; 8], other: [u8; 8]) -> Self {
        let mut peer = Self::dial(address);
        peer.write(&own);
        peer.expect(&other);
        peer
    }

    /// Returns another handle of the connection, for another thread.
    pub fn again(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    /// Writes all of `bytes`.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Writes to a peer that may have disconnected; returns whether it had not.
    pub fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Writes `bytes` repeatedly, so that there is always more to read, until
    /// the peer disconnects. The writer spins, and is ahead by as much as the
    /// kernel allows: one that blocks leaves gaps.
    pub fn flood(mut self, bytes: &[u8]) {
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&self.0, 16 << 20);
        self.0.set_nonblocking(true).unwrap();
        let mut rest = bytes;
        loop {
            match self.0.write(rest) {
                Ok(count) if count < rest.len() => rest = &rest[count..],
                Ok(_) => rest = bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Reads as many bytes as `bytes` has, and compares them.
    pub fn expect(&mut self, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        self.0.read_exact(&mut read).unwrap();
        assert_eq!(read, bytes);
    }

    /// Reads one frame and returns its content.
    pub fn frame(&mut self) -> Vec<u8> {
        self.try_frame().expect("the peer hung up instead of sending a frame")
    }

    /// Reads one frame; `None` when the peer disconnects instead.
    pub fn try_frame(&mut self) -> Option<Vec<u8>> {
        let mut kind = [0];
        match self.0.read(&mut kind) {
            Ok(0) => return None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            read => assert_eq!((read.unwrap(), kind), (1, [1]), "the type of a frame"),
        }
        let mut length = [0; 8];
        self.0.read_exact(&mut length).unwrap();
        let mut content = vec![0; u64::from_be_bytes(length) as usize];
        self.0.read_exact(&mut content).unwrap();
        Some(content)
    }

    /// Whether there are bytes to read.
    pub fn has_something(&self) -> bool {
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    /// Asserts that the peer disconnects; bytes that it still sends do not
    /// matter.
    pub fn expect_closed(&mut self) {
        assert!(self.is_closed_within(PATIENCE), "the connection is still open");
    }

    /// Whether the peer disconnects within `time`.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        let give_up = Instant::now() + time;
        loop {
            let left = give_up.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).unwrap();
            let read = self.0.read(&mut [0; 4096]);
            self.0.set_read_timeout(Some(PATIENCE)).unwrap();
            match read {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() >= give_up {
                        return false;
                    }
                }
                Err(_) => return true,
            }
        }
    }

    /// Disconnects at once: a process that another thread is just creating may
    /// hold a duplicate of the socket for a moment, which merely closing it
    /// would leave open.
    pub fn hang_up(self) {
        self.0.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Shuts down the sending direction only.
    pub fn end_of_stream(&self) {
        self.0.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

/// Whether a process listens at `address`.
pub fn is_listening(address: &Address) -> bool {
    UnixStream::connect(address.path()).is_ok()
}
