//! One to eight symbols of one plugin in parallel.

use super::{Case, Chart, SIZE, Subject};
use crate::clock::Pace;
use crate::metric::Metric;
use crate::peer::{CHANNELS, Measured, Peer, Record};

pub(super) fn subjects() -> [Subject; 2] {
    let cases = |measure: fn(&dyn Peer, Pace, usize) -> Measured| {
        let case = |at_once: usize| {
            Case::new(format!("{at_once} at once"), at_once as f64, move |peer, pace| measure(peer, pace, at_once))
        };
        [1, 2, 4, CHANNELS].into_iter().map(case).collect()
    };
    [
        Subject {
            name: "many-sources",
            title: "Tuples from several sources at once, all together",
            cases: cases(|peer, pace, at_once| peer.source(pace, Record::Typed, SIZE, at_once)),
            columns: &[Metric::PerSecond, Metric::CpuPerMillion],
            chart: Chart::Lines("sources at once"),
            in_a_fresh_process: false,
        },
        Subject {
            name: "many-functions",
            title: "Calls of several functions at once, all together",
            cases: cases(|peer, pace, at_once| peer.calls(pace, SIZE, at_once)),
            columns: &[Metric::PerSecond, Metric::P50, Metric::P99, Metric::CpuPerMillion],
            chart: Chart::Lines("functions at once"),
            in_a_fresh_process: false,
        },
    ]
}
