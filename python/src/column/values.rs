//! The memory of a column's values, for NumPy and for `memoryview`.

use ekuiper_core::columns::arrow_array::cast::AsArray;
use ekuiper_core::columns::arrow_array::{Array, ArrayRef};
use ekuiper_core::columns::arrow_buffer::Buffer;
use ekuiper_core::columns::arrow_schema::{DataType, IntervalUnit, TimeUnit};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Values of one width in memory, which only reads: an object keeps it while its
/// address is in use. A null has any value.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct Values {
    memory: Buffer,
    count: usize,
    kind: Kind,
}

/// What values are.
struct Kind {
    /// NumPy's name of the type.
    typestr: String,
    /// The format of `struct`.
    format: char,
}

/// The unit in NumPy's words.
fn unit(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        let (name, format) = match data_type {
            DataType::Int8 => ("i1".into(), 'b'),
            DataType::UInt8 => ("u1".into(), 'B'),
            DataType::Int16 => ("i2".into(), 'h'),
            DataType::UInt16 => ("u2".into(), 'H'),
            DataType::Int32 | DataType::Time32(_) | DataType::Interval(IntervalUnit::YearMonth) => ("i4".into(), 'i'),
            // NumPy's days have 64 bits.
            DataType::Date32 => ("i4".into(), 'i'),
            DataType::UInt32 => ("u4".into(), 'I'),
            DataType::Int64 | DataType::Time64(_) => ("i8".into(), 'q'),
            DataType::UInt64 => ("u8".into(), 'Q'),
            DataType::Float16 => ("f2".into(), 'e'),
            DataType::Float32 => ("f4".into(), 'f'),
            DataType::Float64 => ("f8".into(), 'd'),
            DataType::Date64 => ("M8[ms]".into(), 'q'),
            DataType::Timestamp(of, _) => (format!("M8[{}]", unit(*of)), 'q'),
            DataType::Duration(of) => (format!("m8[{}]", unit(*of)), 'q'),
            _ => return None,
        };
        let order = if cfg!(target_endian = "little") { '<' } else { '>' };
        Some(Self { typestr: format!("{order}{name}"), format })
    }

    fn bool() -> Self {
        Self { typestr: "|b1".into(), format: '?' }
    }
}

impl Values {
    pub(super) fn of(array: &ArrayRef) -> PyResult<Self> {
        let count = array.len();
        if let Some(bools) = array.as_boolean_opt() {
            let memory = Buffer::from_vec(bools.values().iter().map(u8::from).collect());
            return Ok(Self { memory, count, kind: Kind::bool() });
        }
        let data_type = array.data_type();
        let (Some(kind), Some(width)) = (Kind::of(data_type), data_type.primitive_width()) else {
            return Err(PyTypeError::new_err(format!("the values of a column of {data_type} have no fixed width")));
        };
        let data = array.to_data();
        let memory = data.buffers()[0].slice_with_length(data.offset() * width, count * width);
        Ok(Self { memory, count, kind })
    }

    pub(super) fn of_nulls(array: &ArrayRef) -> Option<Self> {
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0)?;
        let memory = Buffer::from_vec(nulls.iter().map(|is_valid| u8::from(!is_valid)).collect());
        Some(Self { memory, count: array.len(), kind: Kind::bool() })
    }
}

#[pymethods]
impl Values {
    fn __len__(&self) -> usize {
        self.count
    }

    /// The format of a value, as in `struct`.
    #[getter]
    fn format(&self) -> char {
        self.kind.format
    }

    /// The number of bytes.
    #[getter]
    fn length(&self) -> usize {
        self.memory.len()
    }

    #[getter]
    fn address(&self) -> usize {
        self.memory.as_ptr().addr()
    }

    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", (self.count,))?;
        interface.set_item("typestr", &self.kind.typestr)?;
        let is_read_only = true;
        interface.set_item("data", (self.address(), is_read_only))?;
        Ok(interface)
    }
}
