//! Running a program to its end, for a bounded time, with its output.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ekuiper_host::GuardedProcess;

use crate::interrupt::Interrupt;
use crate::program_output::{self, ReadUntil};

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
    let end = program_output::read(&mut output, Some(deadline), Some(interrupt), |piece| {
        kept.extend_from_slice(piece);
        kept.drain(..kept.len().saturating_sub(KEPT));
        true
    })?;
    let output = String::from_utf8_lossy(&kept).trim().to_owned();
    if end != ReadUntil::End {
        return Ok(Ended { status: None, output });
    }
    // It may have closed its output and go on.
    let (done, ended) = mpsc::channel();
    std::thread::Builder::new().name("wait".into()).spawn(move || done.send(child.wait()))?;
    let status = ended.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok().transpose()?;
    Ok(Ended { status, output })
}
