//! Rules in a stock engine: what its user gets of a plugin.

use super::{Case, Chart, Subject};
use crate::metric::Metric;
use crate::peer::Rule;

pub(super) fn subject() -> Subject {
    let rules = [
        ("a source, its rows dropped by the engine", Rule::Source),
        ("a function on each row", Rule::Function),
        ("a sink that acknowledges each row", Rule::Sink),
    ];
    let cases = rules.into_iter().enumerate();
    Subject {
        name: "rules",
        title: "Rows through rules of a stock eKuiper",
        cases: cases
            .map(|(place, (label, rule))| Case::new(label, place as f64, move |peer, pace| peer.rule(pace, rule)))
            .collect(),
        columns: &[Metric::PerSecond, Metric::EngineCpuPerMillion, Metric::PluginCpuPerMillion],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
