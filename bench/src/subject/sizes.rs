//! Messages of 128 B to 1 MiB: one way, and there and back.

use super::{Case, Chart, Subject, bytes};
use crate::clock::Pace;
use crate::metric::Metric;
use crate::peer::Measured;
use crate::peer::Peer;

const SIZES: [usize; 5] = [128, 1 << 10, 8 << 10, 64 << 10, 1 << 20];

pub(super) fn subjects() -> [Subject; 2] {
    let cases = |measure: fn(&dyn Peer, Pace, usize) -> Measured| {
        let case = |size: usize| Case::new(bytes(size), size as f64, move |peer, pace| measure(peer, pace, size));
        SIZES.into_iter().map(case).collect()
    };
    [
        Subject {
            name: "sizes",
            title: "Bytes of any length to a sink, without acks",
            cases: cases(|peer, pace, size| peer.bytes(pace, size)),
            columns: &[Metric::MegabytesPerSecond, Metric::PerSecond, Metric::CpuPerMillion],
            chart: Chart::Lines("length of a message"),
            in_a_fresh_process: false,
        },
        Subject {
            name: "call-sizes",
            title: "Function calls with texts of any length, there and back",
            cases: cases(|peer, pace, size| peer.calls(pace, size, 1)),
            columns: &[Metric::P50, Metric::P99],
            chart: Chart::Lines("length of the text"),
            in_a_fresh_process: false,
        },
    ]
}
