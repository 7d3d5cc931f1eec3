//! The sources of a pipeline: each is read by a thread of its own, so that none
//! waits for another.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use ekuiper_host::{RawTuple, Stopper};
use serde_json::Value;

use super::counts::Counts;
use crate::args::Limits;
use crate::error::{Error, Result};
use crate::json_text;
use crate::pipeline::{Pipeline, instance};
use crate::reading::Reading;
use crate::session::Session;

/// Bytes, and rows, that a thread gathers at most.
const MOST_BYTES: usize = 64 << 10;
const MOST_ROWS: usize = 1024;

/// Number of such batches that may wait for the functions; what a source sends
/// beyond them waits in the source.
const QUEUE: usize = 2;

/// What a source says.
pub(super) struct Said {
    /// Its number in the pipeline.
    pub(super) source: usize,
    pub(super) what: What,
}

pub(super) enum What {
    /// Rows, in their order.
    Rows(Rows),
    /// The source cannot continue.
    Failed(Error),
}

/// The sources of a pipeline, opened.
pub(super) struct Sources(Vec<Reading<Value>>);

/// The threads that read the sources.
pub(super) struct Readers {
    /// Ends when all sources have.
    pub(super) said: Receiver<Said>,
    stoppers: Vec<Stopper>,
}

impl Sources {
    pub(super) fn open(session: &Session, pipeline: &Pipeline, limits: &Limits) -> Result<Self> {
        let mut readings = Vec::new();
        for (number, stage) in pipeline.sources.iter().enumerate() {
            let symbol = stage.symbol.get_ref();
            let instance = instance(pipeline.sources[..number].iter().map(|other| &other.symbol), &stage.symbol);
            let config = Value::Object(stage.config.clone());
            let source = session.host.source(symbol).instance(instance).datasource(&stage.datasource);
            let source = source.config(config).open()?;
            readings.push(Reading::new(source, symbol, stage.count, limits, &session.interrupt));
        }
        Ok(Self(readings))
    }

    /// Reads the sources, until the returned value is dropped.
    pub(super) fn read<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        prints: bool,
        counts: &'scope Counts,
    ) -> Result<Readers> {
        let (say, said) = sync_channel(QUEUE);
        let readers = Readers { said, stoppers: self.0.iter().map(Reading::stopper).collect() };
        for (source, mut reading) in self.0.into_iter().enumerate() {
            if prints {
                reading.ends_with_the_reader_of_stdout()?;
            }
            let say = say.clone();
            let read = move || {
                let failed = read(source, &mut reading, &say, counts).err();
                counts.sources[source].errors.set(reading.source_errors());
                if reading.has_no_reader() {
                    counts.has_no_reader.store(true, Ordering::SeqCst);
                }
                // Without a receiver, the pipeline has ended.
                failed.into_iter().for_each(|error| _ = say.send(Said { source, what: What::Failed(error) }));
            };
            Builder::new().name(format!("source-{source}")).spawn_scoped(scope, read).map_err(Error::Thread)?;
        }
        Ok(readers)
    }
}

/// Reads a source to its end. Rows that follow each other at once are passed on
/// together.
fn read(source: usize, reading: &mut Reading<Value>, say: &SyncSender<Said>, counts: &Counts) -> Result<()> {
    let (mut rows, mut tuple) = (Rows::default(), RawTuple::new());
    let pass_on = |rows: &mut Rows| {
        let rows = std::mem::take(rows);
        // Without a receiver, the pipeline has ended, and stops the source.
        rows.is_empty() || say.send(Said { source, what: What::Rows(rows) }).is_ok()
    };
    let ended = loop {
        let idle = (!rows.is_empty()).then_some(|| {
            pass_on(&mut rows);
            Ok(())
        });
        match reading.next_raw_or(&mut tuple, idle) {
            Ok(true) => match rows.add(&tuple) {
                Ok(()) => reading.errors.reset(),
                Err(error) => {
                    let error = Error::Row { symbol: reading.symbol().to_owned(), source: error };
                    if let Err(error) = reading.refuse(&error) {
                        break Err(error);
                    }
                }
            },
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
        counts.sources[source].errors.set(reading.source_errors());
        if rows.is_full() && !pass_on(&mut rows) {
            return Ok(());
        }
    };
    // Those before an error, too.
    pass_on(&mut rows);
    ended
}

/// Rows as JSON text, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Rows {
    text: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Rows {
    fn add(&mut self, tuple: &RawTuple) -> Result<(), ekuiper_host::CodecError> {
        let start = self.text.len();
        let added = json_text::write_unchanged(tuple.format(), tuple.message(), &mut self.text);
        match added {
            Ok(()) => self.ends.push(self.text.len()),
            Err(_) => self.text.truncate(start),
        }
        added
    }

    fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn is_full(&self) -> bool {
        self.text.len() >= MOST_BYTES || self.ends.len() >= MOST_ROWS
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.text[*start..*end])
    }
}

impl Readers {
    /// Stops the sources: what they have said before is still received.
    pub(super) fn stop(&self) {
        self.stoppers.iter().for_each(Stopper::stop);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}
