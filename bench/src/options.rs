//! Options of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::clock::Pace;

/// What is measured, for how long, and where the results go.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Rounds, in each of which every peer is measured in turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..), allow_negative_numbers = true)]
    pub rounds: u16,
    /// Seconds per measurement, in addition to a quarter of that as warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds, allow_negative_numbers = true)]
    pub seconds: f64,
    /// One short round, as a check (about a minute)
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// Only this subject: calls, sources, sinks, batches, sizes, call-sizes, many-sources, many-functions, start
    #[arg(long, value_name = "SUBJECT", value_parser = subject)]
    pub only: Vec<String>,
    /// Only this peer, and uds
    #[arg(long, value_name = "PEER")]
    pub peer: Vec<String>,
    /// Write all figures of all rounds as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw a chart of each subject as an SVG file
    #[arg(long, value_name = "DIR")]
    pub charts: Option<PathBuf>,
}

impl Options {
    /// Returns the number of rounds.
    pub fn rounds(&self) -> u16 {
        if self.quick { 1 } else { self.rounds }
    }

    /// Returns the duration of each measurement.
    pub fn pace(&self) -> Pace {
        Pace::new(Duration::from_secs_f64(if self.quick { 0.05 } else { self.seconds }))
    }
}

/// Parses a duration of a millisecond to ten minutes; the latency of each call
/// is kept in memory.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (1e-3..=600.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0.001 to 600, for example 0.5".into())
}

fn subject(text: &str) -> Result<String, String> {
    let names: Vec<_> = crate::subject::all().iter().map(|subject| subject.name).collect();
    match names.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("there are {}", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_that_can_be_measured_is_one() {
        assert_eq!(["0.001", "600", "1e1"].map(seconds), [Ok(0.001), Ok(600.0), Ok(10.0)]);
        for wrong in
            ["nan", "NaN", "inf", "-inf", "1e30", "1e999", "0", "-0", "-1", "1e-9", "600.1", "", " ", "1s", "0x1"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert!(subject("calls").is_ok() && subject("call").unwrap_err().contains("many-sources"));
    }
}
