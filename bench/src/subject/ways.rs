//! Ways to use a host: from threads and from tasks, one at a time and many.

use super::{Case, Chart, SIZE, Subject};
use crate::metric::Metric;
use crate::peer::Way;

pub(super) fn subject() -> Subject {
    let ways = [
        ("call", Way::Call),
        ("call in tokio's spawn_blocking", Way::SpawnBlocking),
        ("call_many, 256 rows", Way::CallMany(256)),
        ("call_async, awaited", Way::CallAsync(1)),
        ("call_async, 16 under way", Way::CallAsync(16)),
        ("call_async, 256 under way", Way::CallAsync(256)),
        ("Source, an iterator", Way::Source),
        ("AsyncSource, a stream", Way::AsyncSource),
        ("AsyncSource::next_chunk, 256 rows", Way::Chunks(256)),
        ("Sink::send", Way::Sink),
        ("Sink::send_all, 256 rows", Way::SinkRows(256)),
        ("AsyncSink, fed", Way::AsyncSink),
        ("Sink::send_async with acks, window 256", Way::SinkAcks(256)),
        ("AsyncSink with acks, fed", Way::AsyncSinkAcks),
    ];
    let cases = ways
        .into_iter()
        .enumerate()
        .map(|(place, (label, way))| Case::new(label, place as f64, move |peer, pace| peer.way(pace, way, SIZE)));
    Subject {
        name: "ways",
        title: "From threads and from tasks",
        cases: cases.collect(),
        columns: &[Metric::PerSecond, Metric::CpuPerMillion, Metric::Waits],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
