//! Running a program to its end, for a bounded time, with the end of its output.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use ekuiper_core::instant::later;
use ekuiper_host::GuardedProcess;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Maximum length of the output that is kept, in bytes: its end.
pub(crate) const KEPT: usize = 4 << 10;

/// Maximum length of the output, in bytes.
pub(crate) const MOST: u64 = 16 << 20;

/// Size of one read, in bytes.
const PIECE: usize = 64 << 10;

/// Interval of the look whether the program has ended, and the pause where its
/// output has.
const LOOK: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(5);

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Status(ExitStatus),
    /// It was killed, since it had not ended in time, or was cancelled.
    Late,
    /// It was killed, since it had written more than 16 MiB.
    Flooded,
}

/// Runs `program` in `folder`, for at most `patience`, and until `is_cancelled`;
/// returns how it ended, and the end of its output, stdout and stderr. What it
/// has started and left running is killed, and not waited for.
///
/// # Errors
/// It cannot be started.
pub fn run(
    program: &Path,
    arguments: &[OsString],
    folder: &Path,
    patience: Duration,
    is_cancelled: &dyn Fn() -> bool,
) -> io::Result<(Ended, String)> {
    let deadline = later(Instant::now(), patience);
    let (mut output, input) = io::pipe()?;
    let process = GuardedProcess::start(program, arguments, folder, input.try_clone()?, input)?;
    let (mut kept, mut written) = (Vec::new(), 0);
    let mut piece = vec![0; PIECE];
    let ended = loop {
        // Looked at before the output, so that nothing of that is missed.
        let has_ended = process.has_ended();
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = if has_ended { Duration::ZERO } else { left.min(LOOK) };
        let count = match poll(&mut [PollFd::new(&output, PollFlags::IN)], Timespec::try_from(wait).ok().as_ref()) {
            Err(Errno::INTR) | Ok(0) => None,
            Err(error) => return Err(error.into()),
            // The end of its output may come before its own.
            Ok(_) => Some(output.read(&mut piece)?).filter(|count| *count > 0),
        };
        if let Some(count) = count {
            kept.extend_from_slice(&piece[..count]);
            kept.drain(..kept.len().saturating_sub(KEPT));
            written += count as u64;
        }
        match count {
            _ if written > MOST => break Ended::Flooded,
            None if has_ended => break Ended::Status(process.wait()?),
            _ if left.is_zero() || is_cancelled() => break Ended::Late,
            // It has closed its output and goes on.
            None => std::thread::sleep(PAUSE),
            Some(_) => {}
        }
    };
    Ok((ended, String::from_utf8_lossy(&kept).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_cancelled_program_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["-c", "echo begun; sleep 1000"].map(OsString::from);
        let is_cancelled = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            let run = || {
                run(Path::new("/bin/sh"), &arguments, folder.path(), Duration::MAX, &|| {
                    is_cancelled.load(Ordering::SeqCst)
                })
            };
            let running = scope.spawn(run);
            std::thread::sleep(LOOK);
            is_cancelled.store(true, Ordering::SeqCst);
            running.join().unwrap().unwrap()
        });
        assert_eq!(ended.0, Ended::Late);
    }

    #[test]
    fn a_program_that_goes_on_without_its_output_is_ended_too() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["-c", "echo $$ > pid; exec >&- 2>&-; sleep 1000"].map(OsString::from);
        let ended = run(Path::new("/bin/sh"), &arguments, folder.path(), Duration::from_secs(3), &|| false).unwrap();
        assert_eq!(ended, (Ended::Late, String::new()));
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}
