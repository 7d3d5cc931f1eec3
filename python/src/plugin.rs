//! The plugin: its symbols, and the process that serves an engine.

use std::process::ExitCode;
use std::sync::Arc;

use ekuiper_sdk::description::{self, Description, Sdk};
use ekuiper_sdk::raw::Raw;
use ekuiper_sdk::{Plugin, Result};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::function::PyFunction;
use crate::sink::PySink;
use crate::source::PySource;
use crate::thread;

/// The names and factories of symbols.
fn factories(symbols: &Bound<'_, PyDict>) -> PyResult<Vec<(String, Arc<Py<PyAny>>)>> {
    symbols.iter().map(|(name, make)| Ok((name.extract()?, Arc::new(make.unbind())))).collect()
}

/// The description that Python reads from its annotations.
fn described(describe: &Py<PyAny>) -> Result<Description> {
    let text: Vec<u8> = Python::attach(|py| describe.call0(py)?.extract(py))?;
    let mut description = Description::decode(&text)?;
    description.sdk = Sdk::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    Ok(description)
}

/// Serves the engine or supervisor that started this process, and returns the exit
/// code.
#[pyfunction]
pub(crate) fn run(
    py: Python<'_>,
    name: &str,
    symbols: [Bound<'_, PyDict>; 3],
    idempotent: &Bound<'_, PyList>,
    supervised: bool,
    describe: Py<PyAny>,
    arguments: Vec<String>,
) -> PyResult<u8> {
    let mut plugin = Plugin::new(name).spawn_with(thread::spawn).described_by(move || described(&describe));
    let [sources, sinks, functions] = &symbols;
    for (name, make) in factories(sources)? {
        let symbol = name.clone();
        plugin = plugin.source(name, move || PySource::new(symbol.clone(), make.clone()));
    }
    for (name, make) in factories(sinks)? {
        let symbol = name.clone();
        plugin = plugin.sink(name, move || PySink::new(symbol.clone(), make.clone()));
    }
    let idempotent: Vec<String> = idempotent.extract()?;
    for (name, make) in factories(functions)? {
        let mut function = description::describe(Raw(PyFunction::new(name.clone(), make)));
        if idempotent.contains(&name) {
            function = function.idempotent();
        }
        plugin = plugin.function(name, function);
    }
    if supervised {
        plugin = plugin.supervised();
    }
    let ended = py.detach(|| plugin.run_with(arguments));
    let code = [(ExitCode::SUCCESS, 0), (ExitCode::from(2), 2)];
    Ok(code.into_iter().find(|(code, _)| *code == ended).map_or(1, |(_, number)| number))
}
