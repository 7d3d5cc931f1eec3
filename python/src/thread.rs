//! The threads of symbols, created by Python's `threading`
//! (`ekuiper/_threads.py`), as the interpreter, debuggers and forked children
//! expect; and the detection of forked children.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ekuiper_core::sync::lock;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The code that a thread runs.
type Run = Box<dyn FnOnce(Python<'_>) + Send>;

/// Starts a daemon thread with this name, which does not keep the process alive
/// if it is abandoned.
pub(crate) fn start(py: Python<'_>, name: &str, run: impl FnOnce(Python<'_>) + Send + 'static) -> PyResult<()> {
    static START: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let job = Py::new(py, Job(Mutex::new(Some(Box::new(run)))))?;
    START.import(py, "ekuiper._threads", "start")?.call1((name, job)).map(|_| ())
}

/// Starts the thread of a symbol, which attaches to the interpreter when needed.
pub(crate) fn spawn(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let started = Python::attach(|py| {
        let started = start(py, name, |py| py.detach(run));
        started.map_err(|error| error.value(py).to_string())
    });
    started.map_err(io::Error::other)
}

/// A Python callable that runs its code once.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
struct Job(Mutex<Option<Run>>);

#[pymethods]
impl Job {
    fn __call__(&self, py: Python<'_>) {
        let run = lock(&self.0).take();
        run.into_iter().for_each(|run| run(py));
    }
}

/// Whether this process is a child that a symbol has forked. The channels belong
/// to its parent.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Marks this process as a forked child.
#[pyfunction]
pub(crate) fn forked() {
    FORKED.store(true, Ordering::Release);
}

/// Whether this process is a forked child.
pub(crate) fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Passes on the result of a symbol's code. A forked child that returns from it
/// would continue as a second plugin on the first one's channels: it exits here,
/// as at the end of a script.
pub(crate) fn returned<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<T> {
    if is_forked() {
        let error = result.err().map(|error| error.into_value(py));
        static LEAVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let left = LEAVE.import(py, "ekuiper._threads", "leave_child").and_then(|leave| leave.call1((error,)));
        if let Err(error) = left {
            error.write_unraisable(py, None);
        }
        std::process::abort();
    }
    result
}
