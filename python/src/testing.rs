//! Tests of symbols: the SDK's test module around Python objects. Authors use it
//! by `ekuiper/testing.py`.

use std::sync::{Arc, Mutex};

use ekuiper_core::codec::Format;
use ekuiper_core::columns::arrow_array::RecordBatch;
use ekuiper_core::columns::encode;
use ekuiper_core::message::encode_rows;
use ekuiper_core::sync::lock;
use ekuiper_sdk::raw::Raw;
use ekuiper_sdk::testing::{self, OpenSink, RunningSource};
use ekuiper_sdk::{BoxError, Value};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

use crate::column::{Column, array_of, batch_of};
use crate::function::PyFunction;
use crate::sink::PySink;
use crate::source::PySource;
use crate::value::{Written, to_python};

create_exception!(
    ekuiper.testing,
    SymbolError,
    PyException,
    "The error of a symbol under test, as the engine gets it."
);

fn failed(error: impl Into<BoxError>) -> PyErr {
    SymbolError::new_err(error.into().to_string())
}

/// Converts a value as a message does.
fn read(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    let wrong = |error: serde_json::Error| PyValueError::new_err(error.to_string());
    let mut text = Vec::new();
    Format::Json.encode(&mut text, &Written::new(value)).map_err(wrong)?;
    Format::Json.decode(&text).map_err(wrong)
}

/// Converts a call's arguments.
fn list(args: &Bound<'_, PyAny>) -> PyResult<Vec<Value>> {
    match read(args)? {
        Value::Array(args) => Ok(args),
        other => Ok(vec![other]),
    }
}

/// A function under test.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct FunctionTest(Mutex<testing::FunctionTest>);

#[pymethods]
impl FunctionTest {
    #[new]
    fn new(name: String, make: Py<PyAny>) -> Self {
        Self(Mutex::new(testing::function(Raw(PyFunction::new(name, Arc::new(make))))))
    }

    fn call(&self, py: Python<'_>, args: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let args = list(args)?;
        let result = py.detach(|| lock(&self.0).call::<Value>(args)).map_err(failed)?;
        Ok(to_python(py, &result)?.unbind())
    }

    fn call_columns(&self, py: Python<'_>, columns: Vec<Bound<'_, PyAny>>) -> PyResult<Column> {
        let columns =
            columns.iter().enumerate().map(|(at, column)| Ok((at.to_string(), array_of(column, None)?, true)));
        let columns = columns.collect::<PyResult<Vec<_>>>()?;
        let batch = RecordBatch::try_from_iter_with_nullable(columns);
        let batch = batch.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let result = py.detach(|| lock(&self.0).call_columns(&batch)).map_err(failed)?;
        Ok(Column::new(result))
    }

    fn validate(&self, py: Python<'_>, args: &Bound<'_, PyAny>) -> PyResult<()> {
        let args = list(args)?;
        py.detach(|| lock(&self.0).validate(args)).map_err(failed)
    }

    fn is_aggregate(&self, py: Python<'_>) -> bool {
        py.detach(|| lock(&self.0).is_aggregate())
    }
}

/// A running source under test.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SourceTest(Mutex<Option<RunningSource>>);

#[pymethods]
impl SourceTest {
    #[new]
    fn new(
        py: Python<'_>,
        name: String,
        make: Py<PyAny>,
        datasource: String,
        config: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let config = read(config)?;
        let source = testing::source(PySource::new(name, Arc::new(make))).datasource(datasource).config(config);
        py.detach(|| source.open()).map(|running| Self(Mutex::new(Some(running)))).map_err(failed)
    }

    /// The next row and its meta; `None` if the source has ended.
    fn next(&self, py: Python<'_>) -> PyResult<Option<(Py<PyAny>, Py<PyAny>)>> {
        let next = py.detach(|| lock(&self.0).as_mut().and_then(Iterator::next));
        let Some(tuple) = next.transpose().map_err(failed)? else { return Ok(None) };
        Ok(Some((to_python(py, &tuple.message)?.unbind(), to_python(py, &tuple.meta)?.unbind())))
    }

    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| lock(&self.0).take().map_or(Ok(()), RunningSource::stop)).map_err(failed)
    }
}

/// An open sink under test.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct SinkTest {
    open: Mutex<Option<OpenSink>>,
    /// The codec of rows, which is the one that our host would choose.
    format: Format,
}

#[pymethods]
impl SinkTest {
    #[new]
    fn new(py: Python<'_>, name: String, make: Py<PyAny>, config: &Bound<'_, PyAny>) -> PyResult<Self> {
        let config = read(config)?;
        let reads_rows = make.bind(py).getattr_opt("rows")?.is_some_and(|rows| rows.is_truthy().unwrap_or(false));
        let format = if reads_rows { Format::MessagePack } else { Format::Json };
        let sink = testing::sink(PySink::new(name, Arc::new(make))).config(config);
        py.detach(|| sink.open()).map(|open| Self { open: Mutex::new(Some(open)), format }).map_err(failed)
    }

    fn send(&self, py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut message = Vec::new();
        encode_rows(&mut message, self.format, &Written::new(rows)).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            PyValueError::new_err(cause)
        })?;
        self.send_bytes(py, &message)
    }

    fn send_bytes(&self, py: Python<'_>, message: &[u8]) -> PyResult<()> {
        py.detach(|| match &mut *lock(&self.open) {
            Some(sink) => sink.send_bytes(message),
            None => Err("the sink is closed".into()),
        })
        .map_err(failed)
    }

    fn send_batch(&self, py: Python<'_>, batch: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut message = Vec::new();
        encode(&mut message, &batch_of(batch)?).map_err(|error| failed(Box::new(error) as BoxError))?;
        self.send_bytes(py, &message)
    }

    fn acks(&self) -> Vec<Option<String>> {
        lock(&self.open).as_ref().map_or_else(Vec::new, |sink| {
            sink.acks().into_iter().map(|ack| ack.err().map(|error| error.to_string())).collect()
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| lock(&self.open).take().map_or(Ok(()), OpenSink::close)).map_err(failed)
    }
}
