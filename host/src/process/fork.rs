//! New processes: copies of this one, and programs that take their place.
//!
//! No end of such a process sends a SIGCHLD, since it concerns only this crate:
//! ordinary waits do not see it, nor does an engine that waits for any child.
#![allow(unsafe_code)] // what runs in the new process, and what rustix does not offer

use std::convert::Infallible;
use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::process::Pid;

/// Size of the stack of a program's first moments, with a page below it that
/// nothing may touch. What runs there needs a few kilobytes.
const STACK: usize = 256 << 10;

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
pub(super) fn reap_orphans(group: Pid) {
    while let Ok(Some(_)) = wait_for(-group.as_raw_nonzero().get(), 0) {}
}

/// Copies this process into a child that runs `child`, with every signal
/// blocked, since a handler of the host must not run in a copy of it.
///
/// # Safety
/// The child has one thread and a copy of the memory of a process with many: a
/// lock may be held forever by a thread that does not exist. `child` must make
/// system calls on memory allocated before, and nothing else: it must not
/// allocate, lock or panic.
pub(super) unsafe fn copy(child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
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
pub(super) unsafe fn spawn<C: FnOnce() -> Infallible>(child: C) -> io::Result<Pid> {
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
pub(super) fn default_signals() -> io::Result<()> {
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
    let mut none = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` writes the set whole, and cannot fail.
    let none = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        none.assume_init()
    };
    set_signals(&none).map(drop)
}

/// Ends this process, which is between fork and exec.
pub(super) fn end() -> ! {
    // SAFETY: it ends this process, and runs no destructor of the host's.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
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
