//! `source`: a source's tuples as JSON lines.

use std::process::ExitCode;

use ekuiper_host::Tuple;

use super::object;
use crate::args::{Common, Source};
use crate::error::{Error, Result};
use crate::json_text::JsonText;
use crate::output::{Reader, RowWriter};
use crate::reading::Reading;
use crate::session::Session;

pub(super) fn run(common: &Common, source: &Source) -> Result<ExitCode> {
    let config = object("--config", &source.config)?;
    let session = Session::open(common, &source.build, &[&source.path])?;
    let printed = print(&session, source, config);
    let _ = session.crashes();
    let errors = session.outcome(printed)?;
    if errors > 0 && !session.interrupt.is_set() {
        return Err(Error::EndedWithErrors { symbol: source.symbol.clone(), count: errors });
    }
    Ok(session.interrupt.exit_code())
}

/// Prints the tuples; returns the number of errors after the last row.
fn print(session: &Session, source: &Source, config: serde_json::Value) -> Result<u64> {
    let opened = session.host.source(&source.symbol).datasource(&source.datasource).config(config);
    let opened = opened.open_as::<JsonText>()?;
    session.tell_what_happens()?;
    let mut reading = Reading::new(opened, &source.symbol, source.count, &source.limits, &session.interrupt);
    reading.ends_with_the_reader_of_stdout()?;
    let mut rows = RowWriter::default();
    let read = read(&mut reading, &mut rows, source.meta);
    // Also those before an error.
    rows.write()?;
    read?;
    Ok(if reading.has_no_reader() { 0 } else { reading.errors.in_a_row() })
}

/// Prints the tuples until the end; those that follow each other at once are
/// written together.
fn read(reading: &mut Reading<JsonText>, rows: &mut RowWriter, meta: bool) -> Result<()> {
    loop {
        let idle = (!rows.is_empty()).then_some(|| rows.write().map(|_| ()));
        let Some(tuple) = reading.next_or(idle)? else { return Ok(()) };
        reading.errors.reset();
        let Tuple { message, meta: of_tuple } = tuple;
        let added = match meta {
            true => rows.add(format_args!(r#"{{"message":{message},"meta":{of_tuple}}}"#)),
            false => rows.add(message),
        };
        if added? == Reader::HasGone {
            return Ok(());
        }
    }
}
