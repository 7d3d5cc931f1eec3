//! The command as the first process of a container: it does its work in a child,
//! and is what a container's first process has to be. It reaps whatever becomes
//! its child when its own parent has ended, and passes signals on.
//!
//! Not in one process: who waits for any child takes the ends of those that
//! others wait for.
#![allow(unsafe_code)] // calls for the terminal and SIGCHLD

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};

use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// Does the work of process 1, where this is it. Returns the exit code of the
/// child that does the command's; `None` where this process is any other.
pub(crate) fn be_init() -> Option<io::Result<ExitCode>> {
    (std::process::id() == 1).then(run)
}

/// Has the ends of this process's children known to it, also where its parent
/// has it ignore SIGCHLD: the kernel forgets at once how they ended then.
pub(crate) fn hear_of_children() {
    // SAFETY: a system call without memory, before there is another thread.
    unsafe { libc::signal(SIGCHLD, libc::SIG_DFL) };
}

fn run() -> io::Result<ExitCode> {
    // Before there is a child, so that no end is missed.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "ekuiper-plugin".into());
    let mut command = Command::new("/proc/self/exe");
    // In its own group: what a terminal sends to that of this process is passed
    // on, and would come twice.
    command.arg0(name).args(arguments).process_group(0);
    // It ends with this process, as everything in the container does.
    #[allow(clippy::disallowed_methods)]
    let child = Pid::from_child(&command.spawn()?);
    give_terminal(child);
    loop {
        for signal in signals.wait() {
            if signal != SIGCHLD
                && let Some(signal) = Signal::from_named_raw(signal)
            {
                // Not reaped yet, so the number is its own.
                let _ = kill_process(child, signal);
            }
        }
        if let Some(status) = reap(child) {
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            return Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
}

/// Reaps every child that has ended; how the one did that does the work.
fn reap(worker: Pid) -> Option<ExitStatus> {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == worker {
            return Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
    None
}

/// Gives the child the terminal, where there is one: nobody else may read it.
fn give_terminal(child: Pid) {
    // SAFETY: a system call without memory. It fails where there is no
    // terminal, or where it is another session's.
    if unsafe { libc::tcsetpgrp(libc::STDIN_FILENO, child.as_raw_nonzero().get()) } == 0 {
        // It may have been stopped, for reading before.
        let _ = kill_process(child, Signal::CONT);
    }
}
