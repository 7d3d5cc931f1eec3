//! `source`: a source's tuples as JSON lines.

use std::process::ExitCode;

use serde_json::json;

use super::object;
use crate::args::{Common, Source};
use crate::error::Result;
use crate::output::{self, Reader};
use crate::reading::Reading;
use crate::session::Session;

pub(super) fn run(common: &Common, source: &Source) -> Result<ExitCode> {
    let config = object("--config", &source.config)?;
    let session = Session::open(common, &[&source.path])?;
    let printed = print(&session, source, config);
    let _ = session.crashes();
    let failed = session.outcome(printed)?;
    Ok(if failed { ExitCode::FAILURE } else { session.interrupt.exit_code() })
}

/// Whether the last that came was an error: it was told already.
fn print(session: &Session, source: &Source, config: serde_json::Value) -> Result<bool> {
    let opened = session.host.source(&source.symbol).datasource(&source.datasource).config(config).open()?;
    session.tell_what_happens()?;
    let mut reading = Reading::new(opened, &source.symbol, source.count, &source.limits);
    while let Some(tuple) = reading.next()? {
        reading.errors.reset();
        let line = if source.meta { json!({ "message": tuple.message, "meta": tuple.meta }) } else { tuple.message };
        if output::line(line)? == Reader::HasGone {
            break;
        }
    }
    Ok(reading.errors.is_last())
}
