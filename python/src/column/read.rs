//! Columns and batches from what a symbol's code gives.

use std::sync::Arc;

use arrow_data::transform::MutableArrayData;
use ekuiper_core::columns::arrow_array::cast::AsArray;
use ekuiper_core::columns::arrow_array::types::*;
use ekuiper_core::columns::arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray, RecordBatch, StructArray, make_array,
    new_empty_array,
};
use ekuiper_core::columns::arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use ekuiper_core::columns::arrow_schema::DataType;
use ekuiper_core::columns::c_data::Stream;
use ekuiper_core::columns::{ColumnWriter, MAX_ROWS};
use ekuiper_core::description;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyList};

use super::memory::{self, NumpyArray};
use super::{Column, wrong};
use crate::value::Written;

/// Makes a column of an object: a column, an object with Arrow's capsules, an array
/// of NumPy's, a buffer, or a list of values, which are of the type `described`.
pub(crate) fn array_of(value: &Bound<'_, PyAny>, described: Option<&description::DataType>) -> PyResult<ArrayRef> {
    if let Ok(column) = value.cast::<Column>() {
        return Ok(column.get().0.clone());
    }
    if let Ok(list) = value.cast::<PyList>() {
        return of_list(list, described);
    }
    if value.hasattr("__arrow_c_array__")? {
        return memory::import(value);
    }
    if value.hasattr("__arrow_c_stream__")? {
        return joined(memory::import_stream(value)?);
    }
    static PLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let plain = PLAIN.import(value.py(), "ekuiper._columns", "plain")?.call1((value,))?;
    if let Ok(list) = plain.cast::<PyList>() {
        return of_list(list, described);
    }
    let (values, form): (Bound<'_, PyAny>, Bound<'_, PyAny>) = plain.extract()?;
    if let Ok(bytes) = values.cast::<PyBytes>() {
        let (typestr, count): (String, usize) = form.extract()?;
        return typed(NumpyArray { memory: memory::of_bytes(bytes), count, typestr }, None);
    }
    let array = memory::of_numpy(&values)?;
    let nulls = match form.is_none() {
        true => None,
        false => Some(not_masked(&memory::of_numpy(&form)?, array.count)?),
    };
    typed(array, nulls)
}

/// Returns which values a mask shows.
fn not_masked(mask: &NumpyArray, count: usize) -> PyResult<NullBuffer> {
    if mask.count != count || mask.typestr != "|b1" || mask.memory.len() != count {
        return Err(PyValueError::new_err("the mask is no array of as many bools as there are values"));
    }
    let is_valid = BooleanBuffer::collect_bool(count, |row| mask.memory[row] == 0);
    Ok(NullBuffer::new(is_valid))
}

fn of_list(list: &Bound<'_, PyList>, described: Option<&description::DataType>) -> PyResult<ArrayRef> {
    let mut writer = ColumnWriter::new(described, list.len());
    for (row, value) in list.iter().enumerate() {
        let pushed = match value.cast_exact::<PyFloat>() {
            // A column may have NaN and the infinities.
            Ok(number) => writer.push(&number.value()),
            Err(_) => writer.push(&Written::new(&value)),
        };
        pushed.map_err(|error| PyTypeError::new_err(format!("row {row}: {error}")))?;
    }
    Ok(writer.finish())
}

/// Makes one array of those of a stream.
fn joined(stream: Stream) -> PyResult<ArrayRef> {
    let of = stream.data_type().clone();
    let (mut parts, mut rows) = (Vec::new(), 0);
    for part in stream {
        let part = part.map_err(|error| wrong(&error))?;
        rows += part.len();
        if rows > MAX_ROWS {
            return Err(PyValueError::new_err(format!("it has more than {MAX_ROWS} rows, the most of a message")));
        }
        parts.push(part.to_data());
    }
    if let [part] = &parts[..] {
        return Ok(make_array(part.clone()));
    }
    if parts.is_empty() {
        return Ok(new_empty_array(&of));
    }
    let mut all = MutableArrayData::new(parts.iter().collect(), false, rows);
    for (index, part) in parts.iter().enumerate() {
        all.try_extend(index, 0, part.len()).map_err(|error| wrong(&error))?;
    }
    Ok(make_array(all.freeze()))
}

/// Makes a column of values in memory, by NumPy's name of their type.
fn typed(array: NumpyArray, nulls: Option<NullBuffer>) -> PyResult<ArrayRef> {
    let NumpyArray { memory, count, typestr } = array;
    macro_rules! column {
        ($type:ty) => {
            primitive::<$type>(memory, count, nulls)
        };
    }
    // Beyond the mark of the byte order, which is this machine's.
    match typestr.get(1..).unwrap_or_default() {
        "b1" => {
            if memory.len() < count {
                return Err(PyValueError::new_err("it has fewer bytes than values"));
            }
            let values = BooleanBuffer::collect_bool(count, |row| memory[row] != 0);
            Ok(Arc::new(BooleanArray::new(values, nulls)))
        }
        "i1" => column!(Int8Type),
        "i2" => column!(Int16Type),
        "i4" => column!(Int32Type),
        "i8" => column!(Int64Type),
        "u1" => column!(UInt8Type),
        "u2" => column!(UInt16Type),
        "u4" => column!(UInt32Type),
        "u8" => column!(UInt64Type),
        "f2" => column!(Float16Type),
        "f4" => column!(Float32Type),
        "f8" => column!(Float64Type),
        "M8[s]" => times::<TimestampSecondType>(memory, count, nulls),
        "M8[ms]" => times::<TimestampMillisecondType>(memory, count, nulls),
        "M8[us]" => times::<TimestampMicrosecondType>(memory, count, nulls),
        "M8[ns]" => times::<TimestampNanosecondType>(memory, count, nulls),
        "m8[s]" => times::<DurationSecondType>(memory, count, nulls),
        "m8[ms]" => times::<DurationMillisecondType>(memory, count, nulls),
        "m8[us]" => times::<DurationMicrosecondType>(memory, count, nulls),
        "m8[ns]" => times::<DurationNanosecondType>(memory, count, nulls),
        _ => Err(PyTypeError::new_err(format!("an array of {typestr} is no column"))),
    }
}

fn values<T: ArrowNativeType>(memory: Buffer, count: usize) -> PyResult<ScalarBuffer<T>> {
    if memory.len() != count * size_of::<T>() {
        return Err(PyValueError::new_err(format!("{} bytes are not {count} values", memory.len())));
    }
    let is_aligned = memory.as_ptr().cast::<T>().is_aligned();
    Ok(ScalarBuffer::new(if is_aligned { memory } else { Buffer::from(memory.as_slice()) }, 0, count))
}

fn primitive<T: ArrowPrimitiveType>(memory: Buffer, count: usize, nulls: Option<NullBuffer>) -> PyResult<ArrayRef> {
    Ok(Arc::new(PrimitiveArray::<T>::new(values(memory, count)?, nulls)))
}

/// Makes a column of times, where the least number is no time.
fn times<T: ArrowPrimitiveType<Native = i64>>(
    memory: Buffer,
    count: usize,
    nulls: Option<NullBuffer>,
) -> PyResult<ArrayRef> {
    let values = values::<i64>(memory, count)?;
    let no_times = values.contains(&i64::MIN).then(|| {
        let is_time = BooleanBuffer::collect_bool(count, |row| values[row] != i64::MIN);
        NullBuffer::new(is_time)
    });
    let nulls = NullBuffer::union(nulls.as_ref(), no_times.as_ref());
    Ok(Arc::new(PrimitiveArray::<T>::new(values, nulls)))
}

/// Makes a record batch of an object: a dict of columns, or an object with Arrow's
/// capsules.
pub(crate) fn batch_of(value: &Bound<'_, PyAny>) -> PyResult<RecordBatch> {
    let mut batches = batches_of(value)?;
    let first = batches.next().ok_or_else(|| PyValueError::new_err("the stream has no batch"))??;
    match batches.next() {
        None => Ok(first),
        Some(_) => Err(PyValueError::new_err("the stream has more than one batch")),
    }
}

/// Returns the record batches of an object, of which a stream may have many.
pub(crate) fn batches_of(value: &Bound<'_, PyAny>) -> PyResult<Box<dyn Iterator<Item = PyResult<RecordBatch>> + Send>> {
    let one = |batch| -> Box<dyn Iterator<Item = PyResult<RecordBatch>> + Send> { Box::new(std::iter::once(batch)) };
    if let Ok(columns) = value.cast::<PyDict>() {
        return Ok(one(Ok(of_columns(columns)?)));
    }
    if let Ok(column) = value.cast::<Column>() {
        return Ok(one(of_structs(&column.get().0)));
    }
    if value.hasattr("__arrow_c_array__")? {
        return Ok(one(of_structs(&memory::import(value)?)));
    }
    if value.hasattr("__arrow_c_stream__")? {
        let batches = memory::import_stream(value)?;
        return Ok(Box::new(batches.map(|part| of_structs(&part.map_err(|error| wrong(&error))?))));
    }
    let name = value.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "{name} is no batch: use a dict of columns, or an object of an Arrow library, such as pyarrow.RecordBatch or \
         polars.DataFrame"
    )))
}

fn of_columns(columns: &Bound<'_, PyDict>) -> PyResult<RecordBatch> {
    // A copy: the code of a column may change the dict.
    let read = columns.items().iter().map(|entry| {
        let (name, values): (String, Bound<'_, PyAny>) = entry.extract()?;
        let column = array_of(&values, None).map_err(|error| within(values.py(), &name, &error))?;
        Ok((name, column, true))
    });
    let columns = read.collect::<PyResult<Vec<_>>>()?;
    if let [(first, values, _), rest @ ..] = &columns[..]
        && let Some((name, other, _)) = rest.iter().find(|(_, other, _)| other.len() != values.len())
    {
        let (rows, others) = (values.len(), other.len());
        return Err(PyValueError::new_err(format!("column {first} has {rows} values, and {name} has {others}")));
    }
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| wrong(&error))
}

/// Adds a column's name to an error.
fn within(py: Python<'_>, name: &str, error: &PyErr) -> PyErr {
    let text = format!("column {name}: {}", error.value(py));
    if error.is_instance_of::<PyValueError>(py) { PyValueError::new_err(text) } else { PyTypeError::new_err(text) }
}

fn of_structs(array: &ArrayRef) -> PyResult<RecordBatch> {
    let DataType::Struct(_) = array.data_type() else {
        return Err(PyTypeError::new_err(format!("a column of {} is no batch", array.data_type())));
    };
    let structs: &StructArray = array.as_struct();
    if structs.null_count() > 0 {
        return Err(PyValueError::new_err("a row of the batch is null"));
    }
    Ok(RecordBatch::from(structs))
}
