//! `source`: a source's tuples as JSON lines.

use std::process::ExitCode;

use ekuiper_host::RawTuple;
use serde_json::Value;

use super::object;
use crate::args::SourceReading;
use crate::error::{Error, Result};
use crate::json_text;
use crate::output::{Reader, RowWriter};
use crate::reading::Reading;
use crate::session::Session;

pub(super) fn run(open: impl FnOnce() -> Result<Session>, source: &SourceReading) -> Result<ExitCode> {
    let config = object("--config", &source.config)?;
    let session = open()?;
    let printed = print(&session, source, config);
    let _ = session.crashes();
    let errors = session.outcome(printed)?;
    if errors > 0 && !session.interrupt.is_set() {
        return Err(Error::EndedWithErrors { symbol: source.symbol.clone(), count: errors });
    }
    Ok(session.interrupt.exit_code())
}

/// Prints the tuples; returns the number of errors after the last row.
fn print(session: &Session, source: &SourceReading, config: serde_json::Value) -> Result<u64> {
    let opened = session.host.source(&source.symbol).datasource(&source.datasource).config(config);
    let opened = opened.open()?;
    session.tell_what_happens()?;
    let mut reading = Reading::new(opened, &source.symbol, source.count, &source.limits, &session.interrupt);
    reading.ends_with_the_reader_of_stdout()?;
    let mut rows = RowWriter::default();
    let read = read(&mut reading, &mut rows, source);
    // Also those before an error.
    rows.write()?;
    read?;
    Ok(if reading.has_no_reader() { 0 } else { reading.errors.in_a_row() })
}

/// Prints the tuples until the end; those that follow each other at once are
/// written together.
fn read(reading: &mut Reading<Value>, rows: &mut RowWriter, source: &SourceReading) -> Result<()> {
    let (symbol, meta) = (&source.symbol, source.meta);
    let mut tuple = RawTuple::new();
    loop {
        let idle = (!rows.is_empty()).then_some(|| rows.write().map(|_| ()));
        if !reading.next_raw_or(&mut tuple, idle)? {
            return Ok(());
        }
        match add(rows, symbol, &tuple, meta) {
            Ok(Reader::Reads) => reading.errors.reset(),
            Ok(Reader::HasGone) => return Ok(()),
            Err(error) if error.concerns_one_record() => reading.refuse(&error)?,
            Err(error) => return Err(error),
        }
    }
}

/// Adds a tuple's record, or the tuple with its metadata.
fn add(rows: &mut RowWriter, symbol: &str, tuple: &RawTuple, meta: bool) -> Result<Reader> {
    let format = tuple.format();
    let put = |line: &mut Vec<u8>| {
        if !meta {
            return json_text::write(format, tuple.message(), line);
        }
        line.extend_from_slice(br#"{"message":"#);
        json_text::write(format, tuple.message(), line)?;
        line.extend_from_slice(br#","meta":"#);
        match tuple.meta() {
            Some(meta) => json_text::write(format, meta, line)?,
            None => line.extend_from_slice(b"null"),
        }
        line.push(b'}');
        Ok(())
    };
    rows.add(|line| put(line).map_err(|source| Error::Row { symbol: symbol.to_owned(), source }))
}
