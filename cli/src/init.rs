//! The command as process 1 of a container: it runs its work in a child
//! process, reaps orphans, which become its children, and forwards signals.
//!
//! This needs two processes: a process that waits for any child takes the exit
//! statuses that its other code waits for.
#![allow(unsafe_code)] // calls for the terminal and SIGCHLD

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};

use ekuiper_transport_ipc::platform::own_executable;
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// Does the work of process 1, where this process is it. Returns the exit code
/// of the child that runs the command; `None` in any other process.
pub(crate) fn be_init() -> Option<io::Result<ExitCode>> {
    (std::process::id() == 1).then(run)
}

/// Resets SIGCHLD, so that this process learns how its children end. A parent
/// may have passed it on as ignored, in which case the kernel discards their
/// exit statuses.
pub(crate) fn hear_of_children() {
    // SAFETY: a system call without memory, before there is another thread.
    unsafe { libc::signal(SIGCHLD, libc::SIG_DFL) };
}

fn run() -> io::Result<ExitCode> {
    // Before the first child, so that no exit is missed.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "ekuiper-plugin".into());
    let mut command = Command::new(own_executable()?);
    // In its own process group: a terminal's signals to this process's group
    // are forwarded, and would arrive twice.
    command.arg0(name).args(arguments).process_group(0);
    // The child ends with this process, as everything in the container does.
    #[allow(clippy::disallowed_methods)]
    let child = Pid::from_child(&command.spawn()?);
    give_terminal(child);
    loop {
        for signal in signals.wait() {
            if signal != SIGCHLD
                && let Some(signal) = Signal::from_named_raw(signal)
            {
                // Not reaped yet, so the process id is still the child's.
                let _ = kill_process(child, signal);
            }
        }
        if let Some(status) = reap(child) {
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            return Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
}

/// Reaps every child that has ended; returns the exit status of the worker.
fn reap(worker: Pid) -> Option<ExitStatus> {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == worker {
            return Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
    None
}

/// Gives the terminal, if any, to the child: no other process may read it.
fn give_terminal(child: Pid) {
    // SAFETY: a system call without memory. It fails without a terminal, or
    // with one of another session.
    if unsafe { libc::tcsetpgrp(libc::STDIN_FILENO, child.as_raw_nonzero().get()) } == 0 {
        // The child may have been stopped for reading before.
        let _ = kill_process(child, Signal::CONT);
    }
}
