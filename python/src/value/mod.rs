//! The conversion between Python objects and messages, by serde, for any codec.
//!
//! `write` and `read` are the two directions; `kind` checks a value against a
//! parameter's annotation.

mod kind;
mod read;
mod write;

pub(crate) use kind::Kind;
pub(crate) use read::{Keys, Seed, to_python};
pub(crate) use write::{Detached, Written};

use ekuiper_core::codec::Format;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::de::DeserializeSeed;

/// Writes a value as JSON, as messages do.
#[pyfunction]
pub(crate) fn dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let mut text = Vec::new();
    let written = Format::Json.encode(&mut text, &Written::new(value));
    written.map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(PyBytes::new(value.py(), &text))
}

/// Reads JSON, as messages do.
#[pyfunction]
pub(crate) fn loads<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let wrong = |error: serde_json::Error| PyValueError::new_err(error.to_string());
    let mut deserializer = serde_json::Deserializer::from_slice(data);
    let value = Seed::new(py).deserialize(&mut deserializer).map_err(wrong)?;
    deserializer.end().map_err(wrong)?;
    Ok(value)
}
