//! Columns over pipes to a worker in Python, `plugin/pipe.py` on pyarrow, as
//! PyFlink and PySpark do it: one Arrow IPC stream there, one back.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use ekuiper_host::arrow59::arrow_array::{ArrayRef, RecordBatch};

use super::columns::Columns;
use super::python::runs;
use super::{Measured, Peer, RowFunction};
use crate::child::Child;
use crate::clock::Pace;
use crate::{Error, Result};

/// The worker's interpreter and script.
pub struct PipePeer {
    python: PathBuf,
    script: PathBuf,
}

impl PipePeer {
    /// Creates the peer with this interpreter.
    ///
    /// # Errors
    /// It has no pyarrow.
    pub fn new(python: &Path, script: PathBuf) -> Result<Self, String> {
        if !runs(python, "import pyarrow") {
            return Err(format!("{} has no pyarrow: `cargo xtask bench` sets it up", python.display()));
        }
        Ok(Self { python: python.to_owned(), script })
    }
}

impl Peer for PipePeer {
    fn name(&self) -> &str {
        "pipe"
    }

    fn title(&self) -> &str {
        "pipe to pyarrow"
    }

    fn about(&self) -> String {
        "Arrow IPC over pipes to a worker in Python on pyarrow, as PyFlink and PySpark do it".into()
    }

    fn columns(&self, pace: Pace, function: RowFunction, rows: usize) -> Measured {
        let columns = Columns::of(function, rows)?;
        let mut command = Command::new(&self.python);
        command.arg(&self.script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command)?;
        let (given, results) = child.pipes().ok_or_else(|| Error::Peer("the worker has no pipes".into()))?;
        let given = StreamWriter::try_new(given, &columns.given.schema()).map_err(failed)?;
        let mut worker = Worker { given, pipe: Some(results), results: None };
        columns.measure(pace, &[child.pid()], |batch| worker.call(batch))
    }
}

/// The two streams.
struct Worker {
    given: StreamWriter<ChildStdin>,
    /// The worker's pipe, until it is read as a stream: its schema comes once the
    /// first batch was given.
    pipe: Option<ChildStdout>,
    results: Option<StreamReader<BufReader<ChildStdout>>>,
}

impl Worker {
    fn call(&mut self, batch: &RecordBatch) -> Result<ArrayRef> {
        self.given.write(batch).and_then(|()| self.given.flush()).map_err(failed)?;
        if let Some(pipe) = self.pipe.take() {
            self.results = Some(StreamReader::try_new_buffered(pipe, None).map_err(failed)?);
        }
        match self.results.as_mut().and_then(Iterator::next) {
            Some(batch) => Ok(batch.map_err(failed)?.column(0).clone()),
            None => Err(failed("it has ended its stream")),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Peer(format!("the worker in Python: {error}"))
}
