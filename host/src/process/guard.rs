//! The guard of a process group: ends the group when the host is gone without
//! having ended it, as after SIGKILL.
//!
//! A plugin cannot be relied on to notice: an idle plugin of the official Go
//! SDK does not, nor do a plugin's own children, nor what a `conda run`-like
//! wrapper or an installer runs as its child. A parent-death signal reaches
//! only the direct child, and fires when the *thread* that spawned it ends. So
//! each group gets a process that does nothing but wait for the host's end.
//!
//! # How it lives
//!
//! [`ProcessGuard::start`] makes a pair of sockets and forks: the guard is a
//! child of the host. It prepares itself and says so; only then is the group's
//! leader forked, which tells the guard its number before it executes anything.
//! So there is no moment at which a process runs that nobody would end.
//!
//! The guard has a session of its own, without a terminal, blocks every signal
//! that can be blocked, stands in `/`, is named [`NAME`], and has one
//! descriptor: its end of the pair. In particular it has neither the group's
//! output, which would never end, nor the host's end of another guard's pair,
//! which would keep that one waiting.
//!
//! The guard reads. The end of the stream says that the host is gone, however
//! it went: SIGTERM to the group, [`GRACE`], SIGKILL. A host that is merely
//! stopped keeps its descriptors, and its plugins.
//!
//! A host that has dealt with the group ends the guard and waits for it
//! ([`ProcessGuard::end`]), so that nothing is left of it, not even where no
//! process reaps orphans. The guard's end raises no SIGCHLD, and an engine that
//! waits for any child of its own (`waitpid(-1)`) does not get to see it.
//!
//! The group's number cannot be another's meanwhile: the host ends the guard
//! before it reaps the group's leader. Once the host is gone, init may free the
//! number; the guard looks every [`LOOK`] whether the group is gone, and the
//! kernel gives a number out again only after all others.
//!
//! # What it costs, and what it cannot do
//!
//! - The guard is a fork of the host: it shows the host's command line and
//!   resident memory in `ps`. The memory is shared, and what the host changes
//!   later is kept in its old state for the guard: in the worst case a guard
//!   holds as much memory as the host had when the plugin was started. Start
//!   plugins before filling large caches. Each start copies the page tables
//!   twice (2 ms per 100 MB each, measured), and fails where the system
//!   refuses to promise that memory (`vm.overcommit_memory=2`).
//! - A process that leaves the group (`setsid`, `setpgid`: a daemon) is out of
//!   reach, as it is for the host.
//! - A process that the host forks without executing anything (Python's
//!   `multiprocessing` with `fork`, say) holds the host's end of the pair, and
//!   the guard waits for that process's end too.
//! - Two things can end a guard before its time: SIGKILL to itself, and the end
//!   of its container or cgroup, which takes the plugins along.
//! - Where the host was killed, and no process reaps orphans, what it leaves
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

/// What `ps -o comm` shows; the kernel keeps 15 bytes.
const NAME: &CStr = c"ekuiper-guard";

/// From SIGTERM to SIGKILL, as a number of [`LOOK`]s: one second.
const GRACE: u32 = 100;

/// From one look at the group to the next: 10 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The host's end of a guard's line. Dropped without [`ProcessGuard::end`], it
/// has the group ended.
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

    /// Ends the guard of a group that has been dealt with; the guard touches
    /// nothing. To be called while the group's number is still the group's.
    pub(crate) fn dismiss(&mut self) {
        // A child of this process that nobody has waited for: the number is its
        // own.
        if !self.is_dismissed && matches!(wait_for(self.pid.as_raw_nonzero().get(), libc::WNOHANG), Ok(None)) {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        }
        self.is_dismissed = true;
    }

    /// The same, and waits for its end: nothing is left of it.
    pub(crate) fn end(mut self) {
        self.dismiss();
        let _ = wait_for(self.pid.as_raw_nonzero().get(), 0);
    }
}

/// The first three descriptors are replaced in the leader's process before
/// anything else is done with others.
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

/// Waits for a child that sends no SIGCHLD, and which ordinary waits therefore
/// do not see. Returns its wait status; `None` where `options` say not to wait,
/// and it has not ended.
///
/// # Errors
/// It is no child of this process.
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

/// Reaps what has become a child of this process of a group whose leader has
/// been reaped and whose members have all been killed. Processes whose parent
/// ends become children of process 1, or of the nearest process that adopts
/// orphans: where that is this one, nobody else knows what they are, and no
/// other child of this process is touched.
pub(crate) fn reap_orphans(group: Pid) {
    while let Ok(Some(_)) = wait_for(-group.as_raw_nonzero().get(), 0) {}
}

// From here on, everything runs in a process that has one thread and a copy of
// the memory of a process with many: a lock may be held for ever by a thread
// that is not there. Only system calls are made, on memory of the stack.

/// The guard's life.
fn be_guard(line: BorrowedFd<'_>) -> ! {
    let report = match prepare(line) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX),
    };
    // The host may be gone: that is seen below.
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

/// The number of the group; `None` when the host is gone before there is one.
fn hear_group(line: BorrowedFd<'_>) -> Option<Pid> {
    let mut number = [0; 4];
    match retry(|| rustix::net::recv(line, &mut number, RecvFlags::empty())) {
        Ok((_, 4)) => Pid::from_raw(i32::from_ne_bytes(number)),
        _ => None,
    }
}

/// Waits for the host's end, and ends the group.
fn watch(line: BorrowedFd<'_>, group: Pid) {
    // Nothing more is said: an error is an end too, that of a host which left
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

/// Forks a child that runs `child`. No signal is sent at its end: it is
/// nobody's business but that of this crate. It begins with every signal
/// blocked, since a handler of the host's must not run in a copy of it.
///
/// # Safety
/// `child` must make system calls on memory that was made before, and nothing
/// else: it must not allocate, lock or panic.
pub(crate) unsafe fn fork_quietly(child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
    const ZERO: c_long = 0;
    let former = set_signals(&every_signal())?;
    // Not libc's `fork`: that runs the handlers of `pthread_atfork`, which may
    // do anything.
    // SAFETY: a plain fork, which shares no memory: no flags, the same stack,
    // nothing to be written. What the child may do is the caller's promise.
    let outcome = unsafe { libc::syscall(libc::SYS_clone, ZERO, ZERO, ZERO, ZERO, ZERO) };
    if outcome == 0 {
        child();
    }
    let error = io::Error::last_os_error();
    set_signals(&former)?;
    c_int::try_from(outcome).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(error)
}

/// A mask of all signals.
fn every_signal() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    // SAFETY: `sigfillset` writes the set whole, and cannot fail.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    }
}

/// Blocks these signals and no others; returns the former mask.
fn set_signals(mask: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut former = MaybeUninit::uninit();
    // SAFETY: both sets live as long as the call.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, former.as_mut_ptr()) } {
        // SAFETY: it succeeded and has written the former mask.
        0 => Ok(unsafe { former.assume_init() }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Gives this process the signals' handling that a program expects to start
/// with: none blocked, none ignored, whatever the host has done for itself. For
/// a process between fork and exec; a handler would end with exec anyway.
pub(crate) fn default_signals() -> io::Result<()> {
    // The last one of Linux, and how many bytes a set of them has there.
    const LAST: c_int = 64;
    const SET: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    // The kernel's `struct sigaction` for SIG_DFL, and room: all is zero.
    let default = [0_u64; 8];
    let no_former: *mut u64 = std::ptr::null_mut();
    for signal in 1..=LAST {
        // Not libc's `sigaction`: newer ones take a lock for SIGABRT. It fails
        // for SIGKILL and SIGSTOP, which cannot be ignored.
        // SAFETY: `default` lives as long as the call, and is as long as any
        // machine's structure.
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

/// The same, from the list in `/proc`.
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
