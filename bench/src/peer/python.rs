//! A plugin in Python, under our host: on the official SDK, on our module with
//! the same classes, and as plain functions.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ekuiper_host::Format;

use super::hosted::{self, Hosted, Program};
use super::{Ack, Measured, Peer, Record, RowFunction};
use crate::Result;
use crate::clock::Pace;

/// Number of rows that our module is given at a time.
const ROWS: usize = 4096;

/// The plugin of `plugin/bench.py`, or of `plugin/decorated.py`, and that of
/// `plugin/columns.py`.
pub struct Python {
    name: &'static str,
    transport: &'static str,
    program: Program,
    /// What it runs on.
    module: Module,
}

/// What a plugin in Python is written with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Module {
    Official,
    /// Our module, with the official SDK's classes.
    Classes,
    /// Our module, with plain functions.
    Functions,
}

impl Python {
    /// Creates the peer on the official SDK, installed for this interpreter,
    /// with our host on `transport`.
    ///
    /// # Errors
    /// The reason why it is skipped.
    pub fn official(
        name: &'static str,
        transport: &'static str,
        python: &Path,
        script: PathBuf,
    ) -> Result<Self, String> {
        hosted::is_built_in(transport)?;
        if !runs(python, "import ekuiper, pynng") {
            return Err(format!("{} has no official SDK: `cargo xtask tools` sets it up", python.display()));
        }
        let program = Program::Python { python: python.to_owned(), script };
        Ok(Self { name, transport, program, module: Module::Official })
    }

    /// Creates the peer on our module, installed for this interpreter, with our
    /// host on `transport`.
    ///
    /// # Errors
    /// The reason why it is skipped.
    pub fn classes(
        name: &'static str,
        transport: &'static str,
        python: &Path,
        script: PathBuf,
    ) -> Result<Self, String> {
        Self::ours(name, transport, python, script, Module::Classes)
    }

    /// Creates the peer on our module, with plain functions.
    ///
    /// # Errors
    /// The reason why it is skipped.
    pub fn functions(name: &'static str, python: &Path, script: PathBuf) -> Result<Self, String> {
        Self::ours(name, "uds", python, script, Module::Functions)
    }

    fn ours(
        name: &'static str,
        transport: &'static str,
        python: &Path,
        script: PathBuf,
        module: Module,
    ) -> Result<Self, String> {
        hosted::is_built_in(transport)?;
        if !runs(python, "import ekuiper._ekuiper") {
            return Err(format!("{} has no module of ours: `cargo xtask python` sets it up", python.display()));
        }
        let program = Program::Python { python: python.to_owned(), script };
        Ok(Self { name, transport, program, module })
    }

    fn is_ours(&self) -> bool {
        self.module != Module::Official
    }

    fn started(&self) -> Result<Hosted> {
        Hosted::start(&self.program, self.transport, self.format())
    }

    /// Returns the default format.
    fn format(&self) -> Format {
        if self.is_ours() { Format::MessagePack } else { Format::Json }
    }
}

pub(super) fn runs(python: &Path, program: &str) -> bool {
    let mut probe = Command::new(python);
    probe.args(["-c", program]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

impl Peer for Python {
    fn name(&self) -> &str {
        self.name
    }

    fn title(&self) -> &str {
        match (self.module, self.transport) {
            (Module::Classes, "shm") => "our Python module, shared memory",
            (Module::Classes, _) => "our Python module",
            (Module::Functions, _) => "our Python module, plain functions",
            (Module::Official, "nng") => "official Python SDK, libnng",
            (Module::Official, _) => "official Python SDK, our host",
        }
    }

    fn about(&self) -> String {
        match self.module {
            Module::Classes => format!("the same plugin in Python on our module, {}, MessagePack", self.transport),
            Module::Functions => "the same in Python as plain functions, on our module, uds, MessagePack".into(),
            Module::Official => {
                format!("a plugin on the official Python SDK (libnng) under our host, transport {}", self.transport)
            }
        }
    }

    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        self.started()?.calls(pace, size, channels)
    }

    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        self.started()?.source(pace, record, size, channels)
    }

    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        match ack {
            // The official SDK takes one message at a time.
            Ack::Window(_) if !self.is_ours() => Ok(None),
            ack => self.started()?.sink(pace, ack, size),
        }
    }

    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        self.started()?.bytes(pace, size)
    }

    fn rows(&self, pace: Pace, function: RowFunction) -> Measured {
        // The official SDK gets a call per row, so no more rows than the clock
        // allows.
        self.started()?.rows(pace, function, if self.is_ours() { ROWS } else { 64 })
    }

    #[cfg(feature = "columns")]
    fn columns(&self, pace: Pace, function: RowFunction, rows: usize) -> Measured {
        let Program::Python { python, script } = &self.program else { return Ok(None) };
        // Its functions need NumPy.
        if self.module != Module::Classes || !runs(python, "import numpy") {
            return Ok(None);
        }
        let program = Program::PythonColumns { python: python.clone(), script: script.with_file_name("columns.py") };
        Hosted::start(&program, self.transport, self.format())?.columns(pace, function, rows)
    }

    fn start(&self) -> Measured {
        hosted::start(&self.program, self.transport, self.format())
    }
}
