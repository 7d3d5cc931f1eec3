//! Linux: `clone`, `execveat`, affinities, and descriptors listed in `/proc`.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::{Errno, FdFlags};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::net::{SocketFlags, SocketType};
use rustix::process::Pid;
use rustix::thread::CpuSet;

use super::{end, every_signal, set_signals, unblock_signals};

/// Size of the stack of a program's first moments, with a page below it that
/// nothing may touch. What runs there needs a few kilobytes.
const STACK: usize = 256 << 10;

/// The option to wait for a child that sends no SIGCHLD.
pub(in crate::process) const ANY_CHILD: c_int = libc::__WALL;

/// The socket between a host and its guard: each message is received whole.
pub(in crate::process) const LINE: SocketType = SocketType::SEQPACKET;
pub(in crate::process) const LINE_FLAGS: SocketFlags = SocketFlags::CLOEXEC;

/// Copies this process into a child that runs `child`, with every signal
/// blocked, since a handler of the host must not run in a copy of it.
///
/// # Safety
/// The child has one thread and a copy of the memory of a process with many: a
/// lock may be held forever by a thread that does not exist. `child` must make
/// system calls on memory allocated before, and nothing else: it must not
/// allocate, lock or panic.
pub(in crate::process) unsafe fn copy(child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
    const ZERO: c_long = 0;
    let former = set_signals(&every_signal())?;
    // Not libc's `fork`: that runs the handlers of `pthread_atfork`, which may
    // do anything.
    // SAFETY: a plain fork, which shares no memory: no flags, the same stack,
    // nothing to be written. The caller ensures what the child does.
    let fork = |signal: c_int| unsafe { libc::syscall(libc::SYS_clone, c_long::from(signal), ZERO, ZERO, ZERO, ZERO) };
    let mut outcome = fork(0);
    if outcome == -1 && is_invalid() {
        outcome = fork(SIGNAL_UNDER_QEMU);
    }
    if outcome == 0 {
        child();
    }
    let error = io::Error::last_os_error();
    set_signals(&former)?;
    c_int::try_from(outcome).ok().and_then(child_of).ok_or(error)
}

/// Starts a child that runs `child`, which executes a program or ends. It uses
/// this process's memory until then, and the calling thread waits: nothing is
/// copied, and no other thread is held up. Every signal is blocked in it.
///
/// # Safety
/// `child` must make system calls on memory allocated before, and nothing else:
/// it must not allocate, lock or panic. Its end runs no destructor.
pub(in crate::process) unsafe fn spawn<C: FnOnce() -> Infallible>(child: C) -> io::Result<Pid> {
    extern "C" fn run<C: FnOnce() -> Infallible>(child: *mut c_void) -> c_int {
        // SAFETY: it is the option that `spawn` passes, which outlives this.
        let child = unsafe { (*child.cast::<Option<C>>()).take() };
        let _: Option<Infallible> = child.map(|child| child());
        end()
    }
    let stack = Stack::new()?;
    let mut child = Some(child);
    let argument: *mut Option<C> = &raw mut child;
    let former = set_signals(&every_signal())?;
    // SAFETY: the stack is the child's alone, and the calling thread, with all
    // that `child` refers to, waits until the child no longer uses the memory.
    let start = |flags| unsafe { libc::clone(run::<C>, stack.top(), flags, argument.cast()) };
    let mut outcome = start(libc::CLONE_VM | libc::CLONE_VFORK);
    if outcome == -1 && is_invalid() {
        outcome = start(libc::CLONE_VM | libc::CLONE_VFORK | SIGNAL_UNDER_QEMU);
    }
    let error = io::Error::last_os_error();
    set_signals(&former)?;
    child_of(outcome).ok_or(error)
}

/// Qemu emulates no child that sends no signal.
const SIGNAL_UNDER_QEMU: c_int = libc::SIGCHLD;

fn is_invalid() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::InvalidInput
}

fn child_of(outcome: c_int) -> Option<Pid> {
    Some(outcome).filter(|pid| *pid > 0).and_then(Pid::from_raw)
}

/// A stack in memory of its own, which is released on drop.
struct Stack(NonNull<c_void>);

impl Stack {
    fn new() -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::STACK);
        // SAFETY: the kernel chooses memory that nothing else uses.
        let lowest = unsafe { mmap_anonymous(std::ptr::null_mut(), STACK, access, flags)? };
        let stack = Self(NonNull::new(lowest).ok_or(Errno::NOMEM)?);
        // SAFETY: nothing uses the page yet, which is protected as a whole.
        unsafe { mprotect(stack.0.as_ptr(), 1, MprotectFlags::empty())? };
        Ok(stack)
    }

    /// Returns the address at which it begins, since stacks grow down.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past its end.
        unsafe { self.0.as_ptr().byte_add(STACK) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: nothing runs on it any more.
        let _ = unsafe { munmap(self.0.as_ptr(), STACK) };
    }
}

/// Resets signals to what a program expects at its start: none blocked, none
/// ignored, whatever the host has set up. For a process between fork and exec,
/// which resets handlers anyway.
pub(in crate::process) fn default_signals() -> io::Result<()> {
    // The last signal of Linux, and the size of a signal set in bytes.
    const LAST: c_int = 64;
    const SET: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    // The kernel's `struct sigaction` for SIG_DFL, and room: all zero.
    let default = [0_usize; 16];
    // The handler comes first, and 1 is SIG_IGN.
    let ignore = std::array::from_fn::<usize, 16, _>(|index| usize::from(index == 0));
    let no_former: *mut usize = std::ptr::null_mut();
    // A terminal's stop that is pending is discarded: it would stop the process
    // before its program, outside the group that is continued.
    for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
        // SAFETY: as below.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, ignore.as_ptr(), no_former, SET) };
    }
    for signal in 1..=LAST {
        // Not libc's `sigaction`: newer versions take a lock for SIGABRT. The
        // call fails for SIGKILL and SIGSTOP, which cannot be ignored.
        // SAFETY: `default` lives as long as the call, and is as long as the
        // structure of any machine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_former, SET) };
    }
    unblock_signals()
}

/// The processors that a process may use.
pub(in crate::process) struct Processors(CpuSet);

impl Processors {
    /// Chooses a number of the processors that this process may use, others than
    /// for the process before.
    pub(in crate::process) fn new(number: usize) -> io::Result<Self> {
        /// Number of the first processor of the next start.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let allowed: Vec<_> = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect();
        let first = NEXT.fetch_add(number, Ordering::Relaxed);
        let mut processors = CpuSet::new();
        for index in 0..number.min(allowed.len()) {
            processors.set(allowed[first.wrapping_add(index) % allowed.len()]);
        }
        Ok(Self(processors))
    }

    /// Restricts this process to them.
    pub(in crate::process) fn restrict(&self) -> io::Result<()> {
        Ok(rustix::thread::sched_setaffinity(None, &self.0)?)
    }
}

/// Executes an open file, whatever its path leads to by now; returns only on
/// failure.
///
/// # Safety
/// `arguments` and `environment` are null-terminated lists of null-terminated
/// strings.
pub(in crate::process) unsafe fn execute_file(
    file: &OwnedFd,
    _: &CString,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) {
    let (number, nothing) = (file.as_raw_fd(), c"".as_ptr());
    // SAFETY: the caller's promise, and a string that is a constant.
    let execute =
        || unsafe { libc::syscall(libc::SYS_execveat, number, nothing, arguments, environment, libc::AT_EMPTY_PATH) };
    execute();
    // An emulator opens the program by the descriptor's path, so that has to
    // stay open for it.
    if io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
        && rustix::io::fcntl_setfd(file, FdFlags::empty()).is_ok()
    {
        execute();
    }
}

/// Names this thread as `ps` shows it.
pub(in crate::process) fn name_thread(name: &CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// Closes every descriptor of this process but one.
pub(in crate::process) fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept_number = kept.as_raw_fd();
    let (below, above) = (kept_number.cast_unsigned().checked_sub(1), kept_number.cast_unsigned() + 1);
    for (first, last) in below.map(|below| (0, below)).into_iter().chain([(above, u32::MAX)]) {
        // SAFETY: this process runs only the guard, which uses no other
        // descriptor: none that is closed is anybody's.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::{AsFd, OwnedFd};
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
