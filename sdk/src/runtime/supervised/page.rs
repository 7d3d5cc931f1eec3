//! The resources that a worker inherits from its supervisor: the socket between
//! them, and memory that outlives the worker.

#![allow(unsafe_code, reason = "a mapping of shared memory and inherited descriptors")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::AtomicU64;

use ekuiper_transport_ipc::platform::shared_memory;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::process::getppid;

/// The variable that makes a process a worker: its supervisor's pid, and two
/// descriptors.
const VARIABLE: &str = "EKUIPER_SDK_WORKER";

/// The resources that a worker inherits from its supervisor.
pub(in crate::runtime) struct Inherited {
    pub(in crate::runtime) socket: UnixStream,
    pub(in crate::runtime) memory: OwnedFd,
}

/// The environment variable that makes a child with these descriptors a worker
/// of this process.
pub(super) fn variable(socket: &UnixStream, memory: &OwnedFd) -> (&'static str, String) {
    (VARIABLE, format!("{},{},{}", std::process::id(), socket.as_raw_fd(), memory.as_raw_fd()))
}

/// Takes the resources that this process inherited from its supervisor, if it is
/// a worker; `None` from the second call on.
pub(in crate::runtime) fn inherited() -> Option<Inherited> {
    let text = std::env::var(VARIABLE).ok()?;
    let mut numbers = text.split(',').map(str::parse::<i32>);
    let (Some(Ok(supervisor)), Some(Ok(socket)), Some(Ok(memory)), None) =
        (numbers.next(), numbers.next(), numbers.next(), numbers.next())
    else {
        return None;
    };
    // A child of a worker inherits the variable too, but has another parent.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(supervisor)
        || socket < 3
        || memory < 3
        || socket == memory
    {
        return None;
    }
    static TAKEN: Once = Once::new();
    let mut first = false;
    TAKEN.call_once(|| first = true);
    if !first {
        return None;
    }
    // SAFETY: the variable names this process's parent, so that parent, a
    // supervisor of this same executable, has written it for this process and
    // left the two descriptors open for it alone. They are taken once.
    let (socket, memory) = unsafe { (OwnedFd::from_raw_fd(socket), OwnedFd::from_raw_fd(memory)) };
    // Children of the worker must not inherit them: the supervisor detects the
    // worker's end by their closing.
    fcntl_setfd(&socket, FdFlags::CLOEXEC).ok()?;
    fcntl_setfd(&memory, FdFlags::CLOEXEC).ok()?;
    Some(Inherited { socket: socket.into(), memory })
}

/// Creates zeroed memory of `words` words that a child inherits.
pub(super) fn memory(words: usize) -> io::Result<OwnedFd> {
    shared_memory(c"ekuiper-worker", (words * size_of::<AtomicU64>()) as u64)
}

/// Maps shared memory as words, until the process ends.
///
/// # Errors
/// The memory is shorter, or cannot be mapped.
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
    // unmapped; the file is never truncated, and only this process, its
    // supervisor and previous workers have a descriptor of it. Any bits are a
    // valid `AtomicU64`, and all writers use atomic operations.
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
