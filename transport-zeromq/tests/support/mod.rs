//! Shared test support: sockets, and a peer that writes and reads ZMTP byte by
//! byte.
// Clippy takes only functions with #[test] for tests.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

pub(crate) use ekuiper_conformance::PATIENCE;
pub(crate) use ekuiper_conformance::soon;
pub(crate) use ekuiper_conformance::support::{TestFolder, message, watched};
use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use ekuiper_transport_zeromq::ZeromqTransport;

pub(crate) fn zeromq() -> ZeromqTransport {
    ZeromqTransport::new()
}

pub(crate) fn options(max_message: usize) -> Options {
    ekuiper_conformance::options(|options| options.max_message = max_message)
}

pub(crate) fn pull(address: &Address) -> Box<dyn Pull> {
    zeromq().pull(&Endpoint::Listen(address.clone()), &Options::default()).unwrap()
}

pub(crate) fn push(address: &Address) -> Box<dyn Push> {
    zeromq().push(&Endpoint::Dial(address.clone()), &Options::default()).unwrap()
}

pub(crate) fn next(pull: &dyn Pull) -> PullEvent {
    pull.receive(&mut Vec::new(), soon()).unwrap()
}

/// A peer that speaks ZMTP 3.0, and then sends arbitrary bytes.
pub(crate) struct RawPeer(pub(crate) UnixStream);

/// Returns the first 64 bytes of ZMTP.
pub(crate) fn greeting() -> [u8; 64] {
    let mut bytes = [0; 64];
    (bytes[0], bytes[9], bytes[10]) = (0xff, 0x7f, 3);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// Returns the command that states this socket's type.
pub(crate) fn ready(socket_type: &str) -> Vec<u8> {
    let property =
        [b"\x05READY\x0bSocket-Type", &(socket_type.len() as u32).to_be_bytes()[..], socket_type.as_bytes()].concat();
    [&[4, property.len() as u8], &property[..]].concat()
}

/// Returns one frame, the last of its message.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(length) => [&[0, length], body].concat(),
        Err(_) => [&claim(body.len() as u64)[..], body].concat(),
    }
}

/// Returns the header of a long frame.
pub(crate) fn claim(length: u64) -> [u8; 9] {
    let mut bytes = [2; 9];
    bytes[1..].copy_from_slice(&length.to_be_bytes());
    bytes
}

impl RawPeer {
    pub(crate) fn dial(address: &Address) -> Self {
        let stream = UnixStream::connect(address.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Connects as a DEALER.
    pub(crate) fn dealer(address: &Address) -> Self {
        let mut peer = Self::dial(address);
        peer.write(&[&greeting()[..], &ready("DEALER")].concat());
        peer.expect(&greeting());
        peer.expect(&ready("ROUTER"));
        peer
    }

    /// Connects as a DEALER that is a push socket of ours.
    pub(crate) fn pushing(address: &Address) -> Self {
        let mut peer = Self::dealer(address);
        peer.write(&frame(b"\0ekuiper\x01>"));
        peer.expect(&frame(b"\0ekuiper\x01<"));
        peer
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        self.0.read_exact(&mut read).unwrap();
        assert_eq!(read, bytes);
    }

    /// Asserts that the other side disconnects; data that it still sends does
    /// not matter.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            // Unread data turns the end into a reset.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}
