//! What open sources cost the host's process: threads and descriptors.

use super::{Case, Chart, Subject};
use crate::metric::Metric;

pub(super) fn subject() -> Subject {
    let case = |sources: usize| {
        let plural = if sources == 1 { "" } else { "s" };
        Case::new(format!("{sources} open source{plural}"), sources as f64, move |peer, _| peer.handles(sources))
    };
    Subject {
        name: "handles",
        title: "Threads and descriptors of open sources",
        cases: [1, 10, 100, 1000].map(case).into(),
        columns: &[Metric::Threads, Metric::Descriptors],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
