//! Columns: Arrow arrays as Python objects, and Python objects as Arrow arrays.
//!
//! `memory` shares memory with other libraries, by Arrow's capsules and NumPy's
//! arrays; `values` is the memory of numbers, as NumPy takes it; `read` makes a
//! column of what a symbol returns. Conversions by annotation are in
//! `ekuiper/_columns.py`.

mod memory;
mod read;
mod values;

use std::sync::Arc;

use ekuiper_core::Chain;
use ekuiper_core::columns::arrow_array::cast::AsArray;
use ekuiper_core::columns::arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use ekuiper_core::columns::arrow_schema::DataType;
use ekuiper_core::columns::{Cells, ColumnWriter};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyDict, PyList};
use serde::de::DeserializeSeed;

pub(crate) use read::{array_of, batch_of, batches_of};
pub(crate) use values::Values;

use crate::value::{Seed, Written};

/// An Arrow array, or a record batch, which is one of structs.
#[pyclass(frozen, module = "ekuiper")]
pub(crate) struct Column(ArrayRef);

/// Converts an error of this crate's conversions.
fn wrong(error: &(dyn std::error::Error + 'static)) -> PyErr {
    PyTypeError::new_err(Chain(error).to_string())
}

impl Column {
    pub(crate) fn new(array: ArrayRef) -> Self {
        Self(array)
    }

    /// Makes a column of the rows of a batch.
    pub(crate) fn of_batch(batch: RecordBatch) -> Self {
        Self(Arc::new(StructArray::from(batch)))
    }

    /// Makes a column of one value.
    pub(crate) fn of_value(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut writer = ColumnWriter::default();
        writer.push(&Written::new(value)).map_err(|error| wrong(&error))?;
        Ok(Self(writer.finish()))
    }

    fn null_rows(&self) -> usize {
        self.0.logical_null_count()
    }
}

#[pymethods]
impl Column {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("<Column of {} rows, {}>", self.0.len(), self.0.data_type())
    }

    /// The Arrow type, such as `Float64`.
    #[getter]
    fn r#type(&self) -> String {
        self.0.data_type().to_string()
    }

    /// The number of nulls.
    #[getter]
    fn null_count(&self) -> usize {
        self.null_rows()
    }

    /// The values as Python objects; None for a null.
    fn to_list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let cells = Cells::new(&self.0).map_err(|error| wrong(&error))?;
        let list = PyList::empty(py);
        for row in 0..self.0.len() {
            list.append(Seed::new(py).deserialize(cells.at(row)).map_err(|error| wrong(&error))?)?;
        }
        Ok(list)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.to_list(py)?.try_iter()?.into_any())
    }

    /// The columns of a record batch, or of structs, by their names.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let DataType::Struct(fields) = self.0.data_type() else {
            let text = format!("a column of {} has no fields", self.0.data_type());
            return Err(PyTypeError::new_err(text));
        };
        let dict = PyDict::new(py);
        for (field, column) in fields.iter().zip(self.0.as_struct().columns()) {
            dict.set_item(field.name(), Self(column.clone()))?;
        }
        Ok(dict)
    }

    /// The memory of numbers, bools, times and durations.
    fn values(&self) -> PyResult<Values> {
        Values::of(&self.0)
    }

    /// Which rows are null; None if none is.
    fn nulls(&self) -> Option<Values> {
        Values::of_nulls(&self.0)
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        Ok(memory::export(py, &self.0)?.0)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Py<PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        // A producer need not be able to convert.
        let _ = requested_schema;
        memory::export(py, &self.0)
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        slf: Bound<'py, Self>,
        dtype: Option<Py<PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static CONVERT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        CONVERT.import(py, "ekuiper._columns", "as_numpy")?.call1((slf, dtype, copy))
    }
}
