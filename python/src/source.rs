//! A source whose code is Python, called as in the official package: `open` runs
//! on its own thread, and `close` is called meanwhile from the symbol's thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::sync::{lock, wait};
use ekuiper_sdk::{Config, Result, Source, SourceContext};
use pyo3::prelude::*;

use crate::context::{self, Emitting, Stopped};
use crate::fault::Faults;
use crate::thread;
use crate::value::to_python;

/// The time that `open` has to return after `close` has returned. Many sources
/// check only occasionally whether they must end, and the official package does
/// not wait at all. After this time the thread is abandoned, and can no longer
/// emit.
const PATIENCE: Duration = Duration::from_millis(700);

/// A source of the plugin, whose object is created when the engine starts it.
pub(crate) struct PySource {
    name: String,
    make: Arc<Py<PyAny>>,
    object: Option<Py<PyAny>>,
    /// `None` until the source is opened.
    context: Option<Py<PyAny>>,
    emitting: Option<Arc<Emitting>>,
    faults: Arc<Faults>,
    has_closed: bool,
}

/// The events that `open`'s thread and the stop report to the symbol's thread.
#[derive(Default)]
struct News {
    state: Mutex<SourceState>,
    changed: Condvar,
}

#[derive(Default)]
struct SourceState {
    stopped: bool,
    /// The outcome of `open`; `None` while it runs.
    opened: Option<Result<(), String>>,
}

impl PySource {
    pub(crate) fn new(name: String, make: Arc<Py<PyAny>>) -> Self {
        let faults = Arc::default();
        Self { name, make, object: None, context: None, emitting: None, faults, has_closed: false }
    }

    /// Calls `close` unless it was called before.
    fn close_object(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.has_closed, true) {
            return Ok(());
        }
        let object = self.object.as_ref().ok_or("the source was not configured")?;
        let closed = Python::attach(|py| {
            let closed = object.call_method1(py, "close", (&self.context,));
            thread::returned(py, closed)
                .map(|_| ())
                .map_err(|error| self.faults.report(py, &format!("source {} failed to close", self.name), error))
        });
        self.emitting.iter().for_each(|emitting| emitting.close_has_returned());
        closed
    }
}

impl Drop for PySource {
    /// Releases the source's resources, even if Python code keeps the context.
    fn drop(&mut self) {
        self.emitting.iter().for_each(|emitting| emitting.end());
        // Attached, so that objects are released immediately.
        Python::attach(|_| (self.object, self.context) = (None, None));
    }
}

impl Source for PySource {
    fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
        let Self { name, make, faults, .. } = self;
        let object = Python::attach(|py| {
            let object = configured(py, make, datasource, config);
            object.map_err(|error| faults.report(py, &format!("source {name} was not started"), error))
        });
        self.object = Some(object?);
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let news = Arc::<News>::default();
        let emitting = Arc::new(Emitting::new(ctx.clone()));
        self.emitting = Some(emitting.clone());
        Python::attach(|py| {
            let started = self.start(py, ctx, emitting, news.clone());
            started.map_err(|error| self.faults.report(py, &format!("source {} failed", self.name), error))
        })?;
        let told = news.clone();
        // The hook holds no reference to the source.
        let _hook = ctx.on_stop(move || {
            told.lock().stopped = true;
            told.changed.notify_all();
        });
        self.wait_for_the_end(&news)
    }

    fn close(&mut self, _: &SourceContext) -> Result<()> {
        self.close_object()
    }
}

fn configured(py: Python<'_>, make: &Py<PyAny>, datasource: &str, config: &Config) -> PyResult<Py<PyAny>> {
    let object = make.call0(py);
    let object = thread::returned(py, object)?;
    let config = to_python(py, config.as_map())?;
    thread::returned(py, object.call_method1(py, "configure", (datasource, config)))?;
    Ok(object)
}

impl PySource {
    /// Runs `open` on its own thread, which may be abandoned.
    fn start(&mut self, py: Python<'_>, ctx: &SourceContext, emitting: Arc<Emitting>, news: Arc<News>) -> PyResult<()> {
        let context = context::of_source(py, &self.name, ctx, emitting.clone())?;
        self.context = Some(context.clone_ref(py));
        let object = self.object.as_ref().map(|object| object.clone_ref(py));
        let (name, faults) = (self.name.clone(), self.faults.clone());
        thread::start(py, &self.name, move |py| {
            let opened = object.map_or(Ok(py.None()), |object| object.call_method1(py, "open", (context,)));
            let outcome = match thread::returned(py, opened) {
                Ok(_) => Ok(()),
                // A stopped source may end with any exception.
                Err(_) if emitting.is_stopped() => Ok(()),
                Err(error) if error.is_instance_of::<Stopped>(py) => Ok(()),
                Err(error) => Err(faults.report(py, &format!("source {name} failed"), error).to_string()),
            };
            news.lock().opened = Some(outcome);
            news.changed.notify_all();
        })
    }

    /// Waits until `open` has returned. When the source is stopped, calls
    /// `close` and waits for up to [`PATIENCE`] more.
    fn wait_for_the_end(&mut self, news: &News) -> Result<()> {
        let mut until = None;
        let mut state = news.lock();
        loop {
            if let Some(outcome) = state.opened.take() {
                return outcome.map_err(Into::into);
            }
            state = match until {
                None if state.stopped => {
                    drop(state);
                    // An exception of `close` has been logged.
                    let _ = self.close_object();
                    until = Some(Instant::now() + PATIENCE);
                    news.lock()
                }
                None => wait(&news.changed, state, None),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let name = &self.name;
                        ekuiper_sdk::tracing::warn!(
                            "{name}: open has not returned after close: its thread is abandoned and can no longer emit"
                        );
                        return Ok(());
                    }
                    wait(&news.changed, state, Some(left))
                }
            };
        }
    }
}

impl News {
    fn lock(&self) -> MutexGuard<'_, SourceState> {
        lock(&self.state)
    }
}
