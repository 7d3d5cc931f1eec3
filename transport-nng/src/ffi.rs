//! What the `nng` crate has no safe, or no quiet, way for.
//!
//! libnng closes its descriptors with the socket, while another thread may
//! still wait for them; a duplicate stays ours until we close it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nng::ffi::nng_pipe_close;
use nng::options::{Options, RecvFd, SendFd};
use nng::{Pipe, Socket};

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

/// Ends a connection. `Pipe::close` panics when libnng has freed it already,
/// which libnng does not always tell.
pub(crate) fn close(pipe: Pipe) {
    // SAFETY: takes a number, which libnng looks up under a lock of its own
    // (nng.c, nng_pipe_close); one that it does not know is an error, which
    // means that there is nothing left to do.
    let _ = unsafe { nng_pipe_close(pipe.nng_pipe()) };
}
