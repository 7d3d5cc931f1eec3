//! Libraries that a program of their own measures (`peers/`): both ends are
//! bare, and what travels is bytes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Ack, CHANNELS, Measured, Peer, Record};
use crate::clock::{Pace, of_rate};
use crate::metric::{Metric, Sample};
use crate::{Error, Result};

/// The program.
pub struct Program {
    path: PathBuf,
    library: Library,
}

/// What is known of a library without its program.
struct Library {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    is_limit: bool,
    /// Maximum number of channels that it measures in parallel.
    channels: usize,
    has_acks: bool,
    /// What builds its program.
    tool: &'static str,
}

#[derive(Deserialize)]
struct Figures {
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    per_second: f64,
    messages: u64,
    cpu_seconds: f64,
}

impl Program {
    /// Creates the peer mangos with the Go program at this path.
    ///
    /// # Errors
    /// The program does not exist.
    pub fn mangos(path: &Path) -> Result<Self, String> {
        let about = "mangos in Go, the library of eKuiper and of its Go SDK: \
            REQ/REP and PUSH/PULL of bytes, no SDK, no JSON";
        let (title, tool) = ("mangos in Go, bytes only", "Go");
        let library =
            Library { name: "mangos", title, about, is_limit: false, channels: CHANNELS, has_acks: true, tool };
        Self::new(library, path)
    }

    /// Creates the peer iceoryx2 with the program at this path.
    ///
    /// # Errors
    /// The program does not exist.
    pub fn iceoryx2(path: &Path) -> Result<Self, String> {
        let about = "iceoryx2, shared memory that trusts its peers: \
            request/response and publish/subscribe of bytes, both sides busy-polling, no codec";
        let (title, tool) = ("iceoryx2, bytes only, trusts its peers", "Rust 1.89 or later");
        let library = Library { name: "iceoryx2", title, about, is_limit: true, channels: 1, has_acks: false, tool };
        Self::new(library, path)
    }

    fn new(library: Library, path: &Path) -> Result<Self, String> {
        if path.is_file() {
            return Ok(Self { path: path.to_owned(), library });
        }
        let (path, tool) = (path.display(), library.tool);
        Err(format!("there is no {path}: `cargo xtask bench` builds it where {tool} is installed"))
    }

    fn try_measure(&self, pace: Pace, mode: &str, size: usize, channels: usize) -> Measured {
        match channels <= self.library.channels {
            true => self.measure(pace, mode, size, channels).map(Some),
            false => Ok(None),
        }
    }

    fn measure(&self, pace: Pace, mode: &str, size: usize, channels: usize) -> Result<Sample> {
        let mut command = Command::new(&self.path);
        command.args(["measure", mode, &size.to_string(), &channels.to_string()]);
        command.args([pace.measured, pace.warm_up].map(|time| time.as_secs_f64().to_string()));
        let name = self.library.name;
        let output = command.stdin(Stdio::null()).output().map_err(Error::io("run a peer's program"))?;
        let figures: Figures = match output.status.success() {
            true => serde_json::from_slice(&output.stdout)
                .map_err(|error| Error::Peer(format!("the figures of the peer {name}: {error}")))?,
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

impl Peer for Program {
    fn name(&self) -> &str {
        self.library.name
    }

    fn title(&self) -> &str {
        self.library.title
    }

    fn is_limit(&self) -> bool {
        self.library.is_limit
    }

    fn about(&self) -> String {
        self.library.about.into()
    }

    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        self.try_measure(pace, "calls", size, channels)
    }

    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        match record {
            Record::Typed => self.try_measure(pace, "source", size, channels),
            Record::Value => Ok(None),
        }
    }

    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        match ack {
            Ack::None => self.try_measure(pace, "sink", size, 1),
            Ack::Each if self.library.has_acks => self.try_measure(pace, "ack", size, 1),
            Ack::Each | Ack::Window(_) => Ok(None),
        }
    }

    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        self.try_measure(pace, "sink", size, 1)
    }
}
