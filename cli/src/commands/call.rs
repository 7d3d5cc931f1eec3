//! `call`: one function call, or many to measure it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ekuiper_host::Function;
use serde_json::{Value, json};

use super::argument;
use crate::args::{Call, Common};
use crate::console;
use crate::error::Result;
use crate::output;
use crate::progress::{Progress, grouped, rate};
use crate::session::Session;

pub(super) fn run(common: &Common, call: &Call) -> Result<ExitCode> {
    let arguments = call.arguments.iter().enumerate();
    let arguments = arguments.map(|(index, text)| argument(index + 1, text));
    let arguments = arguments.collect::<Result<Vec<Value>>>()?;
    let session = Session::open(common, &call.build, &[&call.path])?;
    let printed = execute(&session, call, arguments);
    session.outcome(printed)?;
    Ok(session.interrupt.exit_code())
}

fn execute(session: &Session, call: &Call, arguments: Vec<Value>) -> Result<()> {
    let function = session.host.function(&call.function)?;
    console::show_plugin_output();
    function.validate(arguments.as_slice())?;
    let result = match call.repeat {
        None => function.call::<Value>(arguments.as_slice())?,
        Some(count) => measure(&function, &arguments, count)?,
    };
    // A missing reader of stdout is not a failure of the call.
    output::line(result).map(|_| ())
}

/// Calls the function `count` times in sequence.
fn measure(function: &Function, arguments: &[Value], count: u64) -> Result<Value> {
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
