//! A sink whose code is Python.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ekuiper_sdk::{AckMode, Config, Result, Sink, SinkContext};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::context;
use crate::fault::Faults;
use crate::thread;
use crate::value::to_python;

/// A sink of the plugin's; the object is made when the engine starts it.
pub(crate) struct PySink {
    name: String,
    make: Arc<Py<PyAny>>,
    object: Option<Py<PyAny>>,
    context: Option<Py<PyAny>>,
    mode: AckMode,
    faults: Faults,
    /// How many messages it was given, and how many acknowledgements it made.
    given: u64,
    made: Arc<AtomicU64>,
}

impl PySink {
    pub(crate) fn new(name: String, make: Arc<Py<PyAny>>) -> Self {
        let (faults, made) = (Faults::default(), Arc::default());
        Self { name, make, object: None, context: None, mode: AckMode::Manual, faults, given: 0, made }
    }

    fn call(
        &self,
        what: &str,
        code: impl FnOnce(Python<'_>, &Py<PyAny>, &Option<Py<PyAny>>) -> PyResult<Py<PyAny>>,
    ) -> Result<()> {
        let object = self.object.as_ref().ok_or("it was not configured")?;
        thread::attach(&self.name, |py| {
            let called = code(py, object, &self.context);
            let what = || format!("sink {} {what}", self.name);
            called.map(|_| ()).map_err(|error| self.faults.report(py, &what(), error))
        })
    }
}

impl Drop for PySink {
    fn drop(&mut self) {
        (self.object, self.context) = (None, None);
        thread::release();
    }
}

impl Sink for PySink {
    fn configure(&mut self, config: &Config) -> Result<()> {
        let Self { name, make, faults, .. } = self;
        let made = thread::attach(name, |py| {
            let made = configured(py, make, config);
            made.map_err(|error| faults.report(py, &format!("sink {name} was not started"), error))
        });
        let (object, automatic): (Py<PyAny>, bool) = made?;
        self.mode = if automatic { AckMode::Automatic } else { AckMode::Manual };
        self.object = Some(object);
        Ok(())
    }

    fn open(&mut self, ctx: &SinkContext) -> Result<()> {
        let made = thread::attach(&self.name, |py| {
            let made = context::of_sink(py, &self.name, ctx);
            made.map_err(|error| self.faults.report(py, &format!("sink {} was not started", self.name), error))
        });
        let (context, made): (Py<PyAny>, Arc<AtomicU64>) = made?;
        (self.context, self.made) = (Some(context), made);
        self.call("was not opened", |py, object, context| object.call_method1(py, "open", (context,)))
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        self.given += 1;
        let collected = self.call("did not take a message", |py, object, context| {
            object.call_method1(py, "collect", (context, PyBytes::new(py, data)))
        });
        if let Err(error) = &collected
            && self.mode == AckMode::Manual
            && ctx.requires_ack()
            && self.made.load(Ordering::Acquire) + 1 == self.given
        {
            // All others are acknowledged, so this is the one that has failed.
            // An engine would wait for ever for the acknowledgement that the
            // exception has skipped (fault 10).
            self.made.fetch_add(1, Ordering::AcqRel);
            ctx.ack_error(&error.to_string())?;
        }
        collected
    }

    fn close(&mut self, _: &SinkContext) -> Result<()> {
        self.call("was not closed in order", |py, object, context| object.call_method1(py, "close", (context,)))
    }

    fn ack_mode(&self) -> AckMode {
        self.mode
    }
}

/// The object, configured, and whether the SDK acknowledges for it.
fn configured(py: Python<'_>, make: &Py<PyAny>, config: &Config) -> PyResult<(Py<PyAny>, bool)> {
    let object = make.call0(py)?;
    let automatic = object.bind(py).getattr_opt("_automatic_acks")?;
    let automatic = automatic.is_some_and(|automatic| automatic.is_truthy().unwrap_or(false));
    let config = to_python(py, config.as_map())?;
    object.call_method1(py, "configure", (config,))?;
    Ok((object, automatic))
}
