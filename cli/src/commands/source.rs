//! `source`: a source's tuples as JSON lines.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use super::object;
use crate::args::{Common, Source};
use crate::error::Result;
use crate::session::Session;

pub(super) fn run(common: &Common, source: &Source) -> Result<ExitCode> {
    let config = object("--config", &source.config)?;
    let session = Session::open(common, &[&source.path])?;
    let printed = print(&session, source, config);
    let failed = session.outcome(printed)?;
    Ok(if failed { ExitCode::FAILURE } else { session.interrupt.exit_code() })
}

/// Whether the last that came was an error: it was told already.
fn print(session: &Session, source: &Source, config: serde_json::Value) -> Result<bool> {
    let opened = session.host.source(&source.symbol).datasource(&source.datasource).config(config).open()?;
    let stopper = opened.stopper();
    let mut left = source.count.unwrap_or(u64::MAX);
    let mut stdout = std::io::stdout().lock();
    let mut failed = false;
    if left == 0 {
        stopper.stop();
    }
    for tuple in opened {
        let tuple = match tuple {
            Ok(tuple) => tuple,
            // The source reports, and may go on.
            Err(
                error @ (ekuiper_host::Error::Source { .. }
                | ekuiper_host::Error::Message { .. }
                | ekuiper_host::Error::Overrun { .. }),
            ) => {
                eprintln!("ekuiper-plugin: {error}");
                failed = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        failed = false;
        let line = if source.meta { json!({ "message": tuple.message, "meta": tuple.meta }) } else { tuple.message };
        match writeln!(stdout, "{line}") {
            // Whoever reads has enough: `| head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
            written => written?,
        }
        left -= 1;
        if left == 0 {
            return Ok(false);
        }
    }
    Ok(failed)
}
