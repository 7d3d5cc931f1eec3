//! `sink`: JSON lines from stdin to a sink.

use std::process::ExitCode;

use serde_json::json;

use super::object;
use crate::args::{Common, Sink};
use crate::error::{Error, Result};
use crate::folded::RecordErrors;
use crate::lines::Lines;
use crate::output;
use crate::progress::{Progress, grouped, rate};
use crate::session::Session;
use crate::{console, drain};

/// Counts of messages by outcome.
#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    /// Messages known to have been collected by the sink.
    delivered: u64,
    acked: u64,
    failed: u64,
    /// All of stdin was read.
    complete: bool,
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
    let Counts { sent, delivered, acked, failed, complete } = counts;
    let _ = session.crashes();
    // A missing reader of stdout is not a failure: the outcome of the rows
    // decides.
    let told = output::line(json!({ "sent": sent, "delivered": delivered, "acked": acked, "failed": failed }));
    if session.interrupt.is_set() {
        // The message in flight is one of the unknown ones.
        let unknown = sent.saturating_sub(delivered.max(acked)).saturating_sub(if sink.ack { failed } else { 0 });
        let mut costs = Vec::new();
        if unknown > 0 {
            let (unknown, sent) = (grouped(unknown), grouped(sent));
            costs.push(format!("the outcome of {unknown} of {sent} messages to sink {} is unknown", sink.symbol));
        }
        if !complete {
            costs.push("the rest of stdin was not sent".into());
        }
        if !costs.is_empty() {
            console::tell(format_args!("interrupted: {}", costs.join(", and ")));
        }
        fed?;
        told?;
        return Ok(session.interrupt.exit_code());
    }
    fed?;
    told?;
    if failed > 0 {
        return Err(Error::MessagesFailed { symbol: sink.symbol.clone(), failed, sent });
    }
    Ok(ExitCode::SUCCESS)
}

fn feed(session: &Session, sink: ekuiper_host::Sink, acks: bool, counts: &mut Counts) -> Result<()> {
    session.ends_with_a_signal(&sink);
    let mut progress = Progress::start();
    let fed = feed_lines(session, &sink, acks, counts, &mut progress);
    // However the loop ended, what was sent is still collected.
    let (delivery, closed) = drain::close(sink, &mut progress);
    counts.delivered = delivery.delivered;
    if !acks {
        counts.failed += delivery.refused;
    }
    drain::both(&session.interrupt, fed, closed)
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
        // Unchanged: the sink receives the user's own spelling.
        match drain::send(&session.interrupt, || sink.send_bytes(line.as_bytes())) {
            Ok(()) if acks => counts.acked += 1,
            Ok(()) => {}
            // Caused by the signal.
            Err(_) if session.interrupt.is_set() => return Ok(()),
            Err(error) => {
                counts.failed += 1;
                let error = Error::from(error);
                let line = lines.number();
                if !error.concerns_one_record() {
                    return Err(Error::Unsent { line, source: Box::new(error) });
                }
                errors.add_at(line, &error)?;
            }
        }
        progress.update(|elapsed| {
            let Counts { sent, acked, failed, .. } = counts;
            let rate = grouped(rate(*sent, elapsed));
            format!("sent {}, acked {}, failed {failed}, {rate}/s", grouped(*sent), grouped(*acked))
        });
    }
    counts.complete = !session.interrupt.is_set();
    Ok(())
}
