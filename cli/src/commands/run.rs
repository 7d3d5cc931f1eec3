//! `run`: a pipeline from a source through functions to a sink.

use std::path::Path;
use std::process::ExitCode;

use ekuiper_host::{Function, Host, SymbolHealth, Tuple};
use serde_json::{Map, Value, json};

use super::call::microseconds;
use crate::args::{Common, Limits, Run};
use crate::error::{Error, Result};
use crate::feeding::Feeding;
use crate::interrupt::Interrupt;
use crate::output::{self, Reader};
use crate::pipeline::{FunctionStage, Pipeline};
use crate::progress::{Progress, counted, grouped, rate};
use crate::reading::Reading;
use crate::rows::Rows;
use crate::session::Session;
use crate::{console, drain};

pub(super) fn run(common: &Common, run: &Run) -> Result<ExitCode> {
    let mut pipeline = Pipeline::read(&run.file)?;
    pipeline.source.count = run.count.or(pipeline.source.count);
    let paths: Vec<&Path> = pipeline.plugins.iter().map(AsRef::as_ref).collect();
    let session = Session::open(common, &run.build, &paths)?;
    execute(&session, &pipeline, &run.limits)
}

/// Runs a pipeline to its end, and prints the summary.
pub(super) fn execute(session: &Session, pipeline: &Pipeline, limits: &Limits) -> Result<ExitCode> {
    let mut counts = Counts::default();
    let mut progress = Progress::start();
    let flowed = flow(session, pipeline, limits, &mut counts, &mut progress);
    let elapsed = progress.elapsed();
    drop(progress);
    let flowed = session.outcome(flowed);
    let seconds = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
    let rows = counts.rows();
    debug_assert_eq!(counts.read, rows.all(), "each row is in one final state: {counts:?}");
    let acked = counts.acked(pipeline);
    let crashes = session.crashes();
    let summary = json!({
        "read": rows.all(), "calls": counts.calls, "sent": counts.sent.all(), "delivered": rows.delivered,
        "acked": acked, "failed": rows.failed, "unknown": rows.unknown, "errors": counts.errors, "crashes": crashes,
        "seconds": seconds, "per_second": rate(rows.all(), elapsed), "latency": counts.latency,
    });
    if let (true, Some(uncertainty)) = (session.interrupt.is_set(), rows.uncertainty("rows")) {
        console::tell(format_args!("interrupted: {uncertainty}"));
    }
    console::line(format_args!("{summary}"));
    flowed?;
    if session.interrupt.is_set() {
        return Ok(session.interrupt.exit_code());
    }
    // The row that a reader of stdout has missed is not a failure.
    let rows = if counts.has_no_reader { Rows { unknown: 0, ..rows } } else { rows };
    let errors = (counts.errors > 0)
        .then(|| format!("source {} reported {}", pipeline.source.symbol, counted(counts.errors, "error")));
    let problems: Vec<_> = rows.problem("rows").into_iter().chain(errors).collect();
    if problems.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Error::NotDelivered(problems.join(", and "))) }
}

#[derive(Debug, Default)]
struct Counts {
    /// Rows of the source.
    read: u64,
    /// Rows that were sent to the sink or, without one, printed.
    sent: Rows,
    /// Rows that were not.
    unsent: Rows,
    /// Function calls that succeeded.
    calls: u64,
    /// Errors that the source reported.
    errors: u64,
    /// The reader of stdout has gone away.
    has_no_reader: bool,
    /// Times of calls and acknowledgements, by symbol.
    latency: Map<String, Value>,
}

impl Counts {
    fn rows(&self) -> Rows {
        let mut rows = self.sent;
        rows += self.unsent;
        rows
    }

    /// Counts a row that is not sent. If a signal caused that, a function may
    /// have been carried out for it.
    fn lose(&mut self, interrupt: &Interrupt) {
        match interrupt.is_set() {
            true => self.unsent.unknown += 1,
            false => self.unsent.failed += 1,
        }
    }

    fn acked(&self, pipeline: &Pipeline) -> u64 {
        if pipeline.sink.as_ref().is_some_and(|stage| stage.require_ack) { self.sent.delivered } else { 0 }
    }

    fn line(&self, pipeline: &Pipeline, per_second: u64) -> String {
        let acked = self.acked(pipeline);
        let all = [self.read, self.calls, self.sent.all(), acked, self.rows().failed, per_second];
        let [read, calls, sent, acked, failed, per_second] = all.map(grouped);
        format!("read {read}, calls {calls}, sent {sent}, acked {acked}, failed {failed}, {per_second}/s")
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
    let mut feeding = match &pipeline.sink {
        None => None,
        Some(stage) => Some(Feeding::open(session, &stage.symbol, || {
            let config = Value::Object(stage.config.clone());
            host.sink(&stage.symbol).config(config).require_ack(stage.require_ack).open()
        })?),
    };
    let config = Value::Object(pipeline.source.config.clone());
    let source = host.source(&pipeline.source.symbol).datasource(&pipeline.source.datasource).config(config).open()?;
    session.tell_what_happens()?;
    let mut reading = Reading::new(source, &pipeline.source.symbol, pipeline.source.count, limits, &session.interrupt);
    if pipeline.prints() {
        reading.ends_with_the_reader_of_stdout()?;
    }
    let flowed = pump(session, pipeline, &stages, &mut reading, feeding.as_mut(), counts, progress);
    counts.errors = reading.source_errors();
    counts.has_no_reader |= reading.has_no_reader();
    counts.latency = latencies(host);
    // The source is stopped before its sink.
    drop(reading);
    let Some(feeding) = feeding else { return flowed };
    let (sent, closed) = feeding.close(progress);
    counts.sent = sent;
    drain::both(&session.interrupt, flowed, closed)
}

/// Returns the times of calls and acknowledgements, by symbol.
fn latencies(host: &Host) -> Map<String, Value> {
    let shown = |symbol: SymbolHealth| {
        let latency = symbol.latency.filter(|latency| latency.count() > 0)?;
        let [p50, p99] = [0.5, 0.99].map(|part| microseconds(latency.quantile(part)));
        Some((symbol.name, json!({ "p50_us": p50, "p99_us": p99 })))
    };
    host.health().into_iter().flat_map(|plugin| plugin.symbols).filter_map(shown).collect()
}

/// Moves rows from the source to the sink.
fn pump(
    session: &Session,
    pipeline: &Pipeline,
    stages: &[(&FunctionStage, Function)],
    reading: &mut Reading,
    mut feeding: Option<&mut Feeding<'_>>,
    counts: &mut Counts,
    progress: &mut Progress,
) -> Result<()> {
    let interrupt = &session.interrupt;
    while let Some(tuple) = reading.next()? {
        counts.read += 1;
        let passed = pass(interrupt, pipeline, stages, tuple, feeding.as_deref_mut(), counts);
        if let Some(feeding) = &feeding {
            counts.sent = feeding.rows();
        }
        match passed {
            Ok(Reader::Reads) => reading.errors.reset(),
            Ok(Reader::HasGone) => {
                counts.has_no_reader = true;
                break;
            }
            // Caused by the signal.
            Err(_) if interrupt.is_set() => break,
            // An error of one row is reported, and the next row is tried.
            Err(error) if error.concerns_one_record() => reading.errors.add(&error)?,
            Err(error) => return Err(error),
        }
        progress.update(|elapsed| counts.line(pipeline, rate(counts.read, elapsed)));
    }
    Ok(())
}

/// Passes a row through the functions to the sink and to stdout, and counts
/// what becomes of it.
fn pass(
    interrupt: &Interrupt,
    pipeline: &Pipeline,
    stages: &[(&FunctionStage, Function)],
    tuple: Tuple,
    feeding: Option<&mut Feeding<'_>>,
    counts: &mut Counts,
) -> Result<Reader> {
    let row = match apply(interrupt, stages, tuple.message, counts) {
        Ok(row) => row,
        Err(error) => {
            counts.lose(interrupt);
            return Err(error);
        }
    };
    let has_sink = feeding.is_some();
    if let Some(feeding) = feeding {
        feeding.send(|sink| sink.send(&row)).map_err(|failure| {
            if !failure.was_sent {
                counts.lose(interrupt);
            }
            failure.error
        })?;
    }
    if !pipeline.prints() {
        return Ok(Reader::Reads);
    }
    let printed = output::line(row);
    if !has_sink {
        match printed {
            Ok(Reader::Reads) => counts.sent.delivered += 1,
            Ok(Reader::HasGone) => counts.sent.unknown += 1,
            Err(_) => counts.sent.failed += 1,
        }
    }
    printed
}

/// Calls a function. After a crash of its plugin it waits for the restart, and
/// ends with the host's giving up.
fn call(interrupt: &Interrupt, function: &Function, arguments: &[Value]) -> ekuiper_host::Result<Value> {
    loop {
        match function.call(arguments) {
            Err(ekuiper_host::Error::Away { .. }) if !interrupt.is_set() => {}
            outcome => return outcome,
        }
    }
}

/// Applies all functions to a row.
fn apply(
    interrupt: &Interrupt,
    stages: &[(&FunctionStage, Function)],
    mut row: Value,
    counts: &mut Counts,
) -> Result<Value> {
    for (stage, function) in stages {
        let arguments = stage.args.iter().map(|field| {
            row.get(field).cloned().ok_or_else(|| Error::MissingField {
                row: counts.read,
                field: field.clone(),
                function: stage.symbol.clone(),
            })
        });
        let arguments = arguments.collect::<Result<Vec<Value>>>()?;
        let result: Value = call(interrupt, function, &arguments)?;
        counts.calls += 1;
        if let Value::Object(fields) = &mut row {
            fields.insert(stage.output.clone(), result);
        }
    }
    Ok(row)
}
