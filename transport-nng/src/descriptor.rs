//! libnng's descriptors, as ones of our own.
//!
//! libnng closes its descriptors with the socket, while another thread may
//! still wait for them; a duplicate stays ours until we close it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nng::Socket;
use nng::options::{Options, RecvFd, SendFd};

/// Polls readable while the socket has a message to receive.
pub(crate) fn incoming(socket: &Socket) -> io::Result<OwnedFd> {
    duplicate(socket, socket.get_opt::<RecvFd>())
}

/// Polls readable while the socket takes a message to send.
pub(crate) fn outgoing(socket: &Socket) -> io::Result<OwnedFd> {
    duplicate(socket, socket.get_opt::<SendFd>())
}

/// `descriptor` must be what `socket` has just given.
fn duplicate(_socket: &Socket, descriptor: nng::Result<RawFd>) -> io::Result<OwnedFd> {
    let descriptor = descriptor.map_err(io::Error::other)?;
    // SAFETY: libnng gave this descriptor for a socket that is still borrowed,
    // and closes it only when that socket is closed (nng, core/pollable.c and
    // core/socket.c, sock_destroy); this crate duplicates from its sockets
    // while it makes them, before it gives them to whoever could close them.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()
}
