//! A pipeline at work: from its sources, through its functions, to its sinks.
//!
//! Each source has a thread that reads it; one thread does all the rest, one
//! row after the other, so the rows of a source keep their order. What has
//! happened so far is in the [`Counts`], for whoever shows it.

mod counts;
mod functions;
mod plan;
mod row;
mod sinks;
mod sources;
mod window;

use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};

use ekuiper_core::sync::lock;

use crate::args::Limits;
use crate::drain;
use crate::error::{Error, Result};
use crate::folded::RecordErrors;
use crate::lines::longest;
use crate::output::Reader;
use crate::pipeline::Pipeline;
use crate::progress::{Progress, rate};
use crate::session::Session;
use functions::{Functions, Passed, Place, Work};
use plan::Plan;
use row::{Fields, Row};
use sinks::Sinks;
use sources::{Readers, Said, Sources, What};
use window::{Clock, ClosedWindow, OpenWindow};

pub(crate) use counts::{Counts, Snapshot};
#[cfg(test)]
pub(crate) use counts::{FunctionSnapshot, SinkSnapshot, SourceSnapshot};

/// Runs a pipeline to its end.
///
/// # Errors
/// A symbol cannot be opened, or cannot continue; there were too many
/// consecutive errors; a sink did not collect everything. What becomes of rows
/// is in `counts`.
pub(crate) fn run(
    session: &Session,
    pipeline: &Pipeline,
    limits: &Limits,
    counts: &Counts,
    progress: &mut Progress,
) -> Result<()> {
    session.host.start_all()?;
    let (functions, plan) = Functions::start(session, pipeline, &counts.functions)?;
    let sinks = Sinks::open(session, pipeline, counts)?;
    let sources = Sources::open(session, pipeline, limits)?;
    session.tell_what_happens()?;
    counts.has_begun.store(true, Ordering::Relaxed);
    let window = plan.windows.as_ref().zip(pipeline.window.as_ref());
    let window = window.map(|(plan, kind)| OpenWindow::new(*kind.get_ref(), plan));
    let mut flow = Flow {
        session,
        pipeline,
        counts,
        functions,
        plan: &plan,
        sinks,
        window,
        clock: Clock::start(),
        errors: RecordErrors::new(limits.max_errors),
    };
    // The sources are stopped before the sinks.
    let flowed = std::thread::scope(|scope| {
        let readers = sources.read(scope, pipeline.prints(), counts)?;
        flow.flow(&readers, progress)
    });
    let health = session.host.health().into_iter().flat_map(|plugin| plugin.symbols);
    let _ = counts.health.set(health.collect());
    let closed = flow.sinks.close(progress);
    drain::both(&session.interrupt, flowed, closed)
}

/// Why no more rows are taken.
enum End {
    /// All sources have ended; with the first one's reason that could not go on.
    OfSources(Result<()>),
    /// A signal came, or the reader of stdout has gone away.
    Early,
}

/// What has become of a row.
enum Worked {
    /// It goes on, with its results.
    On(String),
    /// A filter has not let it pass.
    Filtered,
    /// It is in the window, and was its last one, if that is closed.
    Windowed(Option<ClosedWindow>),
}

/// What is done to rows.
struct Flow<'p> {
    session: &'p Session,
    pipeline: &'p Pipeline,
    counts: &'p Counts,
    functions: Functions<'p>,
    plan: &'p Plan,
    sinks: Sinks<'p>,
    window: Option<OpenWindow>,
    clock: Clock,
    /// Errors of rows.
    errors: RecordErrors,
}

impl Flow<'_> {
    /// Takes what the sources say until they have ended. Then the last window
    /// ends too.
    fn flow(&mut self, readers: &Readers, progress: &mut Progress) -> Result<()> {
        let mut flowed = self.take_all(readers, progress);
        let is_complete = !matches!(flowed, Err(_) | Ok(End::Early)) && !self.is_interrupted();
        if let Some(closed) = self.window.as_mut().and_then(OpenWindow::close) {
            match is_complete {
                true => flowed = self.close(&closed).and(flowed),
                false => self.lose_window(&closed, flowed.is_err()),
            }
        }
        // Also what was printed before an error.
        let flushed = self.sinks.flush();
        match (flowed?, flushed?) {
            (End::OfSources(Err(error)), _) => Err(error),
            _ => Ok(()),
        }
    }

    fn take_all(&mut self, readers: &Readers, progress: &mut Progress) -> Result<End> {
        let mut failed = Ok(());
        loop {
            let Some(Said { source, what }) = self.receive(readers)? else {
                let has_no_reader = self.counts.has_no_reader.load(Ordering::SeqCst);
                return Ok(if has_no_reader { End::Early } else { End::OfSources(failed) });
            };
            match what {
                What::Rows(rows) => {
                    for text in rows.iter() {
                        if self.is_interrupted() || self.take(source, text)? == Reader::HasGone {
                            return Ok(End::Early);
                        }
                        progress.update(|elapsed| {
                            let counts = self.counts.snapshot();
                            counts.line(rate(counts.read(), elapsed))
                        });
                    }
                }
                // Those that go on are stopped; what they have said counts.
                What::Failed(error) => {
                    readers.stop();
                    failed = failed.and(Err(error));
                }
            }
        }
    }

    /// Returns the next thing that a source says; `None` when all have ended.
    /// Meanwhile, does what is due.
    fn receive(&mut self, readers: &Readers) -> Result<Option<Said>> {
        match readers.said.try_recv() {
            Ok(said) => return Ok(Some(said)),
            Err(TryRecvError::Disconnected) => return Ok(None),
            Err(TryRecvError::Empty) => {}
        }
        if self.sinks.flush()? == Reader::HasGone {
            return Ok(None);
        }
        loop {
            let due = self.errors.tell_due();
            let over = self.window.as_ref().and_then(|window| window.left(self.clock.now()));
            let received = match due.into_iter().chain(over).min() {
                None => readers.said.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(time) => readers.said.recv_timeout(time),
            };
            match received {
                Ok(said) => return Ok(Some(said)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if self.close_if_over()? == Reader::HasGone => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn is_interrupted(&self) -> bool {
        self.session.interrupt.is_set()
    }

    /// Takes a row of a source.
    fn take(&mut self, source: usize, text: &[u8]) -> Result<Reader> {
        if self.close_if_over()? == Reader::HasGone {
            return Ok(Reader::HasGone);
        }
        let number = self.counts.sources[source].read.add(1);
        if self.pipeline.functions.is_empty() {
            return self.deliver(text, 1);
        }
        let has_several = self.pipeline.sources.len() > 1;
        let name = has_several.then(|| self.pipeline.sources[source].symbol.get_ref().as_str());
        match self.work(Place::Row(number, name), text) {
            Ok(Worked::On(text)) => self.deliver(text.as_bytes(), 1),
            Ok(Worked::Filtered) => self.drop_filtered(1),
            Ok(Worked::Windowed(None)) => Ok(Reader::Reads),
            Ok(Worked::Windowed(Some(closed))) => self.close(&closed),
            Err(error) => self.fail(1, error),
        }
    }

    /// Applies the functions to a row of a source, and puts it into the window.
    fn work(&mut self, place: Place<'_>, text: &[u8]) -> Result<Worked> {
        let Plan { fields, steps, windows } = self.plan;
        let row = split(text, fields, place)?;
        let mut work = Work { row, fields, window: None, place };
        if self.functions.apply(steps, &mut work)? == Passed::Filtered {
            return Ok(Worked::Filtered);
        }
        let (Some(plan), Some(window)) = (windows, &mut self.window) else {
            return Ok(Worked::On(work.row.with_results(fields)));
        };
        let value = |field: &usize| {
            work.row.get(*field).ok_or_else(|| {
                let field_name = fields.name(*field);
                let (row, function) = (place.to_string(), plan.reader_of(*field, self.pipeline));
                Error::MissingField { row, field: field_name.to_owned(), function }
            })
        };
        let values = plan.columns.iter().map(value).collect::<Result<Vec<&str>>>()?;
        let longest = longest();
        let closed = window.add(self.clock.now(), &values, longest);
        let closed = closed.map_err(|_| Error::FullWindow { row: place.to_string(), longest })?;
        lock(&self.counts.outcomes).waiting += 1;
        Ok(Worked::Windowed(closed))
    }

    /// Closes the window if its time is over, and passes it on.
    fn close_if_over(&mut self) -> Result<Reader> {
        let clock = self.clock;
        match self.window.as_mut().and_then(|window| window.close_if_over(clock.now())) {
            Some(closed) => self.close(&closed),
            None => Ok(Reader::Reads),
        }
    }

    /// Applies the functions to a window, and passes its row on.
    fn close(&mut self, closed: &ClosedWindow) -> Result<Reader> {
        let Some(plan) = &self.plan.windows else { return Ok(Reader::Reads) };
        lock(&self.counts.outcomes).waiting -= closed.rows;
        let place = Place::Window(self.counts.windows.add(1));
        let text = closed.row();
        let row = split(text.as_bytes(), &plan.fields, place)?;
        let mut work = Work { row, fields: &plan.fields, window: Some(closed), place };
        match self.functions.apply(&plan.steps, &mut work) {
            Ok(Passed::On) => {
                let text = work.row.with_results(&plan.fields);
                self.deliver(text.as_bytes(), closed.rows)
            }
            Ok(Passed::Filtered) => self.drop_filtered(closed.rows),
            Err(error) => self.fail(closed.rows, error),
        }
    }

    /// Counts the rows of a window that nothing more is done for.
    fn lose_window(&mut self, closed: &ClosedWindow, has_failed: bool) {
        let mut outcomes = lock(&self.counts.outcomes);
        outcomes.waiting -= closed.rows;
        match has_failed && !self.is_interrupted() {
            true => outcomes.settled.failed += closed.rows,
            false => outcomes.settled.unknown += closed.rows,
        }
    }

    /// Passes a row to the sinks and to stdout: one of the sources' rows, or
    /// that of a window of this many.
    fn deliver(&mut self, text: &[u8], rows: u64) -> Result<Reader> {
        let mut errors = Vec::new();
        let reader = self.sinks.deliver(text, rows, &mut errors);
        if errors.is_empty() && reader.is_ok() {
            self.errors.reset();
        }
        for error in errors {
            self.report(error)?;
        }
        reader
    }

    fn drop_filtered(&mut self, rows: u64) -> Result<Reader> {
        lock(&self.counts.outcomes).settled.filtered += rows;
        self.errors.reset();
        Ok(Reader::Reads)
    }

    /// Counts rows that are not sent. If a signal caused that, a function may
    /// have been carried out for them.
    fn fail(&mut self, rows: u64, error: Error) -> Result<Reader> {
        let mut outcomes = lock(&self.counts.outcomes);
        match self.is_interrupted() {
            true => outcomes.settled.unknown += rows,
            false => outcomes.settled.failed += rows,
        }
        drop(outcomes);
        self.report(error).map(|()| Reader::Reads)
    }

    /// Reports an error of one row, after which the next is tried.
    ///
    /// # Errors
    /// It is no such error, or there were too many.
    fn report(&mut self, error: Error) -> Result<()> {
        match error {
            // Caused by the signal.
            _ if self.is_interrupted() => Ok(()),
            error if error.concerns_one_record() => self.errors.add(&error),
            error => Err(error),
        }
    }
}

/// Splits a row into its fields.
fn split<'t>(text: &'t [u8], fields: &Fields, place: Place<'_>) -> Result<Row<'t>> {
    let wrong = |source| Error::UnreadableRow { row: place.to_string(), source };
    let text = std::str::from_utf8(text).map_err(|error| wrong(serde::de::Error::custom(error)))?;
    Row::split(text, fields).map_err(wrong)
}
