//! `source`: a source's tuples as JSON lines.

use std::process::ExitCode;

use serde_json::json;

use super::object;
use crate::args::{Common, Source};
use crate::error::{Error, Result};
use crate::output::{self, Reader};
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
    let opened = session.host.source(&source.symbol).datasource(&source.datasource).config(config).open()?;
    session.tell_what_happens()?;
    let mut reading = Reading::new(opened, &source.symbol, source.count, &source.limits, &session.interrupt);
    reading.ends_with_the_reader_of_stdout()?;
    while let Some(tuple) = reading.next()? {
        reading.errors.reset();
        let line = if source.meta { json!({ "message": tuple.message, "meta": tuple.meta }) } else { tuple.message };
        if output::line(line)? == Reader::HasGone {
            break;
        }
    }
    Ok(if reading.has_no_reader() { 0 } else { reading.errors.in_a_row() })
}
