//! Python exceptions: one line for the engine, the traceback for the log.

use std::time::Instant;

use ekuiper_core::throttle::Throttle;
use ekuiper_sdk::BoxError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The text of an exception for the engine: its type and its message.
pub(crate) fn text_of(py: Python<'_>, error: &PyErr) -> String {
    let kind = error.get_type(py);
    let name = kind.qualname().map_or_else(|_| "exception".into(), |name| name.to_string());
    let module = kind.module().map_or_else(|_| String::new(), |name| name.to_string());
    let name = match module.as_str() {
        "" | "builtins" | "__main__" => name,
        // The module's own exceptions have messages that suffice.
        "ekuiper._ekuiper" => String::new(),
        module => format!("{module}.{name}"),
    };
    let text = error.value(py).str().map_or_else(|_| "<no text>".into(), |text| text.to_string_lossy().into_owned());
    match (name.is_empty(), text.is_empty()) {
        (true, _) => text,
        (false, true) => name,
        (false, false) => format!("{name}: {text}"),
    }
}

/// A log of a symbol's exceptions, each with its traceback, at most one a second.
#[derive(Default)]
pub(crate) struct Faults(Throttle);

impl Faults {
    /// Logs an exception, unless another was just logged, and returns the error
    /// for the SDK.
    pub(crate) fn report(&self, py: Python<'_>, what: &str, error: PyErr) -> BoxError {
        let text = text_of(py, &error);
        if let Some(others) = self.0.pass(Instant::now()) {
            static REPORT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let reported = REPORT
                .import(py, "ekuiper._logging", "report")
                .and_then(|report| report.call1((what, error.into_value(py), others)));
            if let Err(error) = reported {
                error.write_unraisable(py, None);
            }
        }
        text.into()
    }
}
