//! `sink`: JSON lines from stdin to a sink.

use std::process::ExitCode;

use serde_json::json;

use super::object;
use crate::args::{Common, Sink};
use crate::drain;
use crate::error::{Error, Result};
use crate::folded::RecordErrors;
use crate::lines::Lines;
use crate::output;
use crate::progress::{Progress, grouped, rate};
use crate::session::Session;

/// What became of the messages.
#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    /// Those that the sink has collected, as far as is known.
    delivered: u64,
    acked: u64,
    failed: u64,
}

pub(super) fn run(common: &Common, sink: &Sink) -> Result<ExitCode> {
    let config = object("--config", &sink.config)?;
    let session = Session::open(common, &[&sink.path])?;
    let opened = session.host.sink(&sink.symbol).config(config).require_ack(sink.ack).open();
    let Some(opened) = session.outcome(opened.map(Some).map_err(Error::from))? else {
        return Ok(session.interrupt.exit_code());
    };
    session.tell_what_happens()?;
    let mut counts = Counts::default();
    let fed = feed(&session, opened, sink.ack, &mut counts);
    let fed = session.outcome(fed);
    let Counts { sent, delivered, acked, failed } = counts;
    let _ = session.crashes();
    // Nobody may be there to read it: what became of the rows decides.
    let told = output::line(json!({ "sent": sent, "delivered": delivered, "acked": acked, "failed": failed }));
    fed?;
    told?;
    Ok(if counts.failed > 0 { ExitCode::FAILURE } else { session.interrupt.exit_code() })
}

fn feed(session: &Session, sink: ekuiper_host::Sink, acks: bool, counts: &mut Counts) -> Result<()> {
    let mut progress = Progress::start();
    let fed = feed_lines(session, &sink, acks, counts, &mut progress);
    // Whatever has ended that: what was sent is still collected.
    let (delivery, closed) = drain::close(sink, &mut progress);
    counts.delivered = delivery.delivered;
    if !acks {
        counts.failed += delivery.refused;
    }
    drain::both(fed, closed)
}

/// Sends the lines of stdin.
fn feed_lines(
    session: &Session,
    sink: &ekuiper_host::Sink,
    acks: bool,
    counts: &mut Counts,
    progress: &mut Progress,
) -> Result<()> {
    let mut errors = RecordErrors::new(0);
    let mut lines = Lines::of_stdin(&session.interrupt)?;
    while let Some(line) = lines.next()? {
        counts.sent += 1;
        // As it stands: the sink gets the user's own spelling.
        match sink.send_bytes(line.as_bytes()) {
            Ok(()) if acks => counts.acked += 1,
            Ok(()) => {}
            Err(error @ ekuiper_host::Error::Sink { .. }) => {
                counts.failed += 1;
                errors.add(&Error::AtLine { line: lines.number(), source: error })?;
            }
            Err(error) => {
                counts.failed += 1;
                return Err(error.into());
            }
        }
        progress.update(|elapsed| {
            let Counts { sent, acked, failed, .. } = counts;
            let rate = grouped(rate(*sent, elapsed));
            format!("sent {}, acked {}, failed {failed}, {rate}/s", grouped(*sent), grouped(*acked))
        });
    }
    Ok(())
}
