//! Sinks: rows from the host to a plugin that decodes them.

use super::{Case, Chart, SIZE, Subject};
use crate::metric::Metric;
use crate::peer::Ack;

/// Maximum number of unacknowledged messages.
const WINDOW: usize = 256;

pub(super) fn subject() -> Subject {
    let case = |label: &str, place, ack| Case::new(label, place, move |peer, pace| peer.sink(pace, ack, SIZE));
    Subject {
        name: "sinks",
        title: "Rows of 128 B to a sink",
        cases: vec![
            case("without acks", 0.0, Ack::None),
            case("an ack for each before the next", 1.0, Ack::Each),
            case(&format!("acks, up to {WINDOW} rows under way"), 2.0, Ack::Window(WINDOW)),
        ],
        columns: &[Metric::PerSecond, Metric::CpuPerMillion, Metric::Waits],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
