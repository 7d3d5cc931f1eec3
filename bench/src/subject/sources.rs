//! Sources: tuples from the plugin to the host.

use super::{Case, Chart, SIZE, Subject, bytes};
use crate::metric::Metric;
use crate::peer::Record;

pub(super) fn subject() -> Subject {
    let size = bytes(SIZE);
    Subject {
        name: "sources",
        title: "Tuples from a source",
        cases: vec![
            Case::new(format!("a struct of {size}"), 0.0, |peer, pace| peer.source(pace, Record::Typed, SIZE, 1)),
            Case::new(format!("a Value of {size}"), 1.0, |peer, pace| peer.source(pace, Record::Value, SIZE, 1)),
        ],
        columns: &[Metric::PerSecond, Metric::CpuPerMillion, Metric::Waits],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
