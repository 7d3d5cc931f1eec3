//! `call`: one function call, many to measure it, or one for each line of stdin.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ekuiper_host::Function;
use serde_json::{Value, json};

use super::argument;
use crate::args::FunctionCall;
use crate::calling::Calling;
use crate::console;
use crate::error::{Error, Result};
use crate::output;
use crate::progress::{Progress, grouped, rate};
use crate::session::Session;

/// In place of arguments: rows of them from stdin.
const STDIN: &str = "-";

pub(super) fn run(open: impl FnOnce() -> Result<Session>, call: &FunctionCall) -> Result<ExitCode> {
    if call.arguments == [STDIN] {
        return match call.repeat {
            None => call_rows(&open()?, call),
            Some(_) => Err(Error::RepeatOfRows),
        };
    }
    let arguments = call.arguments.iter().enumerate();
    let arguments = arguments.map(|(index, text)| argument(index + 1, text));
    let arguments = arguments.collect::<Result<Vec<Value>>>()?;
    let session = open()?;
    let printed = execute(&session, call, arguments);
    session.outcome(printed)?;
    Ok(session.interrupt.exit_code())
}

fn execute(session: &Session, call: &FunctionCall, arguments: Vec<Value>) -> Result<()> {
    let function = session.host.function(&call.function)?;
    console::show_plugin_output();
    let result = session.again_when_back(|| {
        function.validate(arguments.as_slice())?;
        match call.repeat {
            None => function.call::<Value>(arguments.as_slice()),
            Some(count) => measure(&function, &arguments, count),
        }
    })?;
    // A missing reader of stdout is not a failure of the call.
    output::line(result).map(|_| ())
}

/// Calls the function once for each line of stdin, in several processes at once
/// if it is declared parallel.
fn call_rows(session: &Session, call: &FunctionCall) -> Result<ExitCode> {
    let started = {
        let opened = session.host.function_pool(&call.function).as_described().open();
        session.outcome(opened.map(Some).map_err(Error::from))?
    };
    // A signal came first.
    let Some(function) = started else { return Ok(session.interrupt.exit_code()) };
    session.tell_what_happens()?;
    // What is typed is not to be drawn over.
    let progress = (!std::io::stdin().is_terminal()).then(Progress::start);
    let (rows, called) = Calling::new(session, function)?.run(progress);
    let _ = session.crashes();
    session.outcome(called)?;
    if session.interrupt.is_set() {
        let costs: Vec<_> =
            rows.uncertainty("calls").into_iter().chain(["the rest of stdin was not called".into()]).collect();
        console::tell(format_args!("interrupted: {}", costs.join(", and ")));
        return Ok(session.interrupt.exit_code());
    }
    match rows.problem("calls") {
        Some(problem) => Err(Error::NotDelivered(problem)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Calls the function `count` times in sequence.
fn measure(function: &Function, arguments: &[Value], count: u64) -> ekuiper_host::Result<Value> {
    let mut latencies = Vec::with_capacity(count.min(1 << 20) as usize);
    let mut progress = Progress::start();
    for done in 0..count {
        let start = Instant::now();
        function.call::<Value>(arguments)?;
        latencies.push(start.elapsed());
        progress.update(|elapsed| format!("{} calls, {}/s", grouped(done + 1), grouped(rate(done + 1, elapsed))));
    }
    let elapsed = progress.elapsed();
    latencies.sort_unstable();
    Ok(json!({
        "calls": count,
        "seconds": (elapsed.as_secs_f64() * 1e3).round() / 1e3,
        "per_second": rate(count, elapsed),
        "p50_us": microseconds(percentile(&latencies, 50)),
        "p99_us": microseconds(percentile(&latencies, 99)),
    }))
}

/// Returns the smallest latency that `percent` of a sorted, non-empty list do
/// not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

pub(super) fn microseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let all: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&all, 50), Duration::from_micros(100));
        assert_eq!(percentile(&all, 99), Duration::from_micros(198));
        assert_eq!(percentile(&all[..1], 99), Duration::from_micros(1));
        assert_eq!(microseconds(Duration::from_nanos(1260)), 1.3);
    }
}
