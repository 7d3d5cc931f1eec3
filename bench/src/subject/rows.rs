//! Functions over many rows: rows per second.

use super::{Case, Chart, Subject};
use crate::metric::Metric;
use crate::peer::RowFunction;

pub(super) fn subject() -> Subject {
    Subject {
        name: "batches",
        title: "Rows through a function, in the fastest way that the peer has",
        cases: vec![
            Case::new("twice a number", 0.0, |peer, pace| peer.rows(pace, RowFunction::Double)),
            Case::new("a text of 16 B in capitals", 1.0, |peer, pace| peer.rows(pace, RowFunction::Upper)),
        ],
        columns: &[Metric::PerSecond, Metric::CpuPerMillion],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
