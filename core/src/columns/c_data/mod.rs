//! Arrays of other Arrow libraries, by Arrow's [C data interface].
//!
//! The interface passes pointers, whose memory nobody but their producer knows.
//! What can be checked before a pointer is followed is checked here: the types,
//! the counts, the pointers that must not be null, offsets and lengths. The
//! values are checked after that, as those of a peer's message are.
//!
//! [C data interface]: https://arrow.apache.org/docs/format/CDataInterface.html
#![allow(unsafe_code, reason = "the interface is made of pointers")]

mod column;

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use arrow_array::ffi::from_ffi_and_data_type;
pub use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
pub use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{Array, ArrayRef, make_array, new_empty_array};
use arrow_data::{BufferSpec, layout};
use arrow_schema::DataType;
pub use column::{ArrowArray, ArrowSchema, Column};
use serde::de::Error as _;

use crate::{Error, Result};

/// Maximum nesting of a type.
const MAX_DEPTH: usize = 64;

/// Maximum number of values of an array, nested ones and those before its offset
/// included: lengths in bytes are then far from the largest number.
const MAX_VALUES: i64 = 1 << 40;

/// Maximum number of fields of a struct, and of buffers of an array.
const MAX_PARTS: i64 = 1 << 16;

/// Exports an array, which is not copied.
///
/// # Errors
/// [`Error::Encode`] when the interface has no such type.
pub fn export(array: &dyn Array) -> Result<(FFI_ArrowArray, FFI_ArrowSchema)> {
    let exported = arrow_array::ffi::to_ffi(&array.to_data());
    exported.map_err(|error| Error::Encode { what: "a column", source: serde_json::Error::custom(error) })
}

/// Imports an array, which is not copied, and releases it when it is no longer
/// used. It may have been released before, which is an error.
///
/// # Errors
/// [`Error::Message`] when the array is malformed, or of a type that messages
/// cannot hold.
///
/// # Safety
/// The structures must be as the interface says: pointers that are not null point
/// to as much memory as the type, the counts and the offsets demand, and it stays
/// valid, and is not written to, until the array is released.
pub unsafe fn import(array: FFI_ArrowArray, schema: &FFI_ArrowSchema) -> Result<ArrayRef> {
    // SAFETY: the caller's promise.
    import_as(array, unsafe { data_type(schema) }?)
}

/// Imports an array of this type, as [`import`] does, whose promise the caller has
/// made.
fn import_as(array: FFI_ArrowArray, of: DataType) -> Result<ArrayRef> {
    unpanicked(|| {
        check_array(&array, &of)?;
        if array.is_empty() {
            // The parts of an empty array may be missing, or begin anywhere.
            return Ok(new_empty_array(&of));
        }
        // SAFETY: the caller of `import`, or of `Stream::new`, has promised that the
        // pointers are valid.
        let data = unsafe { from_ffi_and_data_type(array, of) }.map_err(|error| error.to_string())?;
        data.validate_full().map_err(|error| error.to_string())?;
        Ok(make_array(data))
    })
}

/// Reads the type of a schema.
///
/// # Safety
/// As [`import`].
unsafe fn data_type(schema: &FFI_ArrowSchema) -> Result<DataType> {
    unpanicked(|| {
        if schema.release.is_none() {
            return Err("its schema was released already".into());
        }
        check_schema(schema, 0)?;
        let of = DataType::try_from(schema).map_err(|error| error.to_string())?;
        check_type(&of).map(|()| of)
    })
}

/// Returns the error of an array; a panic, at what no check has found, is one.
fn unpanicked<T>(import: impl FnOnce() -> Result<T, String>) -> Result<T> {
    let imported = catch_unwind(AssertUnwindSafe(import));
    let imported = imported.unwrap_or_else(|_| Err("it is malformed".into()));
    imported.map_err(|text| Error::Message { what: "the array", source: serde_json::Error::custom(text) })
}

/// The arrays of a stream, each checked like one that is [imported](import). It
/// ends with the first error.
#[derive(Debug)]
pub struct Stream {
    /// `None` once it has ended.
    stream: Option<FFI_ArrowArrayStream>,
    of: DataType,
}

impl Stream {
    /// Imports a stream, which is released when it is no longer used.
    ///
    /// # Errors
    /// As [`import`].
    ///
    /// # Safety
    /// As [`import`], for the stream, and for all schemas and arrays that it gives.
    pub unsafe fn new(mut stream: FFI_ArrowArrayStream) -> Result<Self> {
        let broken = |text: String| Error::Message { what: "the stream", source: serde_json::Error::custom(text) };
        if stream.release.is_none() {
            return Err(broken("it was released already".into()));
        }
        let (Some(get_schema), Some(_)) = (stream.get_schema, stream.get_next) else {
            return Err(broken("it lacks a function".into()));
        };
        let mut schema = FFI_ArrowSchema::empty();
        // SAFETY: the caller has promised a proper stream, which is not released.
        let code = unsafe { get_schema(&mut stream, &mut schema) };
        if code != 0 {
            return Err(broken(error_of(&mut stream, code)));
        }
        // SAFETY: the caller's promise, for the schemas of the stream.
        let of = unsafe { data_type(&schema) }?;
        Ok(Self { stream: Some(stream), of })
    }

    /// The type of the arrays.
    pub fn data_type(&self) -> &DataType {
        &self.of
    }
}

impl Iterator for Stream {
    type Item = Result<ArrayRef>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut stream = self.stream.take()?;
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: `Stream::new` was promised a proper stream, which is not released.
        let code = unsafe { stream.get_next?(&mut stream, &mut array) };
        if code != 0 {
            let source = serde_json::Error::custom(error_of(&mut stream, code));
            return Some(Err(Error::Message { what: "the stream", source }));
        }
        if array.is_released() {
            return None;
        }
        let imported = import_as(array, self.of.clone());
        self.stream = Some(stream).filter(|_| imported.is_ok());
        Some(imported)
    }
}

/// Returns the text of a stream's error.
fn error_of(stream: &mut FFI_ArrowArrayStream, code: i32) -> String {
    // SAFETY: the stream is not released; see `Stream::new`.
    let text = stream.get_last_error.map(|get| unsafe { get(stream) });
    let text = text.filter(|text| !text.is_null()).map(|text| {
        // SAFETY: the interface's text ends with a NUL, and is valid up to the stream's
        // next use.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    });
    text.unwrap_or_else(|| format!("error {code}"))
}

type Checked = Result<(), String>;

/// Checks what `arrow-schema` takes for granted.
fn check_schema(schema: &FFI_ArrowSchema, depth: usize) -> Checked {
    if depth > MAX_DEPTH {
        return Err(format!("its type is nested deeper than {MAX_DEPTH} levels"));
    }
    let format = text(schema.format)?.ok_or("its schema has no format")?;
    text(schema.name)?;
    let wanted = match format {
        "+s" => 0..=MAX_PARTS,
        "+l" | "+L" | "+m" => 1..=1,
        of if of.starts_with("+w:") => 1..=1,
        of if of.starts_with('+') => return Err(format!("its type {of:?} is not supported")),
        _ => 0..=0,
    };
    if !wanted.contains(&schema.n_children) {
        return Err(format!("its type {format:?} has {} children", schema.n_children));
    }
    for at in 0..schema.n_children as usize {
        // SAFETY: there are as many children as the schema says, by the promise.
        let child = unsafe { child(schema.children, at) }.ok_or("a child of its schema is missing")?;
        check_schema(child, depth + 1)?;
    }
    // SAFETY: null, or the schema of the values, by the promise.
    let dictionary = unsafe { schema.dictionary.as_ref() };
    dictionary.map_or(Ok(()), |values| check_schema(values, depth + 1))
}

/// Reads a text of a schema; `None` if there is none.
fn text<'a>(at: *const c_char) -> Result<Option<&'a str>, String> {
    let Some(at) = NonNull::new(at.cast_mut()) else { return Ok(None) };
    // SAFETY: it ends with a NUL, by the promise, and its user keeps the schema.
    let text = unsafe { CStr::from_ptr(at.as_ptr()) }.to_str();
    text.map(Some).map_err(|_| "a text of its schema is no UTF-8".into())
}

/// Returns a child of an array or a schema; `None` if its pointer is null.
///
/// # Safety
/// `children` is null, or has more than `at` pointers, each null or valid for as
/// long as the parent.
unsafe fn child<'a, T>(children: *mut *mut T, at: usize) -> Option<&'a T> {
    // SAFETY: the caller's promise; some producers do not align the pointers.
    NonNull::new(children).and_then(|children| unsafe { children.as_ptr().add(at).read_unaligned().as_ref() })
}

/// Checks that a type is one that `arrow-array` makes arrays of.
fn check_type(of: &DataType) -> Checked {
    match of {
        DataType::List(of) | DataType::LargeList(of) => check_type(of.data_type()),
        DataType::FixedSizeList(of, length) if *length >= 0 => check_type(of.data_type()),
        DataType::FixedSizeBinary(length) if *length >= 0 => Ok(()),
        DataType::FixedSizeList(..) | DataType::FixedSizeBinary(_) => Err("its type has a negative length".into()),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check_type(field.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => check_type(entries.data_type()),
            _ => Err("the entries of a map are no struct of two fields".into()),
        },
        DataType::Dictionary(keys, values) if keys.is_dictionary_key_type() => check_type(values),
        DataType::Dictionary(..) => Err("the keys of a dictionary are no integers".into()),
        _ => Ok(()),
    }
}

/// Checks what `arrow-array` takes for granted before it follows a pointer.
fn check_array(array: &FFI_ArrowArray, of: &DataType) -> Checked {
    if array.is_released() {
        return Err("it was released already".into());
    }
    check_part(array, of)
}

fn check_part(array: &FFI_ArrowArray, of: &DataType) -> Checked {
    let parts = Parts::of(array)?;
    let layout = layout(of);
    let first = usize::from(layout.can_contain_null_mask);
    let fixed = first + layout.buffers.len();
    // A column of views has any number of buffers, and their lengths behind them.
    let is_proper = if layout.variadic { parts.buffers > fixed } else { parts.buffers == fixed };
    if !is_proper || (parts.buffers > 0 && array.buffers.is_null()) {
        return Err(format!("it has {} buffers, which is no column of {of}", parts.buffers));
    }
    let values = parts.values;
    for (spec, at) in layout.buffers.iter().zip(first..) {
        let buffer = array.buffer(at);
        let is_needed = match spec {
            BufferSpec::FixedWidth { .. } | BufferSpec::BitMap => values > 0,
            BufferSpec::VariableWidth | BufferSpec::AlwaysNull => false,
        };
        if is_needed && buffer.is_null() {
            return Err(format!("its buffer {at} is missing"));
        }
    }
    match of {
        DataType::Utf8 | DataType::Binary if values > 0 => check_offsets::<i32>(array, values)?,
        DataType::LargeUtf8 | DataType::LargeBinary if values > 0 => check_offsets::<i64>(array, values)?,
        DataType::Utf8View | DataType::BinaryView => check_lengths(array, parts.buffers - fixed - 1)?,
        _ => {}
    }
    let types: Vec<&DataType> = match of {
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) | DataType::Map(of, _) => {
            vec![of.data_type()]
        }
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        _ => Vec::new(),
    };
    if parts.children != types.len() {
        return Err(format!("it has {} children, which is no column of {of}", parts.children));
    }
    for (at, of) in types.into_iter().enumerate() {
        // SAFETY: there are as many children as the array says, by the promise.
        let child = unsafe { child(array.children, at) }.ok_or("a child is missing")?;
        check_part(child, of)?;
    }
    match (array.dictionary(), of) {
        (Some(values), DataType::Dictionary(_, of)) => check_part(values, of),
        (None, DataType::Dictionary(..)) => Err("its dictionary is missing".into()),
        (Some(_), _) => Err("it has a dictionary that its type does not have".into()),
        (None, _) => Ok(()),
    }
}

/// The numbers of an array.
struct Parts {
    /// The number of values, with those before the offset.
    values: usize,
    buffers: usize,
    children: usize,
}

impl Parts {
    fn of(array: &FFI_ArrowArray) -> Result<Self, String> {
        let FFI_ArrowArray { length, offset, null_count: nulls, n_buffers, n_children, .. } = *array;
        let values = length.checked_add(offset).filter(|values| length >= 0 && offset >= 0 && *values <= MAX_VALUES);
        let count = |count: i64| usize::try_from(count).ok().filter(|_| count <= MAX_PARTS);
        let (Some(values), Some(buffers), Some(children)) = (values, count(n_buffers), count(n_children)) else {
            return Err(format!(
                "it has {length} values from {offset} on, {n_buffers} buffers and {n_children} children"
            ));
        };
        if !(-1..=length).contains(&nulls) {
            return Err(format!("of its {length} values {nulls} are null"));
        }
        Ok(Self { values: values as usize, buffers, children })
    }
}

/// Checks the last offset of texts or bytes, which says how long they are together.
fn check_offsets<O: Copy + Into<i64>>(array: &FFI_ArrowArray, values: usize) -> Checked {
    let offsets = array.buffer(1).cast::<O>();
    if !offsets.is_aligned() {
        return Err("its offsets are not aligned".into());
    }
    // SAFETY: not null, as checked before, and one longer than the values, by the
    // promise.
    let last = unsafe { *offsets.add(values) }.into();
    if (0..=MAX_VALUES).contains(&last) { Ok(()) } else { Err(format!("its last offset is {last}")) }
}

/// Checks the lengths of the buffers that views point into.
fn check_lengths(array: &FFI_ArrowArray, count: usize) -> Checked {
    let lengths = array.buffer(array.num_buffers() - 1).cast::<i64>();
    if count > 0 && (lengths.is_null() || !lengths.is_aligned()) {
        return Err("the lengths of its buffers are missing".into());
    }
    for at in 0..count {
        // SAFETY: not null, and as long as there are buffers, by the promise.
        let length = unsafe { *lengths.add(at) };
        if !(0..=MAX_VALUES).contains(&length) {
            return Err(format!("it has a buffer of {length} bytes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
