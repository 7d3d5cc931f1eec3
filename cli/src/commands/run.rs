//! `run`: a pipeline from a source through functions to a sink.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::Receiver;

use ekuiper_host::{Event, EventKind, Function, Sink, Source};
use serde_json::{Value, json};

use crate::args::{Common, Run};
use crate::drain;
use crate::error::{Error, Result};
use crate::pipeline::{FunctionStage, Pipeline};
use crate::progress::{Progress, grouped, rate};
use crate::session::Session;

pub(super) fn run(common: &Common, run: &Run) -> Result<ExitCode> {
    let mut pipeline = Pipeline::read(&run.file)?;
    pipeline.source.count = run.count.or(pipeline.source.count);
    let paths: Vec<&Path> = pipeline.plugins.iter().map(AsRef::as_ref).collect();
    let session = Session::open(common, &paths)?;
    let mut counts = Counts::default();
    let mut progress = Progress::start();
    let flowed = flow(&session, &pipeline, &mut counts, &mut progress);
    let elapsed = progress.elapsed();
    drop(progress);
    let flowed = session.outcome(flowed);
    let seconds = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
    let per_second = rate(counts.read, elapsed);
    eprintln!(
        "{}",
        json!({ "read": counts.read, "calls": counts.calls, "written": counts.written, "delivered": counts.delivered,
                "acked": counts.acked, "failed": counts.failed, "crashes": counts.crashes, "seconds": seconds, "per_second": per_second })
    );
    flowed?;
    Ok(if counts.failed > 0 { ExitCode::FAILURE } else { session.interrupt.exit_code() })
}

#[derive(Debug, Default)]
struct Counts {
    read: u64,
    calls: u64,
    written: u64,
    /// Those that the sink has collected, as far as is known.
    delivered: u64,
    acked: u64,
    failed: u64,
    crashes: u64,
}

impl Counts {
    fn line(&self, per_second: u64) -> String {
        let Self { read, calls, written, acked, failed, .. } = self;
        let [read, calls, written, acked, per_second] = [*read, *calls, *written, *acked, per_second].map(grouped);
        format!("read {read}, calls {calls}, written {written}, acked {acked}, failed {failed}, {per_second}/s")
    }
}

fn flow(session: &Session, pipeline: &Pipeline, counts: &mut Counts, progress: &mut Progress) -> Result<()> {
    let host = &session.host;
    host.start_all()?;
    let events = host.events();
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
            Some(host.sink(&stage.symbol).config(config).require_ack(stage.require_ack).open()?)
        }
    };
    let config = Value::Object(pipeline.source.config.clone());
    let source = host.source(&pipeline.source.symbol).datasource(&pipeline.source.datasource).config(config).open()?;
    let flowed = pump(pipeline, &stages, source, sink.as_ref(), &events, counts, progress);
    let Some(sink) = sink else { return flowed };
    let (delivery, closed) = drain::close(sink, progress);
    counts.delivered = delivery.delivered;
    if !pipeline.sink.as_ref().is_some_and(|stage| stage.require_ack) {
        counts.failed += delivery.refused;
    }
    for event in events.try_iter() {
        tell(&event, counts, progress);
    }
    drain::both(flowed, closed)
}

/// Moves rows from the source to the sink.
fn pump(
    pipeline: &Pipeline,
    stages: &[(&FunctionStage, Function)],
    source: Source,
    sink: Option<&Sink>,
    events: &Receiver<Event>,
    counts: &mut Counts,
    progress: &mut Progress,
) -> Result<()> {
    let acks = pipeline.sink.as_ref().is_some_and(|stage| stage.require_ack);
    let prints = pipeline.sink.as_ref().is_none_or(|stage| stage.print);
    let limit = pipeline.source.count.unwrap_or(u64::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    for tuple in source.take(limit) {
        let passed = tuple.map_err(Error::from).and_then(|tuple| {
            counts.read += 1;
            let row = apply(stages, tuple.message, counts)?;
            if let Some(sink) = sink {
                sink.send(&row)?;
            }
            if prints {
                progress.clear_for_stdout();
                writeln!(std::io::stdout(), "{row}")?;
            }
            Ok(())
        });
        match passed {
            Ok(()) => {
                counts.written += 1;
                counts.acked += u64::from(acks);
            }
            // What concerns one row is told, and the next is tried.
            Err(
                error @ (Error::MissingField { .. }
                | Error::Host(
                    ekuiper_host::Error::Source { .. }
                    | ekuiper_host::Error::Message { .. }
                    | ekuiper_host::Error::Overrun { .. }
                    | ekuiper_host::Error::Function { .. }
                    | ekuiper_host::Error::Sink { .. }
                    | ekuiper_host::Error::OutcomeUnknown { .. },
                )),
            ) => {
                counts.failed += 1;
                progress.clear();
                eprintln!("ekuiper-plugin: {error}");
            }
            Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error),
        }
        for event in events.try_iter() {
            tell(&event, counts, progress);
        }
        progress.update(|elapsed| counts.line(rate(counts.read, elapsed)));
    }
    Ok(())
}

fn tell(event: &Event, counts: &mut Counts, progress: &mut Progress) {
    counts.crashes += u64::from(matches!(event.kind, EventKind::Crashed { .. }));
    progress.clear();
    eprintln!("ekuiper-plugin: {event}");
}

/// The row after all functions.
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
