//! Results of a run.

use serde::Serialize;
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::metric::{Metric, Sample};
use crate::statistics::{Summary, ratio};
use crate::subject::Chart;

/// The peer that all others are compared with.
pub const REFERENCE: &str = "uds";

/// Results of a run.
#[derive(Debug)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// Number of measurements of each.
    pub rounds: u16,
    /// Duration of each measurement, in seconds.
    pub seconds: f64,
    /// The peers measured.
    pub peers: Vec<Described>,
    /// The peers skipped, with the reason.
    pub skipped: Vec<Described>,
    /// Results by subject.
    pub subjects: Vec<Table>,
    /// Failures.
    pub failures: Vec<String>,
}

/// A peer and its description.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// Name.
    pub name: String,
    /// Description, or the reason why it was skipped.
    pub about: String,
}

/// Results of a subject.
#[derive(Debug)]
pub struct Table {
    /// Name of the subject.
    pub name: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Metrics shown.
    pub columns: &'static [Metric],
    /// Kind of chart.
    pub chart: Chart,
    /// Cases.
    pub cases: Vec<Case>,
}

/// Results of one case.
#[derive(Debug)]
pub struct Case {
    /// Label of the case.
    pub label: String,
    /// Position on a chart's axis.
    pub place: f64,
    /// Samples of each peer, one per round.
    pub lines: Vec<Line>,
}

/// Results of one peer.
#[derive(Debug)]
pub struct Line {
    /// Name of the peer.
    pub peer: String,
    /// Name of the peer in charts.
    pub title: String,
    /// Whether the peer shows what is possible.
    pub is_limit: bool,
    /// One sample per round.
    pub samples: Vec<Sample>,
}

impl Line {
    /// Returns the figure of each round.
    pub fn rounds(&self, metric: Metric) -> Vec<f64> {
        self.samples.iter().filter_map(|sample| sample.get(metric)).collect()
    }

    /// Returns the summary of a figure.
    pub fn summary(&self, metric: Metric) -> Option<Summary> {
        Summary::of(&self.rounds(metric))
    }
}

impl Case {
    /// Returns the lines that have this figure, the best first and the limits
    /// after all others.
    pub fn ranked(&self, metric: Metric) -> Vec<&Line> {
        let median = |line: &Line| line.summary(metric).map(|summary| summary.median);
        let mut ranked: Vec<_> = self.lines.iter().filter_map(|line| Some((line, median(line)?))).collect();
        ranked.sort_by(|(one, first), (other, second)| {
            let better = if metric.less_is_better() { first.total_cmp(second) } else { second.total_cmp(first) };
            one.is_limit.cmp(&other.is_limit).then(better)
        });
        ranked.into_iter().map(|(line, _)| line).collect()
    }

    /// Returns the factor by which the reference is better in this figure than
    /// `line`; less than 1 if it is worse.
    pub fn advantage(&self, line: &Line, metric: Metric) -> Option<f64> {
        let reference = self.lines.iter().find(|line| line.peer == REFERENCE)?.rounds(metric);
        let own = line.rounds(metric);
        if metric.less_is_better() { ratio(&own, &reference) } else { ratio(&reference, &own) }
    }
}

impl Report {
    /// Returns all results of every round.
    pub fn json(&self) -> Value {
        let figures = |case: &Case, line: &Line| {
            let mut metrics: Vec<Metric> =
                line.samples.iter().flat_map(|sample| &sample.0).map(|(of, _)| *of).collect();
            metrics.sort_unstable();
            metrics.dedup();
            let figure = |metric: Metric| {
                let summary = line.summary(metric)?;
                Some(json!({
                    "metric": metric,
                    "unit": metric.label(),
                    "median": summary.median,
                    "spread_percent": summary.spread(),
                    "reference_is_better_by": case.advantage(line, metric),
                    "rounds": line.rounds(metric),
                }))
            };
            metrics.into_iter().filter_map(figure).collect::<Vec<_>>()
        };
        let results = self.subjects.iter().flat_map(|subject| {
            subject.cases.iter().flat_map(move |case| {
                case.lines.iter().map(move |line| {
                    json!({
                        "subject": subject.name,
                        "case": case.label,
                        "peer": line.peer,
                        "figures": figures(case, line),
                    })
                })
            })
        });
        json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "reference": REFERENCE,
            "peers": self.peers,
            "skipped": self.skipped,
            "failures": self.failures,
            "results": results.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a report of two peers, the reference five times as good as the
    /// other.
    pub(crate) fn example() -> Report {
        let line = |peer: &str, factor: f64| Line {
            peer: peer.into(),
            title: format!("the peer {peer}"),
            is_limit: peer == "raw",
            samples: [9.0, 10.0, 11.0]
                .map(|micros| {
                    Sample::default().with(Metric::P50, micros * factor).with(Metric::PerSecond, 1e6 / micros / factor)
                })
                .into(),
        };
        let case = |place: f64| Case {
            label: format!("{place} B"),
            place,
            lines: vec![line("raw", 0.5), line("uds", 1.0), line("nng", 5.0)],
        };
        let table = |name, chart| Table {
            name,
            title: "Function calls",
            columns: &[Metric::P50, Metric::PerSecond],
            chart,
            cases: vec![case(128.0), case(1024.0)],
        };
        Report {
            machine: Machine::here(),
            rounds: 3,
            seconds: 0.5,
            peers: vec![Described { name: "uds".into(), about: "ours".into() }],
            skipped: vec![Described { name: "mangos".into(), about: "go was not found".into() }],
            subjects: vec![table("calls", Chart::Bars), table("sizes", Chart::Lines("message, bytes"))],
            failures: vec![],
        }
    }

    #[test]
    fn the_advantage_is_the_references_whichever_way_is_better() {
        let report = example();
        let case = &report.subjects[0].cases[0];
        for metric in [Metric::P50, Metric::PerSecond] {
            let advantage = |peer: usize| case.advantage(&case.lines[peer], metric).unwrap();
            assert!((advantage(0) - 0.5).abs() < 1e-9 && (advantage(2) - 5.0).abs() < 1e-9, "{metric:?}");
            assert_eq!(advantage(1), 1.0);
        }
    }

    #[test]
    fn the_best_comes_first_and_the_limit_last() {
        let report = example();
        for metric in [Metric::P50, Metric::PerSecond] {
            let ranked = report.subjects[0].cases[0].ranked(metric);
            let names: Vec<_> = ranked.iter().map(|line| line.peer.as_str()).collect();
            assert_eq!(names, ["uds", "nng", "raw"], "{metric:?}");
        }
    }

    #[test]
    fn the_json_has_every_round() {
        let json = example().json();
        let first = &json["results"][0];
        assert_eq!((&first["subject"], &first["peer"]), (&json!("calls"), &json!("raw")));
        assert_eq!(first["figures"][0]["rounds"].as_array().unwrap().len(), 3);
        assert_eq!(first["figures"][0]["metric"], "p50");
        assert_eq!(json["skipped"][0]["about"], "go was not found");
    }
}
