//! stdout: results, one JSON value per line.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

use ekuiper_core::sync::lock;
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

/// The last rows, while a view is on the terminal; `None` if it has taken them.
static DIVERTED: Mutex<Option<VecDeque<String>>> = Mutex::new(None);

/// Whether a view is on the terminal.
static IS_DIVERTED: AtomicBool = AtomicBool::new(false);

/// Maximum number of rows, and of bytes of each, that a view shows.
const SHOWN: usize = 100;
const SHOWN_BYTES: usize = 1000;

/// The last rows, which are written again after the view.
static LAST: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Maximum number of them.
const TOLD_AGAIN: usize = 10;

/// Keeps the last rows for a view on the terminal, from now on.
pub(crate) fn divert() {
    IS_DIVERTED.store(true, Ordering::SeqCst);
}

/// Moves the last rows to `rows`, which remain the last ones.
pub(crate) fn diverted(rows: &mut Option<VecDeque<String>>) {
    let Some(mut last) = lock(&DIVERTED).take() else { return };
    let rows = rows.get_or_insert_default();
    rows.append(&mut last);
    rows.drain(..rows.len().saturating_sub(SHOWN));
}

/// Writes to stdout again, first the last rows that it has missed.
pub(crate) fn undivert() {
    let last = std::mem::take(&mut *lock(&LAST));
    let mut stdout = std::io::stdout().lock();
    for row in last {
        let _ = writeln!(stdout, "{row}");
    }
    let _ = stdout.flush();
    IS_DIVERTED.store(false, Ordering::SeqCst);
}

/// Keeps the last of these lines for the view.
fn keep(lines: &[u8]) {
    let mut last = lock(&DIVERTED);
    let last = last.get_or_insert_default();
    let text = lines.strip_suffix(b"\n").unwrap_or(lines);
    let mut new: Vec<_> = text.rsplit(|byte| *byte == b'\n').take(SHOWN).collect();
    new.reverse();
    let cut = |line: &[u8]| String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]).into_owned();
    let new = new.into_iter().map(cut).collect::<Vec<_>>();
    let mut told_again = lock(&LAST);
    told_again.extend(new.iter().skip(new.len().saturating_sub(TOLD_AGAIN)).cloned());
    let too_many = told_again.len().saturating_sub(TOLD_AGAIN);
    told_again.drain(..too_many);
    last.extend(new);
    last.drain(..last.len().saturating_sub(SHOWN));
}

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

    /// Adds a row, which `put` appends to the bytes, and writes those before it
    /// if they are many.
    ///
    /// # Errors
    /// That of `put`, in which case nothing is added; as [`line()`].
    pub(crate) fn add(&mut self, put: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Reader> {
        let start = self.bytes.len();
        if let Err(error) = put(&mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        self.bytes.push(b'\n');
        if self.bytes.len() >= TOGETHER { self.write() } else { Ok(Reader::Reads) }
    }

    /// Writes all rows.
    ///
    /// # Errors
    /// As [`line()`].
    pub(crate) fn write(&mut self) -> Result<Reader> {
        if IS_DIVERTED.load(Ordering::SeqCst) {
            keep(&self.bytes);
            self.bytes.clear();
            return Ok(Reader::Reads);
        }
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
