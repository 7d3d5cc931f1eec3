//! A function that takes long: in one process, and in a pool.

use super::{Case, Chart, Subject};
use crate::metric::Metric;
use crate::peer::Way;

pub(super) fn subject() -> Subject {
    let ways = [("Function::call_many", None), ("FunctionPool of 1", Some(1)), ("FunctionPool of 2", Some(2))];
    let cases = ways.into_iter().enumerate().map(|(place, (label, processes))| {
        Case::new(label, place as f64, move |peer, pace| peer.way(pace, Way::Busy(processes), 0))
    });
    Subject {
        name: "pools",
        title: "A function of 50 µs",
        cases: cases.collect(),
        columns: &[Metric::PerSecond, Metric::CpuPerMillion, Metric::Waits],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
