//! `run`: a pipeline from sources through functions to sinks.

use std::path::Path;
use std::process::ExitCode;

use ekuiper_host::SymbolHealth;
use serde_json::{Map, Value, json};

use super::call::microseconds;
use crate::args::{Common, Limits, Run};
use crate::attachment::Attachment;
use crate::console;
use crate::error::{Error, Result};
use crate::figures::Listening;
use crate::flow::{self, Counts};
use crate::pipeline::Pipeline;
use crate::progress::{Progress, counted, rate};
use crate::rows::Rows;
use crate::session::Session;
use crate::view;

pub(super) fn run(common: &Common, run: &Run) -> Result<ExitCode> {
    run_in(run, |paths| Session::open(common, &run.build, paths))
}

/// Returns the title of the view, if there is to be one.
fn title(run: &Run) -> Option<String> {
    (!run.no_view && view::is_possible()).then(|| format!("ekuiper-plugin run {}", run.file.display()))
}

/// Runs a pipeline one of whose plugins is attached.
pub(super) fn attached(common: &Common, run: &Run, attachment: Attachment) -> Result<ExitCode> {
    run_in(run, |paths| {
        let others: Vec<&Path> = paths.iter().copied().filter(|path| !attachment.is_at(path)).collect();
        Session::attach(common, attachment, &run.build, &others)
    })
}

/// Runs a pipeline in the session that is opened for the paths of its plugins.
fn run_in(run: &Run, open: impl FnOnce(&[&Path]) -> Result<Session>) -> Result<ExitCode> {
    let pipeline = read(run)?;
    let figures = run.metrics.map(Listening::at).transpose()?;
    let paths: Vec<&Path> = pipeline.plugins.iter().map(AsRef::as_ref).collect();
    let session = open(&paths)?;
    let _figures = figures.map(|figures| figures.serve(session.host.clone())).transpose()?;
    execute(&session, &pipeline, &run.limits, title(run).as_deref())
}

fn read(run: &Run) -> Result<Pipeline> {
    let mut pipeline = Pipeline::read(&run.file)?;
    for source in &mut pipeline.sources {
        source.count = run.count.or(source.count);
    }
    Ok(pipeline)
}

/// Runs a pipeline to its end, in a view with this title if there is one, and
/// prints the summary.
pub(super) fn execute(session: &Session, pipeline: &Pipeline, limits: &Limits, view: Option<&str>) -> Result<ExitCode> {
    let all = Counts::new(pipeline);
    let mut progress = if view.is_some() { Progress::hidden() } else { Progress::start() };
    let flow = |progress: &mut Progress| flow::run(session, pipeline, limits, &all, progress);
    let flowed = match view {
        Some(title) => view::show(session, title, &all, || flow(&mut progress)),
        None => flow(&mut progress),
    };
    let elapsed = progress.elapsed();
    drop(progress);
    let flowed = session.outcome(flowed);
    // There is nothing to count.
    let flowed = if all.has_begun() { flowed } else { Ok(flowed?) };
    let seconds = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
    let counts = all.snapshot();
    let rows = counts.rows;
    debug_assert_eq!(counts.waiting, 0, "each row is in one final state: {counts:?}");
    debug_assert_eq!(counts.sources.iter().map(|source| source.read).sum::<u64>(), rows.all(), "{counts:?}");
    let mut summary = json!({
        "read": rows.all(), "calls": counts.calls(), "sent": counts.sent, "delivered": rows.delivered,
        "acked": counts.acked(), "failed": rows.failed, "unknown": rows.unknown, "filtered": rows.filtered,
        "errors": counts.errors(), "crashes": session.crashes(), "seconds": seconds,
        "per_second": rate(rows.all(), elapsed), "latency": latencies(all.health()),
    });
    if pipeline.window.is_some() {
        summary["windows"] = counts.windows.into();
    }
    counts.stages().into_iter().for_each(|(name, stages)| summary[name] = stages);
    if let (true, Some(uncertainty)) = (session.interrupt.is_set(), rows.uncertainty("rows")) {
        console::tell(format_args!("interrupted: {uncertainty}"));
    }
    console::line(format_args!("{summary}"));
    flowed?;
    if session.interrupt.is_set() {
        return Ok(session.interrupt.exit_code());
    }
    // The rows that a reader of stdout has missed are not a failure.
    let rows = if counts.has_no_reader { Rows { unknown: 0, ..rows } } else { rows };
    let errors = counts.sources.iter().filter(|source| source.errors > 0);
    let errors = errors.map(|source| format!("source {} reported {}", source.symbol, counted(source.errors, "error")));
    let problems: Vec<_> = rows.problem("rows").into_iter().chain(errors).collect();
    if problems.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Error::NotDelivered(problems.join(", and "))) }
}

/// Returns the times of calls and acknowledgements, by symbol.
fn latencies(health: &[SymbolHealth]) -> Map<String, Value> {
    let shown = |symbol: &SymbolHealth| {
        let latency = symbol.latency.as_ref().filter(|latency| latency.count() > 0)?;
        let [p50, p99] = [0.5, 0.99].map(|part| microseconds(latency.quantile(part)));
        let name = match symbol.meta.instance_id {
            0 => symbol.name.clone(),
            instance => format!("{}/{instance}", symbol.name),
        };
        Some((name, json!({ "p50_us": p50, "p99_us": p99 })))
    };
    health.iter().filter_map(shown).collect()
}
