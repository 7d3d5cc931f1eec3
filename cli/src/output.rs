//! stdout: results, one JSON value per line.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::LazyLock;

use rustix::event::{PollFd, PollFlags, poll};

use crate::console;
use crate::error::{Error, Result};

/// Whether stdout still has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The line was written.
    Reads,
    /// The reader has closed its end, as `head` does, which is not a failure.
    HasGone,
}

/// stdout is a terminal, so the line of counters may be in the way of results.
static IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| std::io::stdout().is_terminal());

/// Calls `gone`, from a separate thread, when the reader of stdout closes its
/// end, even if nothing is being written.
pub(crate) fn when_the_reader_has_gone(gone: impl FnOnce() + Send + 'static) -> Result<()> {
    let watch = move || {
        loop {
            // No events are requested: errors and the end are reported anyway.
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
/// The write fails, on a full disk for example.
pub(crate) fn line(result: impl Display) -> Result<Reader> {
    if *IS_TERMINAL {
        console::clear_counters();
    }
    written(write_line(&mut std::io::stdout().lock(), result))
}

/// Rows on their way to stdout: many small writes would cost more than the rows.
#[derive(Debug, Default)]
pub(crate) struct RowWriter {
    bytes: Vec<u8>,
}

/// Number of bytes that are written together.
const TOGETHER: usize = 64 << 10;

impl RowWriter {
    /// Whether all rows are written.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds a row, and writes those before it if they are many.
    ///
    /// # Errors
    /// As [`line()`].
    pub(crate) fn add(&mut self, row: impl Display) -> Result<Reader> {
        // Writing into memory cannot fail.
        let _ = writeln!(self.bytes, "{row}");
        if self.bytes.len() >= TOGETHER { self.write() } else { Ok(Reader::Reads) }
    }

    /// Writes all rows.
    ///
    /// # Errors
    /// As [`line()`].
    pub(crate) fn write(&mut self) -> Result<Reader> {
        if *IS_TERMINAL {
            console::clear_counters();
        }
        let mut stdout = std::io::stdout().lock();
        let outcome = stdout.write_all(&self.bytes).and_then(|()| stdout.flush());
        self.bytes.clear();
        written(outcome)
    }
}

fn write_line(to: &mut impl Write, result: impl Display) -> std::io::Result<()> {
    writeln!(to, "{result}")?;
    to.flush()
}

/// Derives from the outcome of a write whether stdout has a reader.
pub(crate) fn written(outcome: std::io::Result<()>) -> Result<Reader> {
    match outcome {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::HasGone),
        Err(error) => Err(Error::Output(error)),
    }
}
