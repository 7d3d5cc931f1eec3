//! The subjects that are measured, one file each. A subject has cases, and each
//! case is one measurement of a peer.

mod calls;
#[cfg(feature = "columns")]
mod columns;
#[cfg(feature = "peers")]
mod handles;
#[cfg(feature = "peers")]
mod pools;
mod rows;
#[cfg(feature = "peers")]
mod rules;
mod sinks;
mod sizes;
mod sources;
mod start;
mod symbols;
#[cfg(feature = "peers")]
mod ways;

use crate::clock::Pace;
use crate::metric::Metric;
use crate::peer::{Measured, Peer};

/// Usual size of a record or a text, in bytes.
pub const SIZE: usize = 128;

/// A subject of the benchmark.
pub struct Subject {
    /// Name on the command line.
    pub name: &'static str,
    /// Title, as a heading.
    pub title: &'static str,
    /// Cases.
    pub cases: Vec<Case>,
    /// Metrics shown, the most important first.
    pub columns: &'static [Metric],
    /// Kind of chart.
    pub chart: Chart,
    /// Whether the subject is measured before all others: a process that has
    /// used much memory starts others more slowly.
    pub in_a_fresh_process: bool,
}

/// One measurement of a peer.
pub struct Case {
    /// Label of the case.
    pub label: String,
    /// Position on a chart's axis.
    pub place: f64,
    measure: Box<Measure>,
}

type Measure = dyn Fn(&dyn Peer, Pace) -> Measured;

impl Case {
    fn new(label: impl Into<String>, place: f64, measure: impl Fn(&dyn Peer, Pace) -> Measured + 'static) -> Self {
        Self { label: label.into(), place, measure: Box::new(measure) }
    }

    /// Runs the measurement.
    ///
    /// # Errors
    /// The measurement fails.
    pub fn measure(&self, peer: &dyn Peer, pace: Pace) -> Measured {
        (self.measure)(peer, pace)
    }
}

/// Kind of chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chart {
    /// A bar for each peer, for each case.
    Bars,
    /// A line for each peer over the cases' positions, with the axis's name.
    Lines(&'static str),
}

/// Returns the subject of rules in a stock engine, which has peers of its own.
#[cfg(feature = "peers")]
pub fn rules() -> Subject {
    rules::subject()
}

/// Returns all subjects of a host and its plugins, in the order of their tables.
pub fn all() -> Vec<Subject> {
    let mut all = vec![calls::subject(), sources::subject(), sinks::subject(), rows::subject()];
    #[cfg(feature = "columns")]
    all.extend(columns::subjects());
    all.extend(sizes::subjects());
    all.extend(symbols::subjects());
    #[cfg(feature = "peers")]
    all.extend([ways::subject(), pools::subject(), handles::subject()]);
    all.push(start::subject());
    all
}

/// Formats a size for people.
fn bytes(size: usize) -> String {
    match size {
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size if size >= 1 << 10 => format!("{} KiB", size >> 10),
        size => format!("{size} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<_> = all().iter().map(|subject| subject.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(all().iter().all(|subject| !subject.cases.is_empty() && !subject.columns.is_empty()));
        assert_eq!([128, 4096, 1 << 20].map(bytes), ["128 B", "4 KiB", "1 MiB"]);
    }
}
