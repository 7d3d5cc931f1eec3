//! The official Python SDK, under our host.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ekuiper_host::Format;

use super::hosted::{self, Hosted, Program};
use super::{Ack, Measured, Peer, Record, RowFunction};
use crate::Result;
use crate::clock::Pace;

/// The plugin of `plugin/bench.py`.
pub struct OfficialPython {
    name: &'static str,
    transport: &'static str,
    program: Program,
}

impl OfficialPython {
    /// With this interpreter, which has the official SDK, and our host on
    /// `transport`.
    ///
    /// # Errors
    /// Why it is left out.
    pub fn new(name: &'static str, transport: &'static str, python: &Path, script: PathBuf) -> Result<Self, String> {
        hosted::is_built_in(transport)?;
        let mut probe = Command::new(python);
        probe.args(["-c", "import ekuiper"]).stdout(Stdio::null()).stderr(Stdio::null());
        match probe.status() {
            Ok(status) if status.success() => {}
            _ => return Err(format!("{} has no official SDK: `cargo xtask tools` sets it up", python.display())),
        }
        Ok(Self { name, transport, program: Program::Python { python: python.to_owned(), script } })
    }

    fn started(&self) -> Result<Hosted> {
        Hosted::start(&self.program, self.transport, Format::Json)
    }
}

impl Peer for OfficialPython {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> String {
        format!("a plugin on the official Python SDK (libnng) under our host, transport {}", self.transport)
    }

    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        self.started()?.calls(pace, size, channels)
    }

    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        self.started()?.source(pace, record, size, channels)
    }

    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        match ack {
            // It takes one message at a time.
            Ack::Window(_) => Ok(None),
            ack => self.started()?.sink(pace, ack, size),
        }
    }

    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        self.started()?.bytes(pace, size)
    }

    fn rows(&self, pace: Pace, function: RowFunction) -> Measured {
        // A call for each: no more at a time than the clock allows.
        self.started()?.rows(pace, function, 64)
    }

    fn start(&self) -> Measured {
        hosted::start(&self.program, self.transport, Format::Json)
    }
}
