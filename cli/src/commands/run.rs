//! `run`: a pipeline from a source through functions to a sink.

use std::path::Path;
use std::process::ExitCode;

use ekuiper_host::{Function, Sink, Tuple};
use serde_json::{Value, json};

use crate::args::{Common, Limits, Run};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::{self, Reader};
use crate::pipeline::{FunctionStage, Pipeline};
use crate::progress::{Progress, grouped, rate};
use crate::reading::Reading;
use crate::session::Session;
use crate::{console, drain};

pub(super) fn run(common: &Common, run: &Run) -> Result<ExitCode> {
    let mut pipeline = Pipeline::read(&run.file)?;
    pipeline.source.count = run.count.or(pipeline.source.count);
    let paths: Vec<&Path> = pipeline.plugins.iter().map(AsRef::as_ref).collect();
    let session = Session::open(common, &paths)?;
    let mut counts = Counts::default();
    let mut progress = Progress::start();
    let flowed = flow(&session, &pipeline, &run.limits, &mut counts, &mut progress);
    let elapsed = progress.elapsed();
    drop(progress);
    let flowed = session.outcome(flowed);
    let seconds = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
    let per_second = rate(counts.read, elapsed);
    let crashes = session.crashes();
    let summary = json!({
        "read": counts.read, "calls": counts.calls, "written": counts.written, "delivered": counts.delivered,
        "acked": counts.acked, "failed": counts.failed, "crashes": crashes, "seconds": seconds,
        "per_second": per_second,
    });
    let Counts { read, failed, .. } = counts;
    if session.interrupt.is_set() {
        let through = if pipeline.sink.is_some() { counts.delivered.max(counts.acked) } else { counts.written };
        let refused = if pipeline.sink.as_ref().is_some_and(|stage| !stage.require_ack) { counts.refused } else { 0 };
        // The row in flight is one of the unknown ones.
        let unknown = read.saturating_sub(through).saturating_sub(failed - refused);
        if unknown > 0 {
            let (unknown, read) = (grouped(unknown), grouped(read));
            console::tell(format_args!("interrupted: the outcome of {unknown} of {read} rows is unknown"));
        }
    }
    console::line(format_args!("{summary}"));
    flowed?;
    if failed > 0 && !session.interrupt.is_set() {
        return Err(Error::RowsFailed { failed, read });
    }
    Ok(session.interrupt.exit_code())
}

#[derive(Debug, Default)]
struct Counts {
    read: u64,
    calls: u64,
    written: u64,
    /// Rows known to have been collected by the sink.
    delivered: u64,
    acked: u64,
    failed: u64,
    /// Failed rows that the sink has collected.
    refused: u64,
}

impl Counts {
    fn line(&self, per_second: u64) -> String {
        let Self { read, calls, written, acked, failed, .. } = self;
        let [read, calls, written, acked, per_second] = [*read, *calls, *written, *acked, per_second].map(grouped);
        format!("read {read}, calls {calls}, written {written}, acked {acked}, failed {failed}, {per_second}/s")
    }
}

fn flow(
    session: &Session,
    pipeline: &Pipeline,
    limits: &Limits,
    counts: &mut Counts,
    progress: &mut Progress,
) -> Result<()> {
    let host = &session.host;
    host.start_all()?;
    let mut stages = Vec::new();
    for stage in &pipeline.functions {
        let function = host.function(&stage.symbol)?;
        function.validate(vec![Value::Null; stage.args.len()].as_slice())?;
        stages.push((stage, function));
    }
    let sink = match &pipeline.sink {
        None => None,
        Some(stage) => {
            let config = Value::Object(stage.config.clone());
            let sink = host.sink(&stage.symbol).config(config).require_ack(stage.require_ack).open()?;
            session.ends_with_a_signal(&sink);
            Some(sink)
        }
    };
    let config = Value::Object(pipeline.source.config.clone());
    let source = host.source(&pipeline.source.symbol).datasource(&pipeline.source.datasource).config(config).open()?;
    session.tell_what_happens()?;
    let mut reading = Reading::new(source, &pipeline.source.symbol, pipeline.source.count, limits, &session.interrupt);
    if pipeline.prints() {
        reading.ends_with_the_reader_of_stdout()?;
    }
    let flowed = pump(&session.interrupt, pipeline, &stages, &mut reading, sink.as_ref(), counts, progress);
    counts.failed = reading.errors.count();
    // The source is stopped before its sink.
    drop(reading);
    let Some(sink) = sink else { return flowed };
    let (delivery, closed) = drain::close(sink, progress);
    counts.delivered = delivery.delivered;
    if !pipeline.sink.as_ref().is_some_and(|stage| stage.require_ack) {
        counts.refused = delivery.refused;
        counts.failed += delivery.refused;
    }
    drain::both(&session.interrupt, flowed, closed)
}

/// Moves rows from the source to the sink.
fn pump(
    interrupt: &Interrupt,
    pipeline: &Pipeline,
    stages: &[(&FunctionStage, Function)],
    reading: &mut Reading,
    sink: Option<&Sink>,
    counts: &mut Counts,
    progress: &mut Progress,
) -> Result<()> {
    let acks = pipeline.sink.as_ref().is_some_and(|stage| stage.require_ack);
    let prints = pipeline.prints();
    let pass = |tuple: Tuple, counts: &mut Counts| {
        let row = apply(stages, tuple.message, counts)?;
        if let Some(sink) = sink {
            drain::send(interrupt, || sink.send(&row))?;
        }
        if prints { output::line(row) } else { Ok(Reader::Reads) }
    };
    while let Some(tuple) = reading.next()? {
        counts.read += 1;
        match pass(tuple, counts) {
            Ok(reader) => {
                reading.errors.reset();
                counts.written += 1;
                counts.acked += u64::from(acks);
                if reader == Reader::HasGone {
                    break;
                }
            }
            // Caused by the signal.
            Err(_) if interrupt.is_set() => break,
            // An error of one row is reported, and the next row is tried.
            Err(error) if error.concerns_one_record() => reading.errors.add(&error)?,
            Err(error) => return Err(error),
        }
        counts.failed = reading.errors.count();
        progress.update(|elapsed| counts.line(rate(counts.read, elapsed)));
    }
    Ok(())
}

/// Applies all functions to a row.
fn apply(stages: &[(&FunctionStage, Function)], mut row: Value, counts: &mut Counts) -> Result<Value> {
    for (stage, function) in stages {
        let arguments = stage.args.iter().map(|field| {
            row.get(field).cloned().ok_or_else(|| Error::MissingField {
                row: counts.read,
                field: field.clone(),
                function: stage.symbol.clone(),
            })
        });
        let arguments = arguments.collect::<Result<Vec<Value>>>()?;
        let result: Value = function.call(arguments)?;
        counts.calls += 1;
        if let Value::Object(fields) = &mut row {
            fields.insert(stage.output.clone(), result);
        }
    }
    Ok(row)
}
