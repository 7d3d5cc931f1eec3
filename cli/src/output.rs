//! stdout: results, one JSON value a line.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::LazyLock;

use rustix::event::{PollFd, PollFlags, poll};

use crate::console;
use crate::error::{Error, Result};

/// Whether somebody reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The line was written.
    Reads,
    /// The reader has closed its end, as `head` does: it wants no more, which
    /// is no failure.
    HasGone,
}

/// The line of counters may stand where results go.
static IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| std::io::stdout().is_terminal());

/// Calls `gone`, from a thread of its own, when the reader of stdout closes its
/// end, though nothing is written there meanwhile.
pub(crate) fn when_the_reader_has_gone(gone: impl FnOnce() + Send + 'static) -> Result<()> {
    let watch = move || {
        loop {
            // Nothing is asked for: only errors and the end are told.
            match poll(&mut [PollFd::new(&std::io::stdout(), PollFlags::empty())], None) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return gone(),
                Err(_) => return,
            }
        }
    };
    std::thread::Builder::new().name("stdout".into()).spawn(watch).map_err(Error::Thread)?;
    Ok(())
}

/// Writes a result.
///
/// # Errors
/// It cannot be written, on a full disk for example.
pub(crate) fn line(result: impl Display) -> Result<Reader> {
    if *IS_TERMINAL {
        console::clear_counters();
    }
    written(write_line(&mut std::io::stdout().lock(), result))
}

fn write_line(to: &mut impl Write, result: impl Display) -> std::io::Result<()> {
    writeln!(to, "{result}")?;
    to.flush()
}

/// What an outcome says of who reads stdout.
pub(crate) fn written(outcome: std::io::Result<()>) -> Result<Reader> {
    match outcome {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::HasGone),
        Err(error) => Err(Error::Output(error)),
    }
}
