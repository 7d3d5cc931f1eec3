//! Memory that is shared with other libraries: arrays in Arrow's [capsules], and
//! those of NumPy.
//!
//! [capsules]: https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
#![allow(unsafe_code, reason = "pointers of other libraries")]

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::ptr::NonNull;
use std::sync::Arc;

use ekuiper_core::columns::arrow_array::ArrayRef;
use ekuiper_core::columns::arrow_buffer::Buffer;
use ekuiper_core::columns::c_data::{self, FFI_ArrowArray, FFI_ArrowArrayStream, FFI_ArrowSchema, Stream};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyTuple};

use super::wrong;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";
const STREAM: &CStr = c"arrow_array_stream";

/// The capsules of a schema and an array.
type Pair<'py> = (Bound<'py, PyCapsule>, Bound<'py, PyCapsule>);

/// Exports a column, which is not copied.
pub(super) fn export<'py>(py: Python<'py>, array: &ArrayRef) -> PyResult<Pair<'py>> {
    let (array, schema) = c_data::export(array).map_err(|error| wrong(&error))?;
    Ok((PyCapsule::new_with_value(py, schema, SCHEMA)?, PyCapsule::new_with_value(py, array, ARRAY)?))
}

/// Returns what a capsule of this name points to.
fn pointer<T>(capsule: &Bound<'_, PyCapsule>, name: &'static CStr) -> PyResult<NonNull<T>> {
    let pointer: NonNull<T> = capsule.pointer_checked(Some(name))?.cast();
    if pointer.is_aligned() { Ok(pointer) } else { Err(PyValueError::new_err("the capsule's pointer is not aligned")) }
}

/// Imports the array of an object that has `__arrow_c_array__`.
pub(super) fn import(value: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let pair = value.call_method0("__arrow_c_array__")?;
    let (schema, array): Pair<'_> =
        pair.extract().map_err(|_| PyTypeError::new_err("__arrow_c_array__ has not returned two capsules"))?;
    let (from, of) = (pointer::<FFI_ArrowArray>(&array, ARRAY)?, pointer::<FFI_ArrowSchema>(&schema, SCHEMA)?);
    // SAFETY: a capsule of this name points to such a structure, by Arrow's capsule
    // interface, and both capsules live until the end of this function. Nothing else
    // reads what this call has made meanwhile: the thread is attached.
    let array = unsafe { FFI_ArrowArray::from_raw(from.as_ptr()) };
    // SAFETY: as above; what the structures point to is as the C data interface says.
    unsafe { c_data::import(array, of.as_ref()) }.map_err(|error| wrong(&error))
}

/// Imports the arrays of an object that has `__arrow_c_stream__`.
pub(super) fn import_stream(value: &Bound<'_, PyAny>) -> PyResult<Stream> {
    let capsule = value.call_method0("__arrow_c_stream__")?;
    let capsule = capsule
        .cast::<PyCapsule>()
        .map_err(|_| PyTypeError::new_err("__arrow_c_stream__ has not returned a capsule"))?;
    let from = pointer::<FFI_ArrowArrayStream>(capsule, STREAM)?;
    // SAFETY: as in `import`.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(from.as_ptr()) };
    // SAFETY: the stream and what it gives is as the C stream interface says, by
    // Arrow's capsule interface.
    unsafe { Stream::new(stream) }.map_err(|error| wrong(&error))
}

/// An object whose memory is in use.
struct Kept(Option<AssertUnwindSafe<Py<PyAny>>>);

impl Drop for Kept {
    fn drop(&mut self) {
        // Attached, so that the object is released at once, unless the interpreter ends.
        let object = self.0.take();
        Python::try_attach(|_| drop(object));
    }
}

/// Memory of an object that lives as long as the buffer.
///
/// # Safety
/// `address` points to as many bytes, which stay where they are, and are not written
/// to, while the object lives.
unsafe fn buffer(object: &Bound<'_, PyAny>, address: NonNull<u8>, length: usize) -> Buffer {
    let kept = Arc::new(Kept(Some(AssertUnwindSafe(object.clone().unbind()))));
    // SAFETY: the caller's promise; the buffer keeps the object.
    unsafe { Buffer::from_custom_allocation(address, length, kept) }
}

/// The memory of bytes.
pub(super) fn of_bytes(bytes: &Bound<'_, PyBytes>) -> Buffer {
    let (address, length) = (NonNull::from(bytes.as_bytes()), bytes.as_bytes().len());
    // SAFETY: bytes do not change, and stay where they are.
    unsafe { buffer(bytes.as_any(), address.cast(), length) }
}

/// An array of NumPy's: its memory, its number of values, and their type.
pub(super) struct NumpyArray {
    pub(super) memory: Buffer,
    pub(super) count: usize,
    pub(super) typestr: String,
}

/// Returns the memory of an array of NumPy's, which must be contiguous and have one
/// dimension.
pub(super) fn of_numpy(array: &Bound<'_, PyAny>) -> PyResult<NumpyArray> {
    let py = array.py();
    // Of this very type: the attributes are NumPy's own, and true.
    if !array.get_type().is(&py.import("numpy")?.getattr("ndarray")?) {
        return Err(PyTypeError::new_err("it is no array of NumPy's"));
    }
    let interface = array.getattr("__array_interface__")?;
    let shape: Bound<'_, PyTuple> = interface.get_item("shape")?.cast_into()?;
    if shape.len() != 1 || !interface.get_item("strides")?.is_none() {
        return Err(PyTypeError::new_err("the array is not contiguous, or has not one dimension"));
    }
    let count = shape.get_item(0)?.extract()?;
    let typestr = interface.get_item("typestr")?.extract()?;
    let (address, _): (usize, bool) = interface.get_item("data")?.extract()?;
    let length: usize = array.getattr("nbytes")?.extract()?;
    let memory = match NonNull::new(std::ptr::with_exposed_provenance_mut(address)) {
        // SAFETY: NumPy's array has its values there, contiguous, and keeps them there
        // while it lives: to resize an array that is referenced is an error, unless the
        // program asks for no such check. A program that writes into an array that it
        // has returned changes what is sent, which are numbers of any value.
        Some(address) if length > 0 => unsafe { buffer(array, address, length) },
        _ => Buffer::default(),
    };
    Ok(NumpyArray { memory, count, typestr })
}
