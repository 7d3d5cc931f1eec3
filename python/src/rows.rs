//! A sink's plain function: the rows of a message, decoded, checked and passed
//! to it.

use ekuiper_core::codec::Format;
use ekuiper_core::message::format_of_rows;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::signature::ArgumentError;
use crate::value::{Keys, Kind, Seed, loads};

/// A function that takes rows, or messages as bytes.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct RowTaker {
    function: Py<PyAny>,
    /// The other arguments.
    arguments: Option<Py<PyDict>>,
    kind: Kind,
    /// What an error says before the reason.
    what: String,
}

#[pymethods]
impl RowTaker {
    /// Creates the taker of a sink's parameter, of a kind as `_annotations.py`
    /// describes it.
    #[new]
    fn new(
        sink: &str,
        parameter: &str,
        kind: &Bound<'_, PyAny>,
        function: Py<PyAny>,
        arguments: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let what = format!("sink {sink}: {parameter}");
        let arguments = (!arguments.is_empty()).then(|| arguments.clone().unbind());
        Ok(Self { function, arguments, kind: Kind::parse(kind)?, what })
    }
}

impl RowTaker {
    /// Passes a message to the function: each row, or all rows at once if it
    /// takes a list.
    pub(crate) fn take(&self, py: Python<'_>, message: &[u8], keys: &Keys) -> PyResult<()> {
        if self.kind == Kind::Bytes {
            return self.call(PyBytes::new(py, message).into_any());
        }
        let rows = read(py, message, keys)?;
        match (rows.cast_into::<PyList>(), &self.kind) {
            (Ok(rows), Kind::List(_)) => self.check_and_call(rows.into_any()),
            (Ok(rows), _) => rows.iter().try_for_each(|row| self.check_and_call(row)),
            (Err(row), Kind::List(_)) => self.check_and_call(PyList::new(py, [row.into_inner()])?.into_any()),
            (Err(row), _) => self.check_and_call(row.into_inner()),
        }
    }

    fn check_and_call(&self, row: Bound<'_, PyAny>) -> PyResult<()> {
        let wrong = |wrong| ArgumentError::new_err(format!("{}: {wrong}", self.what));
        self.call(self.kind.check(row).map_err(wrong)?)
    }

    fn call(&self, row: Bound<'_, PyAny>) -> PyResult<()> {
        let (py, function) = (row.py(), self.function.bind_borrowed(row.py()));
        match &self.arguments {
            None => function.call1((row,)),
            Some(arguments) => function.call((row,), Some(arguments.bind(py))),
        }
        .map(drop)
    }
}

/// Decodes a message: rows in either codec, or any JSON.
fn read<'py>(py: Python<'py>, message: &[u8], keys: &Keys) -> PyResult<Bound<'py, PyAny>> {
    let Some((Format::MessagePack, _)) = format_of_rows(message) else { return loads(py, message) };
    let rows = Format::MessagePack.decode_with(message, Seed::with(py, keys));
    rows.map_err(|error| PyValueError::new_err(error.to_string()))
}
