//! Reading a source until its end, a number of rows, a timeout, or too many
//! errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_host::{RawTuple, Source, Stopper, Tuple};
use serde::de::DeserializeOwned;

use crate::args::Limits;
use crate::error::{Error, Result};
use crate::folded::RecordErrors;
use crate::interrupt::Interrupt;
use crate::output;

/// Number of rows that follow each other at once between two looks at the
/// clock.
const TOGETHER: u32 = 64;

/// A source being read, and the errors of its rows.
pub(crate) struct Reading<M> {
    source: Source<M>,
    symbol: String,
    wanted: Option<u64>,
    got: u64,
    /// Number of errors that the source reported.
    source_errors: u64,
    /// The timeout, and the instant when it expires.
    end: Option<(Duration, Instant)>,
    interrupt: Interrupt,
    /// The consumer of the rows has gone away.
    has_no_reader: Arc<AtomicBool>,
    pub(crate) errors: RecordErrors,
    /// Number of rows since the clock was last read.
    since_clock: u32,
}

impl<M: DeserializeOwned> Reading<M> {
    pub(crate) fn new(
        source: Source<M>,
        symbol: &str,
        wanted: Option<u64>,
        limits: &Limits,
        interrupt: &Interrupt,
    ) -> Self {
        // A timeout beyond the clock's range never expires.
        let end = limits.timeout.and_then(|time| Some((time, Instant::now().checked_add(time)?)));
        let errors = RecordErrors::new(limits.max_errors);
        let (symbol, interrupt, has_no_reader) = (symbol.to_owned(), interrupt.clone(), Arc::default());
        Self { source, symbol, wanted, got: 0, source_errors: 0, end, interrupt, has_no_reader, errors, since_clock: 0 }
    }

    /// Ends the reading, at once, when the reader of stdout goes away.
    pub(crate) fn ends_with_the_reader_of_stdout(&self) -> Result<()> {
        let (stopper, has_no_reader) = (self.source.stopper(), self.has_no_reader.clone());
        output::when_the_reader_has_gone(move || {
            has_no_reader.store(true, Ordering::SeqCst);
            stopper.stop();
        })
    }

    /// Returns the source's name.
    pub(crate) fn symbol(&self) -> &str {
        &self.symbol
    }

    /// Returns a handle that ends the reading from another thread.
    pub(crate) fn stopper(&self) -> Stopper {
        self.source.stopper()
    }

    /// Returns the number of errors that the source reported.
    pub(crate) fn source_errors(&self) -> u64 {
        self.source_errors
    }

    /// Counts the last row as an error of the source.
    ///
    /// # Errors
    /// There were too many consecutive errors.
    pub(crate) fn refuse(&mut self, error: &Error) -> Result<()> {
        self.got -= 1;
        self.source_errors += 1;
        self.errors.add(error)
    }

    /// Returns whether the reading has ended because of that.
    pub(crate) fn has_no_reader(&self) -> bool {
        self.has_no_reader.load(Ordering::SeqCst)
    }

    /// Returns the next row; `None` at the end. Errors of the source are
    /// reported.
    ///
    /// # Errors
    /// The source cannot continue; there were too many consecutive errors; the
    /// timeout expired before the requested number of rows.
    pub(crate) fn next(&mut self) -> Result<Option<Tuple<M>>> {
        self.next_or(None::<fn() -> Result<()>>)
    }

    /// Returns the next row, as [`next`](Self::next); if there is none yet,
    /// calls `idle` before it waits.
    pub(crate) fn next_or(&mut self, idle: Option<impl FnOnce() -> Result<()>>) -> Result<Option<Tuple<M>>> {
        self.advance(idle, |source, patience| match patience {
            None => source.next().transpose(),
            Some(patience) => source.next_within(patience),
        })
    }

    /// Receives the next row into `raw`, as [`next_or`](Self::next_or); returns
    /// false at the end.
    pub(crate) fn next_raw_or(
        &mut self,
        raw: &mut RawTuple,
        idle: Option<impl FnOnce() -> Result<()>>,
    ) -> Result<bool> {
        let received =
            |source: &mut Source<M>, patience| source.next_raw(raw, patience).map(|found| found.then_some(()));
        self.advance(idle, received).map(|row| row.is_some())
    }

    fn advance<T>(
        &mut self,
        mut idle: Option<impl FnOnce() -> Result<()>>,
        mut receive: impl FnMut(&mut Source<M>, Option<Duration>) -> ekuiper_host::Result<Option<T>>,
    ) -> Result<Option<T>> {
        while self.wanted.is_none_or(|wanted| self.got < wanted) {
            let patience = if idle.is_some() && self.since_clock < TOGETHER {
                Some(Duration::ZERO)
            } else {
                self.since_clock = 0;
                let due = self.errors.tell_due();
                let left = self.end.map(|(_, end)| end.saturating_duration_since(Instant::now()));
                if left.is_some_and(|left| left.is_zero()) {
                    return self.time_is_over();
                }
                if idle.is_some() { Some(Duration::ZERO) } else { due.into_iter().chain(left).min() }
            };
            self.since_clock += 1;
            match receive(&mut self.source, patience).map_err(Error::from) {
                Ok(Some(row)) => {
                    self.got += 1;
                    return Ok(Some(row));
                }
                Ok(None) => break,
                // Caused by the signal, or by the reader that went away.
                Err(_) if self.interrupt.is_set() || self.has_no_reader() => break,
                Err(Error::Host(ekuiper_host::Error::Timeout { .. })) if patience.is_some() => {
                    if let Some(idle) = idle.take() {
                        idle()?;
                    }
                }
                // The source may continue.
                Err(error) if error.concerns_one_record() => {
                    self.source_errors += 1;
                    self.errors.add(&error)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn time_is_over<T>(&self) -> Result<Option<T>> {
        match (self.wanted, self.end) {
            (Some(wanted), Some((after, _))) => {
                Err(Error::TooFew { symbol: self.symbol.clone(), got: self.got, wanted, after })
            }
            _ => Ok(None),
        }
    }
}
