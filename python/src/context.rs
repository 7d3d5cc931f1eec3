//! What a symbol's Python code is given to work with: the way out of a source,
//! and the acknowledgements of a sink. `ekuiper.runtime.contextimpl` has the
//! class around them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::TransportError;
use ekuiper_sdk::{Error, FunctionContext, SinkContext, SourceContext};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::thread::is_forked;
use crate::value::Detached;

create_exception!(ekuiper, Stopped, PyException, "The symbol has been stopped: clean up and return.");

/// An error of the SDK's as an exception.
fn raise(error: Error) -> PyErr {
    match error {
        Error::Stopped => Stopped::new_err(error.to_string()),
        Error::Transport { what, source } => PyRuntimeError::new_err(format!("{what}: {source}")),
        error => PyRuntimeError::new_err(error.to_string()),
    }
}

/// A source's way out, for as long as the source lives, whoever keeps its
/// context.
pub(crate) struct Emitting {
    /// Absent once the source is over.
    ctx: Mutex<Option<SourceContext>>,
    /// `close` has returned.
    has_closed: AtomicBool,
    refused: Throttle,
}

impl Emitting {
    pub(crate) fn new(ctx: SourceContext) -> Self {
        Self { ctx: Mutex::new(Some(ctx)), has_closed: AtomicBool::new(false), refused: Throttle::default() }
    }

    fn ctx(&self) -> Option<SourceContext> {
        self.ctx.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.ctx().is_none_or(|ctx| ctx.is_stopped())
    }

    pub(crate) fn close_has_returned(&self) {
        self.has_closed.store(true, Ordering::Release);
    }

    /// The source is over.
    pub(crate) fn end(&self) {
        self.close_has_returned();
        let ctx = self.ctx.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(ctx);
    }

    /// Sends; what the author is told of it. Upstream calls `close` first and
    /// takes the channel away then: what is emitted meanwhile is nobody's any
    /// more, and no reason to break off what `open` is doing.
    ///
    /// A tuple that cannot be sent costs that tuple, as it does upstream: the
    /// reader gets an error in its place.
    fn send(&self, send: impl FnOnce(&SourceContext) -> Result<(), Error>) -> PyResult<()> {
        if is_forked() {
            return Err(PyRuntimeError::new_err(
                "a forked child has no channel of its own: hand its rows to the plugin's process, which emits them",
            ));
        }
        let Some(ctx) = self.ctx() else { return Err(raise(Error::Stopped)) };
        let mut sent = send(&ctx);
        if let Err(error) = &sent
            && let Some(text) = unsendable(error)
        {
            if let Some(others) = self.refused.pass(Instant::now()) {
                ekuiper_sdk::tracing::warn!(others, "{text}");
            }
            sent = ctx.emit_error(&text);
        }
        match sent {
            Err(Error::Stopped) if !self.has_closed.load(Ordering::Acquire) => Ok(()),
            sent => sent.map_err(raise),
        }
    }
}

/// What is told instead of a tuple that no message can hold; none where that is
/// not what is wrong.
fn unsendable(error: &Error) -> Option<String> {
    let cause = match error {
        Error::Message(error) => {
            // The cause alone: it begins with the place within the tuple.
            std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
        }
        Error::Transport { source: source @ TransportError::TooLong { .. }, .. } => source.to_string(),
        _ => return None,
    };
    Some(format!("a row cannot be sent: {cause}"))
}

/// Where a source's tuples go.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SourceEmitter(Arc<Emitting>);

#[pymethods]
impl SourceEmitter {
    /// Sends a tuple; waits while the engine is slower, without the
    /// interpreter's lock.
    fn emit(&self, py: Python<'_>, message: Py<PyAny>, meta: Option<Py<PyAny>>) -> PyResult<()> {
        py.detach(|| {
            self.0.send(|ctx| match &meta {
                None => ctx.emit(&Detached::new(&message)),
                Some(meta) => ctx.emit_with_meta(&Detached::new(&message), &Detached::named("meta", meta)),
            })
        })
    }

    /// Reports an error to the engine.
    fn emit_error(&self, py: Python<'_>, error: &str) -> PyResult<()> {
        py.detach(|| self.0.send(|ctx| ctx.emit_error(error)))
    }

    /// Waits; false, at once, when the source is stopped.
    fn sleep(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let duration = std::time::Duration::try_from_secs_f64(seconds)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(py.detach(|| self.0.ctx().is_some_and(|ctx| ctx.sleep(duration))))
    }

    /// Whether the source has been stopped.
    fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }
}

/// A sink's way to acknowledge, for as long as the sink lives, whoever keeps
/// its context.
pub(crate) struct Acking {
    /// Absent once the sink is over.
    ctx: Mutex<Option<SinkContext>>,
    /// How many acknowledgements have been made.
    made: AtomicU64,
}

impl Acking {
    pub(crate) fn new(ctx: SinkContext) -> Self {
        Self { ctx: Mutex::new(Some(ctx)), made: AtomicU64::new(0) }
    }

    fn ctx(&self) -> Option<SinkContext> {
        self.ctx.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Counts one that the module makes itself.
    pub(crate) fn count(&self) {
        self.made.fetch_add(1, Ordering::AcqRel);
    }

    /// The sink is over.
    pub(crate) fn end(&self) {
        let ctx = self.ctx.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(ctx);
    }

    fn ack(&self, ack: impl FnOnce(&SinkContext) -> Result<(), Error>) -> PyResult<()> {
        if is_forked() {
            return Err(PyRuntimeError::new_err(
                "a forked child has no channel of its own: the plugin's process acknowledges",
            ));
        }
        self.count();
        self.ctx().map_or(Err(Error::Stopped), |ctx| ack(&ctx)).map_err(raise)
    }
}

/// Where a sink's acknowledgements go.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SinkAcks(Arc<Acking>);

#[pymethods]
impl SinkAcks {
    /// Acknowledges the oldest message that is not acknowledged yet.
    fn ack_ok(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.ack(SinkContext::ack_ok))
    }

    /// Refuses it, with a reason.
    fn ack_error(&self, py: Python<'_>, error: &str) -> PyResult<()> {
        py.detach(|| self.0.ack(|ctx| ctx.ack_error(error)))
    }

    /// Whether the engine waits for acknowledgements.
    fn requires_ack(&self) -> bool {
        self.0.ctx().is_some_and(|ctx| ctx.requires_ack())
    }
}

/// The class `ContextImpl`'s way to make one that works.
fn live(py: Python<'_>, arguments: impl for<'py> pyo3::call::PyCallArgs<'py>) -> PyResult<Py<PyAny>> {
    static LIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(LIVE.import(py, "ekuiper.runtime.contextimpl", "_live")?.call1(arguments)?.unbind())
}

/// The context of a source.
pub(crate) fn of_source(
    py: Python<'_>,
    symbol: &str,
    ctx: &SourceContext,
    emitting: Arc<Emitting>,
) -> PyResult<Py<PyAny>> {
    let emitter = Py::new(py, SourceEmitter(emitting))?;
    live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), emitter, py.None()))
}

/// The context of a sink.
pub(crate) fn of_sink(py: Python<'_>, symbol: &str, ctx: &SinkContext, acking: Arc<Acking>) -> PyResult<Py<PyAny>> {
    let acks = Py::new(py, SinkAcks(acking))?;
    live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), py.None(), acks))
}

/// The context of a function's call site.
pub(crate) fn of_function(py: Python<'_>, symbol: &str, ctx: &FunctionContext) -> PyResult<Py<PyAny>> {
    live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), py.None(), py.None(), ctx.func_id()))
}
