//! The sinks of a pipeline, and stdout: where rows end.

use std::sync::atomic::Ordering;

use ekuiper_core::sync::lock;
use serde_json::Value;

use super::counts::{Counts, Outcomes};
use crate::drain;
use crate::error::{Error, Result};
use crate::feeding::Feeding;
use crate::interrupt::Interrupt;
use crate::json_text;
use crate::output::{Reader, RowWriter};
use crate::pipeline::{Pipeline, SinkStage, instance};
use crate::progress::Progress;
use crate::rows::Rows;
use crate::session::Session;

/// The sinks of a pipeline, opened.
pub(super) struct Sinks<'p> {
    sinks: Vec<(&'p SinkStage, Feeding<'p>)>,
    counts: &'p Counts,
    interrupt: &'p Interrupt,
    printer: Printer,
}

/// What is known of a message after it was sent, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// No sink is known not to have it.
    Taken,
    /// A sink may not have it.
    Unknown,
    /// A sink does not have it.
    Failed,
}

/// Rows on their way to stdout.
#[derive(Default)]
struct Printer {
    writer: RowWriter,
    /// Rows may wait for others, since nothing else is waited for meanwhile.
    gathers: bool,
    /// Rows go nowhere else, so that their final state is decided here.
    decides: bool,
    /// Number of the sources' rows in it.
    rows: u64,
}

impl<'p> Sinks<'p> {
    pub(super) fn open(session: &'p Session, pipeline: &'p Pipeline, counts: &'p Counts) -> Result<Self> {
        let mut sinks = Vec::new();
        for (number, stage) in pipeline.sinks.iter().enumerate() {
            let symbol = stage.symbol.get_ref();
            let instance = instance(pipeline.sinks[..number].iter().map(|other| &other.symbol), &stage.symbol);
            let open = move || {
                let config = Value::Object(stage.config.clone());
                let sink = session.host.sink(symbol).instance(instance).config(config);
                sink.require_ack(stage.require_ack).open()
            };
            let feeding = Feeding::open(session, symbol, open)?;
            let _ = counts.sinks[number].fed.set(feeding.fed());
            sinks.push((stage, feeding));
        }
        let decides = sinks.is_empty();
        let gathers = decides && pipeline.functions.is_empty();
        let printer = Printer { gathers, decides, ..Printer::default() };
        Ok(Self { sinks, counts, interrupt: &session.interrupt, printer })
    }

    /// Sends a message to each sink and to stdout, and counts what becomes of
    /// its rows. Adds errors of this message to `errors`.
    pub(super) fn deliver(&mut self, text: &[u8], rows: u64, errors: &mut Vec<Error>) -> Result<Reader> {
        if self.printer.decides {
            return self.printer.add(text, rows, self.counts);
        }
        let (mut fate, mut is_sent, mut prints) = (Fate::Taken, false, false);
        for ((stage, feeding), counts) in self.sinks.iter_mut().zip(&self.counts.sinks) {
            let Err(failure) = feeding.send(|sink| sink.send_bytes(text)) else {
                (is_sent, prints) = (true, prints || stage.print);
                continue;
            };
            is_sent |= failure.was_sent;
            fate = fate.max(match failure.was_sent {
                true if !counts.is_followed => Fate::Taken,
                true => failure.fate(),
                // A signal may have come while a part of it was sent.
                false if self.interrupt.is_set() => Fate::Unknown,
                false => Fate::Failed,
            });
            errors.push(*failure.error);
        }
        let mut outcomes = lock(&self.counts.outcomes);
        outcomes.sent += if is_sent { rows } else { 0 };
        if fate != Fate::Taken {
            outcomes.torn += u64::from(is_sent);
        }
        match fate {
            Fate::Taken => *outcomes.taken.entry(rows).or_default() += 1,
            Fate::Unknown => outcomes.settled.unknown += rows,
            Fate::Failed => outcomes.settled.failed += rows,
        }
        drop(outcomes);
        if prints { self.printer.add(text, 0, self.counts) } else { Ok(Reader::Reads) }
    }

    /// Writes the rows that wait to stdout.
    pub(super) fn flush(&mut self) -> Result<Reader> {
        self.printer.write(self.counts)
    }

    /// Waits until all sinks have collected everything, and closes them.
    pub(super) fn close(self, progress: &mut Progress) -> Result<()> {
        let mut closed = Ok(());
        for (_, feeding) in self.sinks {
            let (_, this) = feeding.close(progress);
            closed = drain::both(self.interrupt, closed, this);
        }
        closed
    }
}

impl crate::feeding::Failure {
    /// Returns what is known of a message that was sent and not acknowledged.
    fn fate(&self) -> Fate {
        match &*self.error {
            Error::Host(ekuiper_host::Error::Sink { .. } | ekuiper_host::Error::Message { .. }) => Fate::Failed,
            _ => Fate::Unknown,
        }
    }
}

impl Printer {
    fn add(&mut self, text: &[u8], rows: u64, counts: &Counts) -> Result<Reader> {
        self.rows += rows;
        let add = |line: &mut Vec<u8>| {
            json_text::write_line(text, line);
            Ok(())
        };
        match self.writer.add(add) {
            // It may have written them.
            Ok(Reader::Reads) if self.gathers && !self.writer.is_empty() => Ok(Reader::Reads),
            Ok(Reader::Reads) => self.write(counts),
            other => self.written(other, counts),
        }
    }

    fn write(&mut self, counts: &Counts) -> Result<Reader> {
        let written = if self.writer.is_empty() { Ok(Reader::Reads) } else { self.writer.write() };
        self.written(written, counts)
    }

    /// Counts the rows as what they are after a write.
    fn written(&mut self, written: Result<Reader>, counts: &Counts) -> Result<Reader> {
        let rows = std::mem::take(&mut self.rows);
        if self.decides && rows > 0 {
            let mut outcomes = lock(&counts.outcomes);
            let Outcomes { settled, sent, .. } = &mut *outcomes;
            *sent += rows;
            let Rows { delivered, failed, unknown, .. } = settled;
            *match written {
                Ok(Reader::Reads) => delivered,
                Ok(Reader::HasGone) => unknown,
                Err(_) => failed,
            } += rows;
        }
        if matches!(written, Ok(Reader::HasGone)) {
            counts.has_no_reader.store(true, Ordering::SeqCst);
        }
        written
    }
}
