//! The guard's own process: waits for the host's end, and ends the groups.
//!
//! It has one thread and a copy of the memory of a process with many: only
//! system calls are made, on memory that was allocated before the copy.

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::BorrowedFd;

use ekuiper_transport_ipc::platform::NO_SIGNAL;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::Timespec;

use super::{Message, Order};
use crate::process::fork::{close_all_but, end, name_thread, retry};

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
    let _ = retry(|| rustix::net::send(line, &[report], NO_SIGNAL));
    if report == 0 {
        let count = obey(line, space);
        end_groups(space.get_mut(..count).unwrap_or_default());
    }
    end()
}

fn prepare(line: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir(c"/")?;
    name_thread(NAME)?;
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
                let _ = retry(|| rustix::net::send(line, &bytes, NO_SIGNAL));
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
