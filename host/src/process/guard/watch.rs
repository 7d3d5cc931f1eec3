//! The guard's own process: waits for the host's end, and ends the groups.
//!
//! It has one thread and a copy of the memory of a process with many: only
//! system calls are made, on memory that was allocated before the copy.
#![allow(unsafe_code)] // for what rustix does not offer

use std::ffi::{CStr, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::Timespec;

use super::{Message, Order};
use crate::process::fork::{end, retry};

/// Name shown by `ps -o comm`; the kernel keeps 15 bytes.
const NAME: &CStr = c"ekuiper-guard";

/// Time from SIGTERM to SIGKILL, as a number of [`LOOK`]s: one second.
const GRACE: u32 = 100;

/// Interval of the check of the groups: 10 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// No process's id: a group that has ended.
const GONE: c_int = 0;

/// Runs the guard, which keeps its groups in `space`.
pub(super) fn be_guard(line: BorrowedFd<'_>, space: &mut [c_int]) -> ! {
    let report = match prepare(line) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX),
    };
    // The host may be gone, which is noticed below.
    let _ = retry(|| rustix::net::send(line, &[report], SendFlags::NOSIGNAL));
    if report == 0 {
        let count = obey(line, space);
        end_groups(space.get_mut(..count).unwrap_or_default());
    }
    end()
}

fn prepare(line: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir(c"/")?;
    rustix::thread::set_name(NAME)?;
    close_all_but(line)
}

/// Does what the host says until it is gone; returns the number of groups then.
fn obey(line: BorrowedFd<'_>, space: &mut [c_int]) -> usize {
    let mut count = 0;
    let mut bytes = [0; Message::LENGTH];
    // An error is an end too, that of a host which left something unread.
    while let Ok((_, Message::LENGTH)) = retry(|| rustix::net::recv(line, &mut bytes, RecvFlags::empty())) {
        match Message::decode(bytes) {
            Some(Message { order: Order::Guard, group }) => {
                if let Some(free) = space.get_mut(count) {
                    *free = group;
                    count += 1;
                }
            }
            Some(Message { order: Order::Dismiss, group }) => {
                let mut kept = 0;
                for index in 0..count {
                    if space.get(index) != Some(&group) {
                        space.swap(kept, index);
                        kept += 1;
                    }
                }
                count = kept;
                let _ = retry(|| rustix::net::send(line, &bytes, SendFlags::NOSIGNAL));
            }
            None => {}
        }
    }
    count
}

/// Ends what is left of the groups of a host that is gone.
fn end_groups(groups: &mut [c_int]) {
    signal(groups, Signal::TERM);
    for _ in 0..GRACE {
        for group in groups.iter_mut() {
            // From now on its id may be another's.
            if Pid::from_raw(*group).map(rustix::process::test_kill_process_group) == Some(Err(Errno::SRCH)) {
                *group = GONE;
            }
        }
        if groups.iter().all(|group| *group == GONE) {
            return;
        }
        let _ = rustix::thread::nanosleep(&LOOK);
    }
    signal(groups, Signal::KILL);
}

fn signal(groups: &[c_int], signal: Signal) {
    for group in groups.iter().filter_map(|group| Pid::from_raw(*group)) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
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
