//! A source whose code is Python, in upstream's way: `open` runs on a thread of
//! Python's, and `close` is called from another one while it does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_sdk::{BoxError, Config, Result, Source, SourceContext};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::context::{self, Stopped};
use crate::fault::Faults;
use crate::thread::{self, Busy};
use crate::value::to_python;

/// How long `open` may go on after `close` has returned. Many a source looks
/// only now and then whether it is to end, and upstream does not wait at all:
/// then it is left behind, and can emit nothing any more.
const PATIENCE: Duration = Duration::from_millis(700);

/// A source of the plugin's; the object is made when the engine starts it.
pub(crate) struct PySource {
    name: String,
    make: Arc<Py<PyAny>>,
    run: Option<Arc<Run>>,
}

/// What the threads of one source share.
struct Run {
    name: String,
    object: Py<PyAny>,
    faults: Faults,
    state: Mutex<State>,
    changed: Condvar,
    /// `close` has returned.
    closed: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// Absent until `open` runs.
    context: Option<Arc<Py<PyAny>>>,
    /// Absent while `open` runs.
    opened: Option<Result<(), String>>,
    close: Close,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Close {
    #[default]
    NotCalled,
    Runs,
    Returned(Instant),
}

impl PySource {
    pub(crate) fn new(name: String, make: Arc<Py<PyAny>>) -> Self {
        Self { name, make, run: None }
    }
}

impl Drop for PySource {
    fn drop(&mut self) {
        self.run = None;
        thread::release();
    }
}

impl Source for PySource {
    fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
        let Self { name, make, .. } = self;
        let made = thread::attach(name, |py| {
            let faults = Faults::default();
            let object = configured(py, make, datasource, config);
            let object = object.map_err(|error| faults.report(py, &format!("source {name} was not started"), error))?;
            Ok::<_, BoxError>((object, faults))
        });
        let (object, faults) = made?;
        let (state, changed, closed) = (Mutex::default(), Condvar::new(), Arc::default());
        self.run = Some(Arc::new(Run { name: name.clone(), object, faults, state, changed, closed }));
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let run = self.run.clone().ok_or("it was not configured")?;
        thread::attach(&self.name, |py| start(py, &run, ctx).map_err(|error| run.faults.report(py, &run.name, error)))?;
        let hooked = run.clone();
        let _hook = ctx.on_stop(move || {
            // What it fails with is in the log.
            let _ = hooked.close();
            drop(hooked);
            // The thread is there for this alone.
            thread::release();
        });
        run.wait_for_its_end()
    }

    fn close(&mut self, _: &SourceContext) -> Result<()> {
        let run = self.run.clone().ok_or("it was not configured")?;
        run.close()
    }
}

fn configured(py: Python<'_>, make: &Py<PyAny>, datasource: &str, config: &Config) -> PyResult<Py<PyAny>> {
    let object = make.call0(py)?;
    let config = to_python(py, config.as_map())?;
    object.call_method1(py, "configure", (datasource, config))?;
    Ok(object)
}

/// Runs `open` on a daemon thread: one that is left behind does not keep the
/// process.
fn start(py: Python<'_>, run: &Arc<Run>, ctx: &SourceContext) -> PyResult<()> {
    static THREAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let context = Arc::new(context::of_source(py, &run.name, ctx, run.closed.clone())?);
    run.lock().context = Some(context.clone());
    let target = Py::new(py, Open { run: run.clone(), ctx: ctx.clone(), context })?;
    let options = PyDict::new(py);
    options.set_item("target", target)?;
    options.set_item("name", &run.name)?;
    options.set_item("daemon", true)?;
    THREAD.import(py, "threading", "Thread")?.call((), Some(&options))?.call_method0("start")?;
    Ok(())
}

/// What the thread runs.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
struct Open {
    run: Arc<Run>,
    ctx: SourceContext,
    context: Arc<Py<PyAny>>,
}

#[pymethods]
impl Open {
    fn __call__(&self, py: Python<'_>) {
        let _busy = Busy::new();
        let opened = self.run.object.call_method1(py, "open", (&*self.context,));
        let outcome = match opened {
            Ok(_) => Ok(()),
            // It may end as it likes.
            Err(_) if self.ctx.is_stopped() => Ok(()),
            Err(error) if error.is_instance_of::<Stopped>(py) => Ok(()),
            Err(error) => {
                let what = format!("source {} failed", self.run.name);
                Err(self.run.faults.report(py, &what, error).to_string())
            }
        };
        self.run.lock().opened = Some(outcome);
        self.run.changed.notify_all();
    }
}

impl Run {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `open` has returned, or `close` has for a while.
    fn wait_for_its_end(&self) -> Result<()> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = state.opened.take() {
                return outcome.map_err(Into::into);
            }
            state = match state.close {
                Close::Returned(at) => {
                    let left = (at + PATIENCE).saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let name = &self.name;
                        ekuiper_sdk::tracing::warn!(
                            "{name}: open goes on though close has returned: it is left behind, and emits nothing more"
                        );
                        return Ok(());
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                Close::NotCalled | Close::Runs => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Calls `close`, once; whoever comes second waits for the first.
    fn close(&self) -> Result<()> {
        let mut state = self.lock();
        match state.close {
            Close::NotCalled => state.close = Close::Runs,
            Close::Returned(_) => return Ok(()),
            Close::Runs => {
                while state.close == Close::Runs {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                return Ok(());
            }
        }
        let context = state.context.clone();
        drop(state);
        let closed = thread::attach(&self.name, |py| {
            let none = Arc::new(py.None());
            let closed = self.object.call_method1(py, "close", (&*context.unwrap_or(none),));
            let what = || format!("source {} was not closed in order", self.name);
            closed.map(|_| ()).map_err(|error| self.faults.report(py, &what(), error))
        });
        self.closed.store(true, Ordering::Release);
        self.lock().close = Close::Returned(Instant::now());
        self.changed.notify_all();
        closed
    }
}
