//! What the worker has from its guard: the socket between them, and a page of
//! memory that outlives the worker. All of the SDK's unsafe code is here.

#![allow(unsafe_code, reason = "a mapping of shared memory and inherited descriptors")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::process::getppid;

/// Tells a worker that it is one: its guard's pid, and two descriptors.
const VARIABLE: &str = "EKUIPER_SDK_WORKER";

/// What a worker has from its guard.
pub(in crate::runtime) struct Inherited {
    pub(in crate::runtime) socket: UnixStream,
    pub(in crate::runtime) memory: OwnedFd,
}

/// The variable that makes the process that inherits these descriptors a
/// worker of this one.
pub(super) fn variable(socket: &UnixStream, memory: &OwnedFd) -> (&'static str, String) {
    (VARIABLE, format!("{},{},{}", std::process::id(), socket.as_raw_fd(), memory.as_raw_fd()))
}

/// What this process has from its guard, if it is a worker. Whoever asks
/// second is told that it is none.
pub(in crate::runtime) fn inherited() -> Option<Inherited> {
    let text = std::env::var(VARIABLE).ok()?;
    let mut numbers = text.split(',').map(str::parse::<i32>);
    let (Some(Ok(guard)), Some(Ok(socket)), Some(Ok(memory)), None) =
        (numbers.next(), numbers.next(), numbers.next(), numbers.next())
    else {
        return None;
    };
    // What a worker starts has the variable too, and another parent.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(guard) || socket < 3 || memory < 3 || socket == memory {
        return None;
    }
    static TAKEN: Once = Once::new();
    let mut first = false;
    TAKEN.call_once(|| first = true);
    if !first {
        return None;
    }
    // SAFETY: the variable names this process's parent, so that parent, a
    // guard of this same executable, has written it for this process and left
    // the two descriptors open in it, for nobody else. They are taken once.
    let (socket, memory) = unsafe { (OwnedFd::from_raw_fd(socket), OwnedFd::from_raw_fd(memory)) };
    // Not for what the worker starts: the guard sees the worker's end by them.
    fcntl_setfd(&socket, FdFlags::CLOEXEC).ok()?;
    fcntl_setfd(&memory, FdFlags::CLOEXEC).ok()?;
    Some(Inherited { socket: socket.into(), memory })
}

/// Makes memory for `words` words, all zero, that a child inherits.
pub(super) fn memory(words: usize) -> io::Result<OwnedFd> {
    let memory = memfd_create("ekuiper-worker", MemfdFlags::empty())?;
    ftruncate(&memory, (words * size_of::<AtomicU64>()) as u64)?;
    Ok(memory)
}

/// Shared memory as words, until the process ends.
///
/// # Errors
/// It is shorter, or cannot be mapped.
pub(super) fn map(memory: &OwnedFd, words: usize) -> io::Result<&'static [AtomicU64]> {
    let length = words * size_of::<AtomicU64>();
    if rustix::fs::fstat(memory)?.st_size < length as i64 {
        return Err(io::Error::other("the worker's memory is shorter than it should be"));
    }
    // SAFETY: a new mapping, at an address that the kernel chooses, touches
    // no other memory.
    let start =
        unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, memory, 0) }?;
    let start = NonNull::new(start.cast::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: the mapping has `length` bytes, begins at a page and is never
    // unmapped; nobody makes the file shorter, of which only this process, its
    // guard and former workers have a descriptor. Any bits are an `AtomicU64`,
    // and all who write to it do so by atomic operations.
    Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), words) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_written_is_there_for_the_next() {
        let memory = memory(600).unwrap();
        map(&memory, 600).unwrap()[599].store(7, Ordering::Release);
        assert_eq!(map(&memory, 600).unwrap()[599].load(Ordering::Acquire), 7);
        assert!(map(&memory, 601).is_err());
    }

    #[test]
    fn a_process_without_the_variable_is_no_worker() {
        assert!(inherited().is_none());
    }
}
