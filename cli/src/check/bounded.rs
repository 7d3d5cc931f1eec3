//! Running a program to its end, for a bounded time, with its output.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ekuiper_host::GuardedProcess;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::interrupt::Interrupt;

/// Maximum length of the output that is kept, in bytes: its end.
const KEPT: usize = 4 << 10;

/// How a program ended.
pub(super) struct Ended {
    /// `None` if it did not end in time, and was killed.
    pub(super) status: Option<ExitStatus>,
    /// The end of its output, stdout and stderr.
    pub(super) output: String,
}

/// Runs a program in `folder`; a signal ends it.
///
/// # Errors
/// It cannot be started.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    folder: &Path,
    patience: Duration,
    interrupt: &Interrupt,
) -> io::Result<Ended> {
    let (mut output, input) = io::pipe()?;
    let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
    let child = GuardedProcess::start(Path::new(program), &arguments, folder, input.try_clone()?, input)?;
    let deadline = Instant::now() + patience;
    let mut kept = Vec::new();
    let is_over = read(&mut output, &mut kept, deadline, interrupt)?;
    let output = String::from_utf8_lossy(&kept).trim().to_owned();
    if !is_over {
        return Ok(Ended { status: None, output });
    }
    // It may have closed its output and go on.
    let (done, ended) = mpsc::channel();
    std::thread::Builder::new().name("wait".into()).spawn(move || done.send(child.wait()))?;
    let status = ended.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok().transpose()?;
    Ok(Ended { status, output })
}

/// Reads the output to its end; returns false if that did not come in time.
fn read(output: &mut PipeReader, kept: &mut Vec<u8>, deadline: Instant, interrupt: &Interrupt) -> io::Result<bool> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut both = [
            PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(interrupt.fd(), PollFlags::IN),
        ];
        match poll(&mut both, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(false),
            Ok(_) if interrupt.is_set() || left.is_zero() => return Ok(false),
            Ok(_) => {}
        }
        match output.read(&mut piece)? {
            0 => return Ok(true),
            count => kept.extend_from_slice(&piece[..count]),
        }
        if kept.len() > KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
}
