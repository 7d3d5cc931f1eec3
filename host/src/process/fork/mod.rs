//! New processes: copies of this one, and programs that take their place.
//!
//! No end of such a process sends a SIGCHLD, since it concerns only this crate:
//! ordinary waits do not see it, nor does an engine that waits for any child.
//!
//! The rest differs between systems: Linux, which hosts run on, and macOS and the
//! BSDs, where plugins are developed.
#![allow(unsafe_code)] // what runs in the new process, and what rustix does not offer

#[cfg(not(target_os = "linux"))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
use bsd as system;
#[cfg(target_os = "linux")]
use linux as system;

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;
pub(super) use system::{
    ANY_CHILD, LINE, LINE_FLAGS, Processors, close_all_but, copy, default_signals, execute_file, name_thread, spawn,
};

/// Moves a descriptor out of the first three, which are replaced in the
/// leader's process first.
pub(super) fn clear_of_stdio(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() > 2 {
        return Ok(descriptor);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?)
}

/// Repeats a system call that a signal has interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

/// Waits for a child that sends no SIGCHLD, and is therefore invisible to
/// ordinary waits. Returns its wait status; `None` if `options` say not to
/// wait, and it has not ended.
///
/// # Errors
/// The process is not a child of this one.
pub(super) fn wait_for(child: c_int, options: c_int) -> io::Result<Option<c_int>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives as long as the call.
        match unsafe { libc::waitpid(child, &raw mut status, ANY_CHILD | options) } {
            0 => return Ok(None),
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            _ => return Ok(Some(status)),
        }
    }
}

/// Reaps orphans of a group whose leader has been reaped and whose members have
/// all been killed. Processes whose parent ends become children of process 1,
/// or of the nearest process that adopts orphans: if that is this one, no other
/// code knows them. No other child of this process is touched.
pub(super) fn reap_orphans(group: Pid) {
    while let Ok(Some(_)) = wait_for(-group.as_raw_nonzero().get(), 0) {}
}

/// Returns a mask of all signals.
fn every_signal() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    // SAFETY: `sigfillset` writes the set whole, and cannot fail.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    }
}

/// Blocks no signal.
fn unblock_signals() -> io::Result<()> {
    let mut none = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` writes the set whole, and cannot fail.
    let none = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        none.assume_init()
    };
    set_signals(&none).map(drop)
}

/// Blocks exactly these signals; returns the former mask.
fn set_signals(mask: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut former = MaybeUninit::uninit();
    // SAFETY: both sets live as long as the call.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, former.as_mut_ptr()) } {
        // SAFETY: it succeeded and has written the former mask.
        0 => Ok(unsafe { former.assume_init() }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Ends this process, which is between fork and exec.
pub(super) fn end() -> ! {
    // SAFETY: it ends this process, and runs no destructor of the host's.
    unsafe { libc::_exit(0) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_child_starts_with_the_memory_of_this_process_and_ends_by_itself() {
        let mut number = 1_u64;
        let told: *mut u64 = &raw mut number;
        // SAFETY: it writes a number, and ends.
        let pid = unsafe {
            spawn(|| {
                *told = 2;
                end()
            })
        };
        let pid = pid.unwrap().as_raw_nonzero().get();
        assert_eq!(number, 2, "the memory is shared, and the thread has waited");
        assert_eq!(wait_for(pid, 0).unwrap(), Some(0));
        // SAFETY: as above.
        let pid = unsafe {
            copy(|| {
                *told = 3;
                end()
            })
        };
        assert_eq!(wait_for(pid.unwrap().as_raw_nonzero().get(), 0).unwrap(), Some(0));
        assert_eq!(number, 2, "a copy has memory of its own");
    }
}
