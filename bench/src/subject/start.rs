//! The start of a plugin's process, and its resource usage.

use super::{Case, Chart, Subject};
use crate::metric::Metric;

pub(super) fn subject() -> Subject {
    Subject {
        name: "start",
        title: "From a process's start to its handshake, and its weight",
        cases: vec![Case::new("start", 0.0, |peer, _| peer.start())],
        columns: &[Metric::StartMillis, Metric::ResidentMib, Metric::ProgramMib],
        chart: Chart::Bars,
        in_a_fresh_process: true,
    }
}
