//! What a run has found.

use serde::Serialize;
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::metric::{Metric, Sample};
use crate::statistics::{Summary, ratio};
use crate::subject::Chart;

/// The peer that all others are compared with.
pub const REFERENCE: &str = "uds";

/// A run's results.
#[derive(Debug)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// How often each was measured.
    pub rounds: u16,
    /// For how long each time, in seconds.
    pub seconds: f64,
    /// Who was measured.
    pub peers: Vec<Described>,
    /// Who was not, and why.
    pub skipped: Vec<Described>,
    /// What was found.
    pub subjects: Vec<Table>,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// A peer and what there is to say of it.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What it is, or why it was left out.
    pub about: String,
}

/// A subject's results.
#[derive(Debug)]
pub struct Table {
    /// The subject's name.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is shown.
    pub columns: &'static [Metric],
    /// How it is drawn.
    pub chart: Chart,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// The results of one case.
#[derive(Debug)]
pub struct Case {
    /// What sets it apart.
    pub label: String,
    /// Where it stands on a chart's axis.
    pub place: f64,
    /// Each peer's samples, one a round.
    pub lines: Vec<Line>,
}

/// What one peer came to.
#[derive(Debug)]
pub struct Line {
    /// The peer.
    pub peer: String,
    /// One a round.
    pub samples: Vec<Sample>,
}

impl Line {
    /// A figure of each round.
    pub fn rounds(&self, metric: Metric) -> Vec<f64> {
        self.samples.iter().filter_map(|sample| sample.get(metric)).collect()
    }

    /// What a figure comes to.
    pub fn summary(&self, metric: Metric) -> Option<Summary> {
        Summary::of(&self.rounds(metric))
    }
}

impl Case {
    /// By what factor the reference does better in this figure than `line`;
    /// less than 1: it does worse.
    pub fn advantage(&self, line: &Line, metric: Metric) -> Option<f64> {
        let reference = self.lines.iter().find(|line| line.peer == REFERENCE)?.rounds(metric);
        let own = line.rounds(metric);
        if metric.less_is_better() { ratio(&own, &reference) } else { ratio(&reference, &own) }
    }
}

impl Report {
    /// All of it, every round.
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

    /// A report of two peers, the reference five times as good as the other.
    pub(crate) fn example() -> Report {
        let line = |peer: &str, factor: f64| Line {
            peer: peer.into(),
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
    fn the_json_has_every_round() {
        let json = example().json();
        let first = &json["results"][0];
        assert_eq!((&first["subject"], &first["peer"]), (&json!("calls"), &json!("raw")));
        assert_eq!(first["figures"][0]["rounds"].as_array().unwrap().len(), 3);
        assert_eq!(first["figures"][0]["metric"], "p50");
        assert_eq!(json["skipped"][0]["about"], "go was not found");
    }
}
