//! `sink`: JSON lines from stdin to a sink.

use std::process::ExitCode;

use serde_json::json;

use super::object;
use crate::args::SinkFeeding;
use crate::error::{Error, Result};
use crate::feeding::Feeding;
use crate::folded::RecordErrors;
use crate::lines::Lines;
use crate::output;
use crate::progress::{Progress, grouped, rate};
use crate::rows::Rows;
use crate::session::Session;
use crate::{console, drain};

pub(super) fn run(open: impl FnOnce() -> Result<Session>, sink: &SinkFeeding) -> Result<ExitCode> {
    let config = object("--config", &sink.config)?;
    let session = open()?;
    let open = || session.host.sink(&sink.symbol).config(config.clone()).require_ack(sink.ack).open();
    let opened = session.outcome(Feeding::open(&session, &sink.symbol, open).map(Some))?;
    // All of stdin was sent.
    let mut complete = false;
    let (rows, fed) = match opened {
        Some(feeding) => feed(&session, feeding, sink.ack, &mut complete),
        // A signal came first.
        None => (Rows::default(), Ok(())),
    };
    let fed = session.outcome(fed);
    let Rows { delivered, failed, unknown, .. } = rows;
    let acked = if sink.ack { delivered } else { 0 };
    let _ = session.crashes();
    let summary = json!({
        "sent": rows.all(), "delivered": delivered, "acked": acked, "failed": failed, "unknown": unknown,
    });
    // A missing reader of stdout is not a failure: the outcome of the rows
    // decides.
    let told = output::line(summary);
    let plural = format!("messages to sink {}", sink.symbol);
    if session.interrupt.is_set() {
        let rest = if rows.all() == 0 { "nothing was sent" } else { "the rest of stdin was not sent" };
        let costs: Vec<_> = rows.uncertainty(&plural).into_iter().chain((!complete).then(|| rest.into())).collect();
        if !costs.is_empty() {
            console::tell(format_args!("interrupted: {}", costs.join(", and ")));
        }
        fed?;
        told?;
        return Ok(session.interrupt.exit_code());
    }
    fed?;
    told?;
    match rows.problem(&plural) {
        Some(problem) => Err(Error::NotDelivered(problem)),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn feed(session: &Session, mut feeding: Feeding<'_>, acks: bool, complete: &mut bool) -> (Rows, Result<()>) {
    let mut progress = Progress::start();
    let fed = session.tell_what_happens().and_then(|()| feed_lines(session, &mut feeding, acks, &mut progress));
    *complete = matches!(fed, Ok(true));
    // However the loop ended, what was sent is still collected.
    let (rows, closed) = feeding.close(&mut progress);
    (rows, drain::both(&session.interrupt, fed.map(|_| ()), closed))
}

/// Sends the lines of stdin; returns whether all of them were sent.
fn feed_lines(session: &Session, feeding: &mut Feeding<'_>, acks: bool, progress: &mut Progress) -> Result<bool> {
    let mut errors = RecordErrors::new(0);
    let mut lines = Lines::of_stdin(&session.interrupt)?;
    while let Some(line) = lines.next()? {
        // Unchanged: the sink receives the user's own spelling.
        if let Err(failure) = feeding.send(|sink| sink.send_bytes(line.as_bytes())) {
            // Caused by the signal.
            if session.interrupt.is_set() {
                return Ok(false);
            }
            let (line, error) = (lines.number(), *failure.error);
            match failure.was_sent {
                false => return Err(Error::Unsent { line, source: Box::new(error) }),
                true if error.concerns_one_record() => errors.add_at(line, &error)?,
                true => return Err(Error::Unanswered { line, source: Box::new(error) }),
            }
        }
        progress.update(|elapsed| {
            let rows = feeding.rows();
            let rate = grouped(rate(rows.all(), elapsed));
            let acked = grouped(if acks { rows.delivered } else { 0 });
            format!("sent {}, acked {acked}, failed {}, {rate}/s", grouped(rows.all()), grouped(rows.failed))
        });
    }
    Ok(!session.interrupt.is_set())
}
