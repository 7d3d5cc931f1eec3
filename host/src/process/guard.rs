//! Guard of a process group: ends the group when the host is gone without having
//! ended it, as after SIGKILL.
//!
//! A plugin cannot be relied on to notice: an idle plugin on the official Go SDK
//! does not, nor do a plugin's own children, nor what a wrapper like `conda run`
//! or an installer runs as its child. A parent-death signal reaches only the
//! direct child, and fires when the *thread* that spawned it ends. So each group
//! gets a process that does nothing but wait for the host's end.
//!
//! # Life
//!
//! [`ProcessGuard::start`] creates a pair of sockets and forks: the guard is a
//! child of the host. The guard prepares itself and reports it; only then is the
//! group's leader forked, which sends its process id to the guard before it
//! executes anything. So no process ever runs without a guard.
//!
//! The guard has its own session without a terminal, blocks every signal that
//! can be blocked, has `/` as its working directory, is named [`NAME`], and has
//! one descriptor: its end of the pair. In particular it holds neither the
//! group's output, which would never end, nor the host's end of another guard's
//! pair, which would keep that guard waiting.
//!
//! The guard reads. The end of the stream means that the host is gone, for
//! whatever reason: SIGTERM to the group, [`GRACE`], SIGKILL. A host that is
//! merely stopped keeps its descriptors, and its plugins.
//!
//! A host that has ended the group itself ends the guard and waits for it
//! ([`ProcessGuard::end`]), so that nothing is left of it, even where no process
//! reaps orphans. The guard's end raises no SIGCHLD, and is invisible to an
//! engine that waits for any child (`waitpid(-1)`).
//!
//! The group's id cannot be reused meanwhile: the host ends the guard before it
//! reaps the group's leader. Once the host is gone, init may release the id; the
//! guard checks every [`LOOK`] whether the group is gone, and the kernel reuses
//! an id only after all others.
//!
//! # Costs and limits
//!
//! - The guard is a fork of the host: it shows the host's command line and
//!   resident memory in `ps`. The memory is shared, and pages that the host
//!   changes later are copied: in the worst case a guard holds as much memory as
//!   the host had when the plugin was started. Start plugins before filling
//!   large caches. Each start copies the page tables twice (2 ms per 100 MB
//!   each, measured), and fails where the system refuses to commit that memory
//!   (`vm.overcommit_memory=2`).
//! - A process that leaves the group (`setsid`, `setpgid`: a daemon) is out of
//!   reach, as it is for the host.
//! - A process that the host forks without executing a program (for example
//!   Python's `multiprocessing` with `fork`) holds the host's end of the pair, and
//!   the guard waits for that process's end too.
//! - Two things can end a guard early: SIGKILL to itself, and the end of its
//!   container or cgroup, which ends the plugins too.
//! - If the host was killed, and no process reaps orphans, the guard and the
//!   processes it has ended remain as zombies.
//!   stays as zombies: the guard and what the guard has ended.
#![allow(unsafe_code)] // after the fork, and for what rustix does not offer

use std::convert::Infallible;
use std::ffi::{CStr, c_int, c_long};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal};
use rustix::thread::Timespec;

/// Name shown by `ps -o comm`; the kernel keeps 15 bytes.
const NAME: &CStr = c"ekuiper-guard";

/// Time from SIGTERM to SIGKILL, as a number of [`LOOK`]s: one second.
const GRACE: u32 = 100;

/// Interval of the check of the group: 10 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The host's end of the connection to a guard. Dropping it without
/// [`ProcessGuard::end`] makes the guard end the group.
#[derive(Debug)]
pub(crate) struct ProcessGuard {
    line: OwnedFd,
    pid: Pid,
    is_dismissed: bool,
}

impl ProcessGuard {
    /// Forks a guard, which has no group yet.
    ///
    /// # Errors
    /// The operating system has no process, memory or descriptor for it.
    pub(crate) fn start() -> io::Result<Self> {
        // Each message is received whole.
        let (host, guard) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let line = clear_of_stdio(host)?;
        // SAFETY: `be_guard` makes system calls on the stack's own memory only.
        let forked = unsafe { fork_quietly(|| be_guard(guard.as_fd())) };
        let pid = forked?;
        drop(guard);
        let started = Self { line, pid, is_dismissed: false };
        let mut report = [0];
        match retry(|| rustix::net::recv(&started.line, &mut report, RecvFlags::empty())) {
            Ok((_, 1)) if report == [0] => Ok(started),
            outcome => {
                started.end();
                match outcome {
                    // Error numbers are below 256.
                    Ok((_, 1)) => Err(io::Error::from_raw_os_error(report[0].into())),
                    Ok(_) => Err(io::Error::other("its guard was killed")),
                    Err(errno) => Err(errno.into()),
                }
            }
        }
    }

    /// Tells the guard that this process leads its group. For a process between
    /// fork and exec.
    pub(crate) fn lead(&self) -> io::Result<()> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        retry(|| rustix::net::send(&self.line, &own.to_ne_bytes(), SendFlags::NOSIGNAL))?;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends the guard of a group that has been ended; the guard does nothing
    /// more. The group's id must still be the group's.
    pub(crate) fn dismiss(&mut self) {
        // A child of this process that has not been reaped: the id is its own.
        if !self.is_dismissed && matches!(wait_for(self.pid.as_raw_nonzero().get(), libc::WNOHANG), Ok(None)) {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        }
        self.is_dismissed = true;
    }

    /// Ends the guard, and waits until nothing is left of it.
    pub(crate) fn end(mut self) {
        self.dismiss();
        let _ = wait_for(self.pid.as_raw_nonzero().get(), 0);
    }
}

/// Moves a descriptor out of the first three, which are replaced in the
/// leader's process first.
pub(crate) fn clear_of_stdio(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() > 2 {
        return Ok(descriptor);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
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
pub(crate) fn wait_for(child: c_int, options: c_int) -> io::Result<Option<c_int>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives as long as the call.
        match unsafe { libc::waitpid(child, &raw mut status, libc::__WALL | options) } {
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
pub(crate) fn reap_orphans(group: Pid) {
    while let Ok(Some(_)) = wait_for(-group.as_raw_nonzero().get(), 0) {}
}

// From here on, everything runs in a process with one thread and a copy of the
// memory of a process with many: a lock may be held forever by a thread that
// does not exist. Only system calls are made, on memory of the stack.

/// Runs the guard.
fn be_guard(line: BorrowedFd<'_>) -> ! {
    let report = match prepare(line) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX),
    };
    // The host may be gone, which is noticed below.
    let _ = retry(|| rustix::net::send(line, &[report], SendFlags::NOSIGNAL));
    if report == 0
        && let Some(group) = hear_group(line)
    {
        watch(line, group);
    }
    end()
}

fn prepare(line: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir(c"/")?;
    rustix::thread::set_name(NAME)?;
    close_all_but(line)
}

/// Receives the id of the group; `None` if the host is gone before.
fn hear_group(line: BorrowedFd<'_>) -> Option<Pid> {
    let mut number = [0; 4];
    match retry(|| rustix::net::recv(line, &mut number, RecvFlags::empty())) {
        Ok((_, 4)) => Pid::from_raw(i32::from_ne_bytes(number)),
        _ => None,
    }
}

/// Waits for the host's end, and ends the group.
fn watch(line: BorrowedFd<'_>, group: Pid) {
    // Nothing more is sent: an error is an end too, that of a host which left
    // something unread.
    let _ = retry(|| rustix::net::recv(line, &mut [0], RecvFlags::empty()));
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    for _ in 0..GRACE {
        if rustix::process::test_kill_process_group(group) == Err(Errno::SRCH) {
            return;
        }
        let _ = rustix::thread::nanosleep(&LOOK);
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

/// Forks a child that runs `child`. Its end sends no signal, since it concerns
/// only this crate. The child starts with every signal blocked, since a handler
/// of the host must not run in a copy of it.
///
/// # Safety
/// `child` must make system calls on memory allocated before, and nothing else:
/// it must not allocate, lock or panic.
pub(crate) unsafe fn fork_quietly(child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
    const ZERO: c_long = 0;
    let former = set_signals(&every_signal())?;
    // Not libc's `fork`: that runs the handlers of `pthread_atfork`, which may
    // do anything.
    // SAFETY: a plain fork, which shares no memory: no flags, the same stack,
    // nothing to be written. The caller ensures what the child does.
    let fork = |signal: c_int| unsafe { libc::syscall(libc::SYS_clone, c_long::from(signal), ZERO, ZERO, ZERO, ZERO) };
    let mut outcome = fork(0);
    if outcome == -1 && io::Error::last_os_error().kind() == io::ErrorKind::InvalidInput {
        // Qemu emulates no fork without the signal.
        outcome = fork(libc::SIGCHLD);
    }
    if outcome == 0 {
        child();
    }
    let error = io::Error::last_os_error();
    set_signals(&former)?;
    c_int::try_from(outcome).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(error)
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

/// Resets signals to what a program expects at its start: none blocked, none
/// ignored, whatever the host has set up. For a process between fork and exec,
/// which resets handlers anyway.
pub(crate) fn default_signals() -> io::Result<()> {
    // The last signal of Linux, and the size of a signal set in bytes.
    const LAST: c_int = 64;
    const SET: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    // The kernel's `struct sigaction` for SIG_DFL, and room: all zero.
    let default = [0_u64; 8];
    let no_former: *mut u64 = std::ptr::null_mut();
    for signal in 1..=LAST {
        // Not libc's `sigaction`: newer versions take a lock for SIGABRT. The
        // call fails for SIGKILL and SIGSTOP, which cannot be ignored.
        // SAFETY: `default` lives as long as the call, and is as long as the
        // structure of any machine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_former, SET) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` writes the set whole, and cannot fail.
    let none = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        none.assume_init()
    };
    set_signals(&none).map(drop)
}

/// Closes every descriptor of this process but one.
fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept_number = kept.as_raw_fd();
    let (below, above) = (kept_number.cast_unsigned().checked_sub(1), kept_number.cast_unsigned() + 1);
    for (first, last) in below.map(|below| (0, below)).into_iter().chain([(above, u32::MAX)]) {
        // SAFETY: this process runs only what is in this file, which uses no
        // other descriptor: none that is closed is anybody's.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            // Before Linux 5.9, or forbidden.
            return close_listed_but(kept);
        }
    }
    Ok(())
}

/// Closes every descriptor but one, from the list in `/proc`.
fn close_listed_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    let mut space = [MaybeUninit::<u8>::uninit(); 1024];
    let mut entries = RawDir::new(&list, &mut space);
    while let Some(entry) = entries.next() {
        let name = entry?;
        let number = number(name.file_name().to_bytes());
        if let Some(number) = number.filter(|number| ![kept.as_raw_fd(), list.as_raw_fd()].contains(number)) {
            // SAFETY: as above; the list itself is closed by its owner.
            unsafe { rustix::io::close(number) };
        }
    }
    Ok(())
}

fn number(digits: &[u8]) -> Option<c_int> {
    digits.iter().try_fold(0_i32, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Ends this process, which is between fork and exec.
pub(crate) fn end() -> ! {
    // SAFETY: it ends this process, and runs no destructor of the host's.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn descriptors_are_closed_without_close_range() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let there = OwnedFd::from(there);
        let many: Vec<_> = (0..100).map(|_| there.try_clone().unwrap()).collect();
        let mut command = Command::new("/bin/true");
        let close = move || -> io::Result<()> {
            let left = match close_listed_but(there.as_fd()) {
                Ok(()) => (0..1000).filter(|number| is_open(*number)).count(),
                Err(_) => 0,
            };
            let _ = rustix::io::write(&there, &[u8::try_from(left).unwrap_or(u8::MAX)]);
            end()
        };
        // SAFETY: system calls on the stack's memory only.
        unsafe { command.pre_exec(close) };
        #[allow(clippy::disallowed_methods)] // it is this test's own
        command.spawn().unwrap().wait().unwrap();
        drop(command);
        drop(many);
        let mut left = Vec::new();
        here.read_to_end(&mut left).unwrap();
        assert_eq!(left, [1]);
    }

    fn is_open(number: c_int) -> bool {
        // SAFETY: it is only asked about, and not used if it is not open.
        rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok()
    }

    #[test]
    fn only_numbers_are_descriptors() {
        assert_eq!(
            ["0", "17", ".", "..", "1x", "99999999999"].map(|text| number(text.as_bytes())),
            [Some(0), Some(17), None, None, None, None]
        );
    }
}
