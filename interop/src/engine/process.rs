//! Processes that are not the test's children: found by a mark that they
//! inherit, waited for by a descriptor.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::guard::ends_within;

/// The variable that marks an engine and all that it starts.
pub const MARK: &str = "EKUIPER_INTEROP_ENGINE";

/// A process that lived when it was found.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// All living processes with this mark.
    pub fn marked(mark: &str) -> Vec<Self> {
        let entry = format!("{MARK}={mark}");
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|found| found.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| {
            // The descriptor first: what is read then is this process's, or
            // the process has ended.
            let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let process = Self { pid, fd };
            let is_marked = environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes());
            (is_marked && !process.ends_within(Duration::ZERO)).then_some(process)
        })
        .collect()
    }

    /// The marked processes that run a program of this name.
    pub fn running(mark: &str, program: &str) -> Vec<Self> {
        let mut found = Self::marked(mark);
        found.retain(|process| {
            let path = std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
            // The kernel's way to say that the file was removed.
            let name = path.file_name().unwrap_or(Path::new("").as_os_str()).to_string_lossy().into_owned();
            name.trim_end_matches(" (deleted)") == program
        });
        found
    }

    /// Whether it is an interpreter that runs a script of this name.
    pub fn runs(&self, script: &str) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next();
        words.any(|word| word == script.as_bytes() || word.ends_with(format!("/{script}").as_bytes()))
    }

    /// Who has started it, while it lives.
    pub fn parent(&self) -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    }

    /// Whether it has ended by then.
    pub fn ends_within(&self, patience: Duration) -> bool {
        ends_within(&self.fd, patience)
    }

    /// Sends a signal, if it still lives.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }
}

/// Kills whatever has this mark.
pub fn kill_marked(mark: &str) {
    Process::marked(mark).iter().for_each(|process| process.signal(Signal::KILL));
}
