//! A sink whose code is Python.

use std::sync::Arc;

use ekuiper_sdk::{AckMode, Config, Result, Sink, SinkContext};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::column::Column;
use crate::context::{self, Acking};
use crate::fault::Faults;
use crate::rows::RowTaker;
use crate::thread;
use crate::value::{Keys, to_python};

/// A sink of the plugin, whose object is created when the engine starts it.
pub(crate) struct PySink {
    name: String,
    make: Arc<Py<PyAny>>,
    object: Option<Py<PyAny>>,
    context: Option<Py<PyAny>>,
    mode: AckMode,
    /// Whether the object takes batches.
    is_columnar: bool,
    /// The plain function that takes rows, if the object is around one; `None`
    /// until it is opened.
    taker: Option<Py<RowTaker>>,
    keys: Keys,
    faults: Faults,
    /// `None` until the sink is opened.
    acking: Option<Arc<Acking>>,
    /// The number of messages passed to the sink.
    given: u64,
}

impl PySink {
    pub(crate) fn new(name: String, make: Arc<Py<PyAny>>) -> Self {
        let (mode, faults, keys) = (AckMode::Manual, Faults::default(), Keys::default());
        let (object, context, taker, acking) = (None, None, None, None);
        Self { name, make, object, context, mode, is_columnar: false, taker, keys, faults, acking, given: 0 }
    }

    fn call(
        &self,
        what: &str,
        code: impl FnOnce(Python<'_>, &Py<PyAny>, &Option<Py<PyAny>>) -> PyResult<()>,
    ) -> Result<()> {
        let object = self.object.as_ref().ok_or("the sink was not configured")?;
        Python::attach(|py| {
            let called = thread::returned(py, code(py, object, &self.context));
            let what = || format!("sink {} {what}", self.name);
            called.map_err(|error| self.faults.report(py, &what(), error))
        })
    }
}

impl Drop for PySink {
    /// Releases the sink's resources, even if Python code keeps the context.
    fn drop(&mut self) {
        self.acking.iter().for_each(|acking| acking.end());
        // Attached, so that objects are released immediately.
        Python::attach(|_| {
            (self.object, self.context, self.taker) = (None, None, None);
            self.keys = Keys::default();
        });
    }
}

impl Sink for PySink {
    fn configure(&mut self, config: &Config) -> Result<()> {
        let Self { name, make, faults, .. } = self;
        let made = Python::attach(|py| {
            let made = configured(py, make, config);
            made.map_err(|error| faults.report(py, &format!("sink {name} was not started"), error))
        });
        let Made { object, automatic, columnar } = made?;
        self.mode = if automatic { AckMode::Automatic } else { AckMode::Manual };
        self.is_columnar = columnar;
        self.object = Some(object);
        Ok(())
    }

    fn open(&mut self, ctx: &SinkContext) -> Result<()> {
        let acking = Arc::new(Acking::new(ctx.clone()));
        self.acking = Some(acking.clone());
        let context = Python::attach(|py| {
            let made = context::of_sink(py, &self.name, ctx, acking);
            made.map_err(|error| self.faults.report(py, &format!("sink {} was not started", self.name), error))
        });
        self.context = Some(context?);
        self.call("failed to open", |py, object, context| object.call_method1(py, "open", (context,)).map(drop))?;
        self.taker = Python::attach(|py| {
            let object = self.object.as_ref()?.bind(py);
            let taker = object.getattr_opt("_taker").ok().flatten()?;
            Some(taker.cast_into::<RowTaker>().ok()?.unbind())
        });
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        self.given += 1;
        let batch = self.is_columnar.then(|| ctx.batch(data)).transpose()?;
        let collected = self.call("failed to collect a message", |py, object, context| {
            if let Some(taker) = &self.taker {
                return taker.get().take(py, data, &self.keys);
            }
            let data = match batch {
                Some(batch) => Bound::new(py, Column::of_batch(batch))?.into_any(),
                None => PyBytes::new(py, data).into_any(),
            };
            object.call_method1(py, intern!(py, "collect"), (context, data)).map(drop)
        });
        if let Err(error) = &collected
            && self.mode == AckMode::Manual
            && ctx.requires_ack()
            && let Some(acking) = &self.acking
            && acking.made() + 1 == self.given
        {
            // All others are acknowledged, so the exception has skipped the
            // acknowledgement of this message, for which an engine would wait
            // for ever (fault 10).
            acking.count();
            ctx.ack_error(&error.to_string())?;
        }
        collected
    }

    fn close(&mut self, _: &SinkContext) -> Result<()> {
        self.call("failed to close", |py, object, context| object.call_method1(py, "close", (context,)).map(drop))
    }

    fn ack_mode(&self) -> AckMode {
        self.mode
    }
}

/// An object that is configured.
struct Made {
    object: Py<PyAny>,
    /// Whether the SDK acknowledges for it.
    automatic: bool,
    /// Whether it takes batches.
    columnar: bool,
}

/// Creates and configures the object.
fn configured(py: Python<'_>, make: &Py<PyAny>, config: &Config) -> PyResult<Made> {
    let object = thread::returned(py, make.call0(py))?;
    let says = |name| -> PyResult<bool> {
        let says = object.bind(py).getattr_opt(name)?;
        Ok(says.is_some_and(|says| says.is_truthy().unwrap_or(false)))
    };
    let (automatic, columnar) = (says("_automatic_acks")?, says("_columnar")?);
    let config = to_python(py, config.as_map())?;
    thread::returned(py, object.call_method1(py, "configure", (config,)))?;
    Ok(Made { object, automatic, columnar })
}
