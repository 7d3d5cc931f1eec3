//! Sequential function calls: a text there and back.

use super::{Case, Chart, SIZE, Subject, bytes};
use crate::metric::Metric;

pub(super) fn subject() -> Subject {
    Subject {
        name: "calls",
        title: "Function calls, one after the other",
        cases: vec![Case::new(format!("a text of {}", bytes(SIZE)), 0.0, |peer, pace| peer.calls(pace, SIZE, 1))],
        columns: &[Metric::P50, Metric::P99, Metric::PerSecond, Metric::CpuPerMillion, Metric::Waits],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
