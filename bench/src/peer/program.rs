//! mangos, measured by a separate Go program (`peers/mangos`): both ends are
//! bare sockets of the library.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Ack, Measured, Peer, Record};
use crate::clock::{Pace, of_rate};
use crate::metric::{Metric, Sample};
use crate::{Error, Result};

/// The Go program.
pub struct Mangos {
    program: PathBuf,
}

#[derive(Deserialize)]
struct Figures {
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    per_second: f64,
    messages: u64,
    cpu_seconds: f64,
}

impl Mangos {
    /// Creates the peer with the program at this path.
    ///
    /// # Errors
    /// The program does not exist.
    pub fn new(program: &Path) -> Result<Self, String> {
        if program.is_file() {
            return Ok(Self { program: program.to_owned() });
        }
        Err(format!("there is no {}: `cargo xtask bench` builds it where Go is installed", program.display()))
    }

    fn measure(&self, pace: Pace, mode: &str, size: usize, channels: usize) -> Result<Sample> {
        let mut command = Command::new(&self.program);
        command.args(["measure", mode, &size.to_string(), &channels.to_string()]);
        command.args([pace.measured, pace.warm_up].map(|time| time.as_secs_f64().to_string()));
        let output = command.stdin(Stdio::null()).output().map_err(Error::io("run the mangos peer"))?;
        let figures: Figures = match output.status.success() {
            true => serde_json::from_slice(&output.stdout)
                .map_err(|error| Error::Peer(format!("the mangos peer's figures: {error}")))?,
            false => return Err(Error::Peer(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        };
        let mut sample = match (figures.p50_us, figures.p99_us) {
            (Some(p50), Some(p99)) => Sample::default().with(Metric::P50, p50).with(Metric::P99, p99),
            _ => Sample::default(),
        };
        sample.0.extend(of_rate(figures.per_second, size).0);
        Ok(sample.with(Metric::CpuPerMillion, figures.cpu_seconds / figures.messages.max(1) as f64 * 1e6))
    }
}

impl Peer for Mangos {
    fn name(&self) -> &str {
        "mangos"
    }

    fn title(&self) -> &str {
        "mangos in Go, bytes only"
    }

    fn about(&self) -> String {
        "mangos in Go, the library of eKuiper and of its Go SDK: REQ/REP and PUSH/PULL of bytes, no SDK, no JSON".into()
    }

    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        self.measure(pace, "calls", size, channels).map(Some)
    }

    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        match record {
            Record::Typed => self.measure(pace, "source", size, channels).map(Some),
            Record::Value => Ok(None),
        }
    }

    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        match ack {
            Ack::None => self.measure(pace, "sink", size, 1).map(Some),
            Ack::Each => self.measure(pace, "ack", size, 1).map(Some),
            Ack::Window(_) => Ok(None),
        }
    }

    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        self.measure(pace, "sink", size, 1).map(Some)
    }
}
