//! Real-time priority for the threads that measure stalls: what holds them up
//! then is a lock of the host, or the machine itself, and no other thread that
//! wants the same processor.

use std::process::{Command, Stdio};

use rustix::thread::gettid;

/// Real-time priority of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Priority {
    /// Of an engine's executor.
    Executor = 1,
    /// Of a thread that watches the machine, executors included.
    Watch = 2,
}

/// Gives the calling thread real-time priority, if the system allows it;
/// returns whether it did. Threads and processes that it starts do not inherit
/// it.
pub(crate) fn favor_this_thread(priority: Priority) -> bool {
    let thread = gettid().as_raw_nonzero().to_string();
    let chrt = Command::new("chrt")
        .args(["--reset-on-fork", "--rr", "--pid", &(priority as u8).to_string(), &thread])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    chrt.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_favored_thread_starts_is_not_favored() {
        if !favor_this_thread(Priority::Watch) {
            eprintln!("SKIPPED: real-time priority needs root here");
            return;
        }
        let policy = || {
            let shown = Command::new("chrt").args(["--pid", &gettid().as_raw_nonzero().to_string()]).output().unwrap();
            String::from_utf8(shown.stdout).unwrap()
        };
        assert!(policy().contains("SCHED_RR"), "{}", policy());
        let other = std::thread::spawn(policy).join().unwrap();
        assert!(other.contains("SCHED_OTHER"), "{other}");
    }
}
