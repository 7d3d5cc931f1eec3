//! What can be chosen on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::clock::Pace;

/// What is measured, for how long, and where the results go.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// How often all is measured, each peer in turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// How long each measurement takes, without its warm-up of a quarter of that
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub seconds: f64,
    /// One short round, to see that it works (about a minute)
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// Only this subject: calls, sources, sinks, batches, sizes, call-sizes, many-sources, many-functions, start
    #[arg(long, value_name = "SUBJECT")]
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
    /// How many rounds there are.
    pub fn rounds(&self) -> u16 {
        if self.quick { 1 } else { self.rounds }
    }

    /// How long each measurement takes.
    pub fn pace(&self) -> Pace {
        let seconds = if self.quick { 0.05 } else { self.seconds };
        // From a millisecond to a day: whatever was typed.
        Pace::new(Duration::from_secs_f64(seconds.clamp(1e-3, 86_400.0)))
    }
}
