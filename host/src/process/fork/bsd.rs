//! macOS and the BSDs: `fork`. Children send SIGCHLD here, and ordinary waits see
//! them. Compiled, and not run, by the project's own checks.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{SocketFlags, SocketType};
use rustix::process::{Pid, Resource, getrlimit};

use super::{every_signal, set_signals, unblock_signals};

/// The option to wait for a child that sends no SIGCHLD: there is none.
pub(in crate::process) const ANY_CHILD: c_int = 0;

/// The socket between a host and its guard: its messages have one length.
pub(in crate::process) const LINE: SocketType = SocketType::STREAM;
pub(in crate::process) const LINE_FLAGS: SocketFlags = SocketFlags::empty();

/// Copies this process into a child that runs `child`, with every signal
/// blocked, since a handler of the host must not run in a copy of it.
///
/// # Safety
/// The child has one thread and a copy of the memory of a process with many: a
/// lock may be held forever by a thread that does not exist. `child` must make
/// system calls on memory allocated before, and nothing else: it must not
/// allocate, lock or panic.
pub(in crate::process) unsafe fn copy(child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
    let former = set_signals(&every_signal())?;
    // SAFETY: the caller ensures what the child does.
    let outcome = unsafe { libc::fork() };
    if outcome == 0 {
        child();
    }
    let error = io::Error::last_os_error();
    set_signals(&former)?;
    Some(outcome).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(error)
}

/// Starts a child that runs `child`, which executes a program or ends. Every
/// signal is blocked in it.
///
/// # Safety
/// As [`copy`].
pub(in crate::process) unsafe fn spawn(child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
    // SAFETY: the caller's promise.
    unsafe { copy(child) }
}

/// Resets signals to what a program expects at its start: none blocked, none
/// ignored, whatever the host has set up. For a process between fork and exec,
/// which resets handlers anyway.
pub(in crate::process) fn default_signals() -> io::Result<()> {
    // A terminal's stop that is pending is discarded: it would stop the process
    // before its program, outside the group that is continued.
    for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
        // SAFETY: an async-signal-safe call, which fails for unknown signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    for signal in 1..32 {
        // SAFETY: as above.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    unblock_signals()
}

/// The processors that a process may use: these systems have no such limit.
pub(in crate::process) struct Processors(Infallible);

impl Processors {
    /// Refuses any number of processors.
    pub(in crate::process) fn new(_: usize) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot limit the processors of a process"))
    }

    /// Restricts this process to them.
    pub(in crate::process) fn restrict(&self) -> io::Result<()> {
        match self.0 {}
    }
}

/// Executes the file at `path`: these systems execute no open file. Returns only
/// on failure.
///
/// # Safety
/// `arguments` and `environment` are null-terminated lists of null-terminated
/// strings.
pub(in crate::process) unsafe fn execute_file(
    _: &OwnedFd,
    path: &CString,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) {
    // SAFETY: the caller's promise, and a null-terminated path.
    unsafe { libc::execve(path.as_ptr(), arguments, environment) };
}

/// Names this thread: not on these systems.
pub(in crate::process) fn name_thread(_: &CStr) -> io::Result<()> {
    Ok(())
}

/// Closes every descriptor of this process but one.
pub(in crate::process) fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    const MANY: u64 = 65536;
    let most = getrlimit(Resource::Nofile).current.map_or(MANY, |most| most.min(MANY));
    for number in (0..most as c_int).filter(|number| *number != kept.as_raw_fd()) {
        // SAFETY: this process runs only the guard, which uses no other
        // descriptor: none that is closed is anybody's.
        unsafe { libc::close(number) };
    }
    Ok(())
}
