//! What a symbol's Python code is given to work with: the way out of a source,
//! and the acknowledgements of a sink. `ekuiper.runtime.contextimpl` has the
//! class around them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ekuiper_sdk::{Error, FunctionContext, SinkContext, SourceContext};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::value::Detached;

create_exception!(ekuiper, Stopped, PyException, "The symbol has been stopped: clean up and return.");

/// An error of the SDK's as an exception.
fn raise(error: Error) -> PyErr {
    match error {
        Error::Stopped => Stopped::new_err(error.to_string()),
        Error::Message(error) => {
            // The cause alone: it begins with the place within the value.
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            PyValueError::new_err(cause)
        }
        Error::Transport { what, source } => PyRuntimeError::new_err(format!("{what}: {source}")),
        error => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Where a source's tuples go.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SourceEmitter {
    ctx: SourceContext,
    closed: Arc<AtomicBool>,
}

impl SourceEmitter {
    /// What the author is told of an `emit`. Upstream calls `close` first and
    /// takes the channel away then: what is emitted meanwhile is nobody's any
    /// more, and no reason to break off what `open` is doing.
    fn told(&self, sent: Result<(), Error>) -> PyResult<()> {
        match sent {
            Err(Error::Stopped) if !self.closed.load(Ordering::Acquire) => Ok(()),
            sent => sent.map_err(raise),
        }
    }
}

#[pymethods]
impl SourceEmitter {
    /// Sends a tuple; waits while the engine is slower, without the
    /// interpreter's lock.
    fn emit(&self, py: Python<'_>, message: Py<PyAny>, meta: Option<Py<PyAny>>) -> PyResult<()> {
        let sent = py.detach(|| match &meta {
            None => self.ctx.emit(&Detached(&message)),
            Some(meta) => self.ctx.emit_with_meta(&Detached(&message), &Detached(meta)),
        });
        self.told(sent)
    }

    /// Reports an error to the engine.
    fn emit_error(&self, py: Python<'_>, error: &str) -> PyResult<()> {
        self.told(py.detach(|| self.ctx.emit_error(error)))
    }

    /// Waits; false, at once, when the source is stopped.
    fn sleep(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let duration = std::time::Duration::try_from_secs_f64(seconds)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(py.detach(|| self.ctx.sleep(duration)))
    }

    /// Whether the source has been stopped.
    fn is_stopped(&self) -> bool {
        self.ctx.is_stopped()
    }
}

/// Where a sink's acknowledgements go.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SinkAcks {
    pub(crate) ctx: SinkContext,
    /// How many have been made.
    pub(crate) made: Arc<AtomicU64>,
}

#[pymethods]
impl SinkAcks {
    /// Acknowledges the oldest message that is not acknowledged yet.
    fn ack_ok(&self, py: Python<'_>) -> PyResult<()> {
        self.made.fetch_add(1, Ordering::AcqRel);
        py.detach(|| self.ctx.ack_ok()).map_err(raise)
    }

    /// Refuses it, with a reason.
    fn ack_error(&self, py: Python<'_>, error: &str) -> PyResult<()> {
        self.made.fetch_add(1, Ordering::AcqRel);
        py.detach(|| self.ctx.ack_error(error)).map_err(raise)
    }

    /// Whether the engine waits for acknowledgements.
    fn requires_ack(&self) -> bool {
        self.ctx.requires_ack()
    }
}

/// The class `ContextImpl`'s way to make one that works.
fn live(py: Python<'_>, arguments: impl for<'py> pyo3::call::PyCallArgs<'py>) -> PyResult<Py<PyAny>> {
    static LIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(LIVE.import(py, "ekuiper.runtime.contextimpl", "_live")?.call1(arguments)?.unbind())
}

/// The context of a source; `closed` is set when its `close` has returned.
pub(crate) fn of_source(
    py: Python<'_>,
    symbol: &str,
    ctx: &SourceContext,
    closed: Arc<AtomicBool>,
) -> PyResult<Py<PyAny>> {
    let emitter = Py::new(py, SourceEmitter { ctx: ctx.clone(), closed })?;
    live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), emitter, py.None()))
}

/// The context of a sink, and the number of acknowledgements that it makes.
pub(crate) fn of_sink(py: Python<'_>, symbol: &str, ctx: &SinkContext) -> PyResult<(Py<PyAny>, Arc<AtomicU64>)> {
    let made = Arc::new(AtomicU64::new(0));
    let acks = Py::new(py, SinkAcks { ctx: ctx.clone(), made: made.clone() })?;
    let context = live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), py.None(), acks))?;
    Ok((context, made))
}

/// The context of a function's call site.
pub(crate) fn of_function(py: Python<'_>, symbol: &str, ctx: &FunctionContext) -> PyResult<Py<PyAny>> {
    live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), py.None(), py.None(), ctx.func_id()))
}
