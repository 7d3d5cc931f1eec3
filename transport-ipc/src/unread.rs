//! The amount of sent data that the peer has not read: one ioctl that `rustix`
//! has no function for, also for descriptors that a library does not expose.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::{SocketAddrUnix, getpeername};

/// The ioctl `TIOCOUTQ`, alias `SIOCOUTQ` (unix(7)).
const OUTPUT_QUEUE: Opcode = 0x5411;

/// The number of bytes in flight on a Unix socket, including the kernel's
/// overhead; 0 when the system does not report it.
pub fn unread(socket: BorrowedFd<'_>) -> usize {
    // SAFETY: on a socket this request writes one int and reads nothing
    // (Linux, net/unix/af_unix.c, unix_ioctl), which is what `Getter` says.
    let bytes = unsafe { ioctl(socket, Getter::<OUTPUT_QUEUE, c_int>::new()) };
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0)
}

/// The number of bytes in flight on all of this process's connections to the
/// socket file at `path`, including those of libraries; `None` when the system
/// does not list the connections.
pub fn unread_at(path: &Path) -> Option<usize> {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc/self/fd").ok()? {
        let Ok(entry) = entry else { continue };
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let (true, Some(number)) = (is_socket, number) else { continue };
        // SAFETY: both uses are system calls that only query. Another thread
        // may close this descriptor meanwhile, or open another one with its
        // number: the calls then fail, or report on the other one, which the
        // name sorts out again at the next call; neither touches memory or a
        // socket's state.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let name = getpeername(socket).ok().flatten().and_then(|name| SocketAddrUnix::try_from(name).ok());
        let is_there = name.is_some_and(|name| {
            name.path_bytes()
                .is_some_and(|bytes| bytes.strip_suffix(b"\0").unwrap_or(bytes) == path.as_os_str().as_bytes())
        });
        if is_there {
            sum += unread(socket);
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn what_is_unread_is_seen_with_the_descriptor_and_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut dialled = UnixStream::connect(&path).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        assert_eq!((unread(dialled.as_fd()), unread_at(&path)), (0, Some(0)));
        dialled.write_all(b"abc").unwrap();
        let queued = unread(dialled.as_fd());
        assert!(queued >= 3);
        assert_eq!((unread_at(&path), unread_at(&folder.path().join("other"))), (Some(queued), Some(0)));
        accepted.read_exact(&mut [0; 3]).unwrap();
        assert_eq!((unread(dialled.as_fd()), unread_at(&path)), (0, Some(0)));
    }
}
