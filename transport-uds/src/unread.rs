//! How much of what was sent the other side has not read: one ioctl that
//! `rustix` has no function for.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `TIOCOUTQ`, alias `SIOCOUTQ` (unix(7)).
const OUTPUT_QUEUE: Opcode = 0x5411;

/// Bytes in flight on a Unix socket; 0 when the system does not tell.
pub(crate) fn unread(socket: BorrowedFd<'_>) -> usize {
    // SAFETY: on a socket this request writes one int and reads nothing
    // (Linux, net/unix/af_unix.c, unix_ioctl), which is what `Getter` says.
    let bytes = unsafe { ioctl(socket, Getter::<OUTPUT_QUEUE, c_int>::new()) };
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0)
}
