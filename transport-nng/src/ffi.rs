//! Operations for which the `nng` crate has no safe, or no panic-free,
//! function.
//!
//! libnng closes its descriptors with the socket, while another thread may
//! still wait on them; a duplicate stays open until it is closed here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nng::ffi::nng_pipe_close;
use nng::options::{Options, RecvFd, SendFd};
use nng::{Pipe, Socket};

/// A descriptor that polls readable while the socket has a message to receive.
pub(crate) fn incoming(socket: &Socket) -> io::Result<OwnedFd> {
    duplicate(socket, socket.get_opt::<RecvFd>())
}

/// A descriptor that polls readable while the socket has room for a message.
pub(crate) fn outgoing(socket: &Socket) -> io::Result<OwnedFd> {
    duplicate(socket, socket.get_opt::<SendFd>())
}

/// Duplicates `descriptor`, which must have just been returned by `socket`.
fn duplicate(_socket: &Socket, descriptor: nng::Result<RawFd>) -> io::Result<OwnedFd> {
    let descriptor = descriptor.map_err(io::Error::other)?;
    // SAFETY: libnng returned this descriptor for a socket that is still
    // borrowed, and closes it only when that socket is closed (nng,
    // core/pollable.c and core/socket.c, sock_destroy); this crate duplicates
    // descriptors while it creates a socket, before any other code could close
    // it.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()
}

/// Closes a connection. `Pipe::close` panics when libnng has freed it already,
/// which libnng does not always report.
pub(crate) fn close(pipe: Pipe) {
    // SAFETY: takes a number, which libnng looks up under its own lock (nng.c,
    // nng_pipe_close); an unknown number is an error, which means that there is
    // nothing left to do.
    let _ = unsafe { nng_pipe_close(pipe.nng_pipe()) };
}
