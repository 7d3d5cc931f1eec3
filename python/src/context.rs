//! The native part of contexts: the emitter of a source, the acknowledgements of a
//! sink, and the watch of a function's call. `ekuiper.runtime.contextimpl` has the class around them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use ekuiper_core::Chain;
use ekuiper_core::sync::lock;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::TransportError;
use ekuiper_sdk::raw::CallWatch;
use ekuiper_sdk::{Error, FunctionContext, SinkContext, SourceContext};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::column::batches_of;
use crate::fault::{Faults, text_of};
use crate::thread::is_forked;
use crate::value::Detached;

create_exception!(ekuiper, Stopped, PyException, "Raised after a symbol was stopped: clean up and return.");

/// Converts an error of the SDK into an exception.
fn raise(error: Error) -> PyErr {
    match error {
        Error::Stopped => Stopped::new_err(error.to_string()),
        error => PyRuntimeError::new_err(Chain(&error).to_string()),
    }
}

/// A source's channel, usable for the source's lifetime only, even if Python code
/// keeps the context.
pub(crate) struct Emitting {
    /// `None` once the source has ended.
    ctx: Mutex<Option<SourceContext>>,
    /// Whether `close` has returned.
    has_closed: AtomicBool,
    refused: Throttle,
    /// The registrations of hooks, by number.
    hooks: Mutex<HashMap<u64, ekuiper_sdk::StopHook>>,
    next_hook: AtomicU64,
}

impl Emitting {
    pub(crate) fn new(ctx: SourceContext) -> Self {
        Self {
            ctx: Mutex::new(Some(ctx)),
            has_closed: AtomicBool::new(false),
            refused: Throttle::default(),
            hooks: Mutex::default(),
            next_hook: AtomicU64::new(0),
        }
    }

    fn hooks(&self) -> MutexGuard<'_, HashMap<u64, ekuiper_sdk::StopHook>> {
        lock(&self.hooks)
    }

    fn on_stop(self: &Arc<Self>, hook: Py<PyAny>) -> StopHook {
        let number = self.next_hook.fetch_add(1, Ordering::Relaxed);
        match self.ctx() {
            Some(ctx) => {
                // Not under the lock: the hook may be called immediately.
                let registered = ctx.on_stop(move || call_hook(&hook));
                self.hooks().insert(number, registered);
            }
            None => call_hook(&hook),
        }
        StopHook { of: Arc::downgrade(self), number }
    }

    fn ctx(&self) -> Option<SourceContext> {
        lock(&self.ctx).clone()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.ctx().is_none_or(|ctx| ctx.is_stopped())
    }

    pub(crate) fn close_has_returned(&self) {
        self.has_closed.store(true, Ordering::Release);
    }

    /// Ends the source's use of its channel.
    pub(crate) fn end(&self) {
        self.close_has_returned();
        let ctx = lock(&self.ctx).take();
        drop(ctx);
        let hooks = std::mem::take(&mut *self.hooks());
        drop(hooks);
    }

    /// Sends a message, and returns the author's result. The official package
    /// calls `close` before it takes the channel away: a tuple emitted in between
    /// is dropped without an exception, which would interrupt `open`.
    ///
    /// A tuple that cannot be sent costs that tuple only, as in the official
    /// package: the reader gets an error in its place.
    fn send(&self, what: &str, send: impl FnOnce(&SourceContext) -> Result<(), Error>) -> PyResult<()> {
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
            sent = self.refuse(&ctx, what, &text);
        }
        match sent {
            Err(Error::Stopped) if !self.has_closed.load(Ordering::Acquire) => Ok(()),
            sent => sent.map_err(raise),
        }
    }

    /// Reports an error in a tuple's place.
    fn refuse(&self, ctx: &SourceContext, what: &str, why: &str) -> Result<(), Error> {
        let text = format!("{what} cannot be sent: {why}");
        if let Some(others) = self.refused.pass(Instant::now()) {
            ekuiper_sdk::tracing::warn!(others, "{text}");
        }
        ctx.emit_error(&text)
    }
}

/// The reason why a tuple cannot be encoded; `None` for other errors.
fn unsendable(error: &Error) -> Option<String> {
    match error {
        // The cause alone, which begins with the path within the tuple.
        Error::Message(error) => {
            Some(std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string))
        }
        Error::Transport { source: source @ TransportError::TooLong { .. }, .. } => Some(Chain(source).to_string()),
        _ => None,
    }
}

/// What a tuple is called in errors, and what a record batch is.
const ROW: &str = "a row";
const BATCH: &str = "a batch";

/// The emitter of a source, as Python code sees it.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SourceEmitter(Arc<Emitting>);

#[pymethods]
impl SourceEmitter {
    /// Sends a tuple; blocks while the engine is slower, detached from the
    /// interpreter.
    fn emit(&self, py: Python<'_>, message: Py<PyAny>, meta: Option<Py<PyAny>>) -> PyResult<()> {
        let is_none = message.is_none(py);
        py.detach(|| {
            if is_none {
                return self.0.send(ROW, |ctx| self.0.refuse(ctx, ROW, "it is None, and a row is a dict"));
            }
            self.0.send(ROW, |ctx| match &meta {
                None => ctx.emit(&Detached::new(&message)),
                Some(meta) => ctx.emit_with_meta(&Detached::new(&message), &Detached::named("meta", meta)),
            })
        })
    }

    /// Sends the rows of a batch, or of each batch of a stream; blocks as `emit`
    /// does.
    fn emit_batch(&self, py: Python<'_>, batch: &Bound<'_, PyAny>) -> PyResult<()> {
        let refuse = |error: PyErr| {
            let why = text_of(py, &error);
            py.detach(|| self.0.send(BATCH, |ctx| self.0.refuse(ctx, BATCH, &why)))
        };
        let mut batches = match batches_of(batch) {
            Ok(batches) => batches,
            Err(error) => return refuse(error),
        };
        for batch in &mut batches {
            match batch {
                Ok(batch) => py.detach(|| self.0.send(BATCH, |ctx| ctx.emit_batch(&batch)))?,
                Err(error) => refuse(error)?,
            }
        }
        Ok(())
    }

    /// Reports an error to the engine.
    fn emit_error(&self, py: Python<'_>, error: &str) -> PyResult<()> {
        py.detach(|| self.0.send(ROW, |ctx| ctx.emit_error(error)))
    }

    /// Sleeps, and returns true; returns false as soon as the source is stopped.
    fn sleep(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let duration = std::time::Duration::try_from_secs_f64(seconds)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(py.detach(|| self.0.ctx().is_some_and(|ctx| ctx.sleep(duration))))
    }

    /// Whether the source has been stopped.
    fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }

    /// Registers a hook, which is called once, from its own thread, when the
    /// source is stopped; immediately if it was stopped already.
    fn on_stop(&self, py: Python<'_>, hook: Py<PyAny>) -> StopHook {
        py.detach(|| self.0.on_stop(hook))
    }
}

/// The registration of a hook that unblocks a source.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct StopHook {
    of: Weak<Emitting>,
    number: u64,
}

#[pymethods]
impl StopHook {
    /// Unregisters the hook, which is then not called, unless it already runs.
    fn take_back(&self) {
        if let Some(of) = self.of.upgrade() {
            // Dropped without the lock.
            let hook = of.hooks().remove(&self.number);
            drop(hook);
        }
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.take_back();
    }
}

fn call_hook(hook: &Py<PyAny>) {
    Python::attach(|py| {
        if let Err(error) = hook.call0(py) {
            let _ = Faults::default().report(py, "an on_stop hook failed", error);
        }
    });
}

/// A sink's acknowledgements, usable for the sink's lifetime only, even if Python
/// code keeps the context.
pub(crate) struct Acking {
    /// `None` once the sink has ended.
    ctx: Mutex<Option<SinkContext>>,
    /// The number of acknowledgements so far.
    made: AtomicU64,
}

impl Acking {
    pub(crate) fn new(ctx: SinkContext) -> Self {
        Self { ctx: Mutex::new(Some(ctx)), made: AtomicU64::new(0) }
    }

    fn ctx(&self) -> Option<SinkContext> {
        lock(&self.ctx).clone()
    }

    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Counts an acknowledgement that this module makes itself.
    pub(crate) fn count(&self) {
        self.made.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the sink's acknowledgements.
    pub(crate) fn end(&self) {
        let ctx = lock(&self.ctx).take();
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

/// The acknowledgements of a sink, as Python code sees them.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SinkAcks(Arc<Acking>);

#[pymethods]
impl SinkAcks {
    /// Acknowledges the oldest message that is not acknowledged yet.
    fn ack_ok(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.ack(SinkContext::ack_ok))
    }

    /// Acknowledges the oldest message as failed, with a reason.
    fn ack_error(&self, py: Python<'_>, error: &str) -> PyResult<()> {
        py.detach(|| self.0.ack(|ctx| ctx.ack_error(error)))
    }

    /// Whether the engine waits for acknowledgements.
    fn requires_ack(&self) -> bool {
        self.0.ctx().is_some_and(|ctx| ctx.requires_ack())
    }
}

/// The call that a function executes, as Python code sees it. The contexts of all
/// call sites share it.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
#[derive(Default)]
pub(crate) struct CurrentCall(Mutex<CallWatch>);

impl CurrentCall {
    /// Continues with another call.
    pub(crate) fn begin(&self, call: CallWatch) {
        let former = std::mem::replace(&mut *lock(&self.0), call);
        drop(former);
    }
}

#[pymethods]
impl CurrentCall {
    /// Whether nothing waits for the call's result any more.
    fn is_cancelled(&self) -> bool {
        lock(&self.0).is_cancelled()
    }
}

/// Creates a `ContextImpl` for a running symbol.
fn live(py: Python<'_>, arguments: impl for<'py> pyo3::call::PyCallArgs<'py>) -> PyResult<Py<PyAny>> {
    static LIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(LIVE.import(py, "ekuiper.runtime.contextimpl", "_live")?.call1(arguments)?.unbind())
}

/// Creates the context of a source.
pub(crate) fn of_source(
    py: Python<'_>,
    symbol: &str,
    ctx: &SourceContext,
    emitting: Arc<Emitting>,
) -> PyResult<Py<PyAny>> {
    let emitter = Py::new(py, SourceEmitter(emitting))?;
    live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), emitter, py.None()))
}

/// Creates the context of a sink.
pub(crate) fn of_sink(py: Python<'_>, symbol: &str, ctx: &SinkContext, acking: Arc<Acking>) -> PyResult<Py<PyAny>> {
    let acks = Py::new(py, SinkAcks(acking))?;
    live(py, (symbol, ctx.rule_id(), ctx.op_id(), ctx.instance_id(), py.None(), acks))
}

/// Creates the context of a function's call site.
pub(crate) fn of_function(
    py: Python<'_>,
    symbol: &str,
    ctx: &FunctionContext,
    call: &Py<CurrentCall>,
) -> PyResult<Py<PyAny>> {
    let ids = (ctx.rule_id(), ctx.op_id(), ctx.instance_id(), ctx.func_id());
    live(py, (symbol, ids.0, ids.1, ids.2, py.None(), py.None(), ids.3, call))
}
