//! The guard of a plugin's process group: ends the group when the host is gone
//! without having ended it, as after SIGKILL.
//!
//! A plugin cannot be relied on to notice: an idle plugin of the official Go
//! SDK does not, nor do a plugin's own children, nor what a `conda run`-like
//! wrapper runs as its child. A parent-death signal reaches only the direct
//! child, and fires when the *thread* that spawned it ends. So each group gets
//! a process that does nothing but wait for the host's end.
//!
//! # How it lives
//!
//! [`Guard::spawn`] makes a socket pair. The plugin's process, forked and not
//! yet executing, forks twice: the process in the middle prepares itself and
//! the guard, which inherits everything from it, and ends; the plugin's process
//! waits for that, so a start either has its guard or fails. The guard is
//! nobody's child but init's (or the nearest subreaper's: when that is the host
//! itself, as in a container whose first process it is, the host reaps it). It
//! has a session of its own, without a terminal, blocks every signal that can
//! be blocked, stands in `/`, is named [`NAME`], and has one descriptor: its
//! end of the socket pair. In particular it has neither the plugin's output,
//! which would never end, nor the host's end of another guard's pair, which
//! would keep that one waiting.
//!
//! The guard reads. A byte says that the host has dealt with the group: it ends
//! and touches nothing. The end of the stream says that the host is gone,
//! however it went: SIGTERM to the group, [`GRACE`], SIGKILL. A host that is
//! merely stopped keeps its descriptors, and its plugins.
//!
//! The group's number cannot be another's meanwhile: the host dismisses the
//! guard before it reaps the group's leader. Once the host is gone, init may
//! free the number; the guard looks every [`LOOK`] whether the group is gone,
//! and the kernel gives a number out again only after all others.
//!
//! # What it costs, and what it cannot do
//!
//! - The guard is a fork of the host: it shows the host's command line and
//!   resident memory in `ps`. The memory is shared, and what the host changes
//!   later is kept in its old state for the guard: in the worst case a guard
//!   holds as much memory as the host had when the plugin was started. Start
//!   plugins before filling large caches. Each start copies the page tables
//!   three times (2 ms per 100 MB each, measured), and fails where the system
//!   refuses to promise that memory (`vm.overcommit_memory=2`).
//! - A process that leaves the group (`setsid`, `setpgid`: a daemon) is out of
//!   reach, as it is for the host.
//! - A process that the host forks without executing anything (Python's
//!   `multiprocessing` with `fork`, say) holds the host's end of the pair, and
//!   the guard waits for that process's end too.
//! - Two things can end a guard before its time: SIGKILL to itself, and the end
//!   of its container or cgroup, which takes the plugins along.
#![allow(unsafe_code)] // between fork and exec, and for what rustix does not offer

use std::ffi::{CStr, c_int, c_long};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use rustix::thread::Timespec;

/// What `ps -o comm` shows; the kernel keeps 15 bytes.
const NAME: &CStr = c"ekuiper-guard";

/// From SIGTERM to SIGKILL, as a number of [`LOOK`]s: one second.
const GRACE: u32 = 100;

/// From one look at the group to the next: 10 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// How long the end of a dismissed guard is waited for: it takes longer only
/// when somebody has stopped it.
const FAREWELL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The host's end of a guard's line. Dropped without [`Guard::dismiss`], it has
/// the group ended.
#[derive(Debug)]
pub(crate) struct Guard {
    line: OwnedFd,
    /// Its process, where it became a child of this one.
    adopted: Option<Pid>,
}

impl Guard {
    /// Starts a command as the leader of a process group of its own, with a
    /// guard.
    pub(crate) fn spawn(mut command: Command) -> io::Result<(Child, Self)> {
        let (host, guard) = UnixStream::pair()?;
        let guard = clear_of_stdio(guard.into())?;
        command.process_group(0);
        // SAFETY: `start` is what may run between fork and exec: system calls
        // on the stack's own memory, no allocation, no lock, no panic.
        unsafe { command.pre_exec(move || start(guard.as_fd())) };
        let spawned = command.spawn();
        // The guard's end is now the guard's alone.
        drop(command);
        let guard = Self { adopted: adopted(host.as_fd()), line: host.into() };
        match spawned {
            Ok(child) => Ok((child, guard)),
            Err(error) => {
                // It may be there: executing comes after it.
                guard.dismiss();
                guard.wait();
                Err(explain(error))
            }
        }
    }

    /// Tells the guard that the group has been dealt with: it ends, and touches
    /// nothing. To be called while the group's number is still the group's.
    pub(crate) fn dismiss(&self) {
        // It fails when the guard is gone already: then there is none to tell.
        let _ = retry(|| rustix::net::send(&self.line, &[1], SendFlags::NOSIGNAL));
    }

    /// Waits for the end of a guard that has been dismissed, so that nothing is
    /// left of it; where it is this process's child, it would stay a zombie
    /// otherwise. It comes at once; it is waited for at most [`FAREWELL`].
    pub(crate) fn wait(self) {
        let mut end = [PollFd::new(&self.line, PollFlags::empty())];
        let ended = retry(|| rustix::event::poll(&mut end, Some(&FAREWELL)));
        if let (Ok(1..), Some(pid)) = (ended, self.adopted) {
            let _ = retry(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
        }
    }
}

/// The first three descriptors are replaced in the plugin's process before its
/// guard is forked.
fn clear_of_stdio(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() > 2 {
        return Ok(descriptor);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?)
}

/// The guard's process, if its parent is this process. It says its number when
/// it is forked; asked at once, the number is surely its own.
fn adopted(line: BorrowedFd<'_>) -> Option<Pid> {
    let mut number = [0; 4];
    let received = retry(|| rustix::net::recv(line, &mut number, RecvFlags::DONTWAIT));
    let (_, 4) = received.ok()? else { return None };
    let pid = Pid::from_raw(i32::from_ne_bytes(number))?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(pid), look).ok().map(|_| pid)
}

fn explain(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::AGAIN | Errno::NOMEM) => io::Error::new(
            error.kind(),
            format!(
                "{error}: a plugin needs two processes, itself and a guard that shares the host's memory; \
                 raise the limit of processes (ulimit -u, pids.max) or of memory"
            ),
        ),
        _ => error,
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

// From here on, everything runs between fork and exec, in a process that has
// one thread and a copy of the memory of a process with many: a lock may be
// held for ever by a thread that is not there. Only system calls are made, on
// memory of the stack.

/// In the plugin's process: starts the guard of the group that it leads.
fn start(line: BorrowedFd<'_>) -> io::Result<()> {
    let group = rustix::process::getpid();
    // In the guard for good; and a handler of the host's must not run in a copy
    // of it.
    let former = block_signals()?;
    let started = match fork() {
        Ok(None) => end(match prepare(line, group) {
            Ok(()) => 0,
            // Error numbers are below 256, as exit statuses are.
            Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
        }),
        Ok(Some(middle)) => wait_for(middle),
        Err(error) => Err(error),
    };
    set_signals(&former)?;
    started
}

/// In the process between the plugin's and the guard's: makes itself what the
/// guard is to be, forks it, and tells the host its number.
fn prepare(line: BorrowedFd<'_>, group: Pid) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir(c"/")?;
    rustix::thread::set_name(NAME)?;
    close_all_but(line)?;
    match fork()? {
        None => watch(line, group),
        Some(guard) => {
            // The host may be gone: the guard will see it.
            let _ = retry(|| rustix::net::send(line, &guard.to_ne_bytes(), SendFlags::NOSIGNAL));
            Ok(())
        }
    }
}

/// The guard's life.
fn watch(line: BorrowedFd<'_>, group: Pid) -> ! {
    let mut word = [0];
    // An error is an end too: that of a host which left something unread.
    if let Ok(1..) = retry(|| rustix::io::read(line, &mut word)) {
        end(0);
    }
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    for _ in 0..GRACE {
        if rustix::process::test_kill_process_group(group) == Err(Errno::SRCH) {
            end(0);
        }
        let _ = rustix::thread::nanosleep(&LOOK);
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    end(0)
}

/// The child's number, or `None` in the child. Not libc's `fork`: that runs the
/// handlers of `pthread_atfork`, which may do anything.
fn fork() -> io::Result<Option<c_int>> {
    const ZERO: c_long = 0;
    // SAFETY: a plain fork, which shares no memory: no flags, the same stack,
    // nothing to be written. No signal is sent at the child's end, so a host
    // that ignores SIGCHLD still gets to wait for it.
    let outcome = unsafe { libc::syscall(libc::SYS_clone, ZERO, ZERO, ZERO, ZERO, ZERO) };
    match c_int::try_from(outcome) {
        Ok(0) => Ok(None),
        Ok(child @ 1..) => Ok(Some(child)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for a child that reports an error's number as its exit status.
fn wait_for(child: c_int) -> io::Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives as long as the call. __WALL: the child sends
        // no SIGCHLD.
        if unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) } == child {
            break;
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, error) => Err(io::Error::from_raw_os_error(error)),
        // Somebody killed it.
        (false, _) => Err(io::Error::from_raw_os_error(libc::ECHILD)),
    }
}

/// Blocks every signal; returns the former mask.
fn block_signals() -> io::Result<libc::sigset_t> {
    let mut all = MaybeUninit::uninit();
    let mut former = MaybeUninit::uninit();
    // SAFETY: both sets live as long as the calls; `sigfillset` writes the
    // first whole before it is read.
    let outcome = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), former.as_mut_ptr())
    };
    match outcome {
        // SAFETY: `sigprocmask` succeeded and has written it.
        0 => Ok(unsafe { former.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_signals(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `mask` is a whole set, and lives as long as the call.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor of this process but one.
fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept_number = kept.as_raw_fd();
    let (Ok(below), Ok(above)) =
        (u32::try_from(kept_number.wrapping_sub(1)), u32::try_from(kept_number.wrapping_add(1)))
    else {
        return Err(Errno::BADF.into());
    };
    for (first, last) in [(0, below), (above, u32::MAX)] {
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

fn end(status: c_int) -> ! {
    // SAFETY: it ends this process, and runs no destructor of the host's.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, Rlimit};
    use std::io::Read;

    /// Limits a command to `count` processes, as a user who has no others.
    fn limit(command: &mut Command, user: u32, count: u64) {
        let limit = move || {
            let user = rustix::process::Uid::from_raw(user);
            rustix::thread::set_thread_res_uid(user, user, user)?;
            let limit = Rlimit { current: Some(count), maximum: Some(count) };
            Ok(rustix::process::setrlimit(Resource::Nproc, limit)?)
        };
        // SAFETY: two system calls.
        unsafe { command.pre_exec(limit) };
    }

    #[test]
    fn a_start_without_its_guard_fails_with_the_reason() {
        // Root has no limit, and nobody else can be somebody else.
        let own = rustix::process::getuid();
        let cases: &[_] = match own.is_root() {
            // For neither of its two forks, and for the first only.
            true => &[(3_141_592, 1), (2_718_281, 2)],
            false => &[(own.as_raw(), 0)],
        };
        for &(user, count) in cases {
            let mut command = Command::new("/bin/true");
            limit(&mut command, user, count);
            let error = Guard::spawn(command).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert!(error.to_string().contains("a plugin needs two processes"), "{error}");
        }
    }

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
            end(0)
        };
        // SAFETY: system calls on the stack's memory only.
        unsafe { command.pre_exec(close) };
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
