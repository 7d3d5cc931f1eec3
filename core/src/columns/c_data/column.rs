//! The structures of the C data interface as types of this crate, which no
//! version of an Arrow crate changes.

use std::ffi::{c_char, c_void};
use std::mem::{ManuallyDrop, align_of, size_of};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_schema::DataType;
use serde::de::Error as _;

use super::{FFI_ArrowArray, FFI_ArrowSchema, export, import};
use crate::{Error, Result};

/// `struct ArrowSchema` of the interface: the type of an array. It is released
/// when it is dropped. A pointer to it may be cast to a pointer to the same
/// structure of any library, which moves it out.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowSchema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    n_children: i64,
    children: *mut *mut Self,
    dictionary: *mut Self,
    release: Option<unsafe extern "C" fn(*mut Self)>,
    private_data: *mut c_void,
}

/// `struct ArrowArray` of the interface: the values of an array. It is released
/// when it is dropped. A pointer to it may be cast to a pointer to the same
/// structure of any library, which moves it out.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArray {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *const c_void,
    children: *mut *mut Self,
    dictionary: *mut Self,
    release: Option<unsafe extern "C" fn(*mut Self)>,
    private_data: *mut c_void,
}

macro_rules! structure {
    ($name:ident is $other:ident) => {
        const _: () = assert!(size_of::<$name>() == size_of::<$other>() && align_of::<$name>() == align_of::<$other>());

        impl Drop for $name {
            fn drop(&mut self) {
                if let Some(release) = self.release {
                    // SAFETY: it was moved here from a proper structure, and is not
                    // released yet.
                    unsafe { release(self) };
                }
            }
        }

        // SAFETY: the interface allows that another thread uses and releases it.
        unsafe impl Send for $name {}

        impl From<$other> for $name {
            fn from(other: $other) -> Self {
                let other = ManuallyDrop::new(other);
                // SAFETY: both are this structure of the interface, of one size and
                // alignment; it is moved, since `other` is not dropped.
                unsafe { std::ptr::from_ref(&*other).cast::<Self>().read() }
            }
        }

        impl $name {
            /// Moves it out of where it is: what is left is released.
            ///
            /// # Safety
            /// `from` must be aligned, and valid for reads and writes of a structure that
            /// is as the interface says.
            unsafe fn take(from: *mut Self) -> $other {
                let from = from.cast::<$other>();
                // SAFETY: the caller's promise, for the same structure.
                unsafe { $other::from_raw(from) }
            }
        }
    };
}

structure!(ArrowSchema is FFI_ArrowSchema);
structure!(ArrowArray is FFI_ArrowArray);

/// A column of values, or a record batch, which is a column of structs. A clone
/// is the same column.
///
/// Its memory is that of the library that has made it, and is shared with the
/// library that reads it.
#[derive(Clone, Debug)]
pub struct Column(ArrayRef);

impl Column {
    /// Imports a column: both structures are moved out of where they are, and
    /// released when the column is no longer used. What can be checked is checked.
    ///
    /// # Errors
    /// [`Error::Message`] when they are malformed, were released before, or are of a
    /// type that messages cannot hold.
    ///
    /// # Safety
    /// Both pointers must be aligned, and valid for reads and writes of structures
    /// that are as the [C data interface] says: their pointers that are not null
    /// point to as much memory as the type, the counts and the offsets demand, and
    /// it stays valid, and is not written to, until they are released.
    ///
    /// [C data interface]: https://arrow.apache.org/docs/format/CDataInterface.html
    pub unsafe fn import(array: *mut ArrowArray, schema: *mut ArrowSchema) -> Result<Self> {
        // SAFETY: the caller's promise.
        let (array, schema) = unsafe { (ArrowArray::take(array), ArrowSchema::take(schema)) };
        // SAFETY: the caller's promise.
        unsafe { import(array, &schema) }.map(Self)
    }

    /// Exports the column, which is not copied.
    ///
    /// # Errors
    /// [`Error::Encode`] when the interface has no such type.
    pub fn export(&self) -> Result<(ArrowArray, ArrowSchema)> {
        let (array, schema) = export(&self.0)?;
        Ok((array.into(), schema.into()))
    }

    /// The number of values, or rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A column of this crate's arrays.
    #[doc(hidden)]
    pub fn of(array: ArrayRef) -> Self {
        Self(array)
    }

    /// A column of the rows of a batch.
    #[doc(hidden)]
    pub fn of_batch(batch: RecordBatch) -> Self {
        Self(Arc::new(StructArray::from(batch)))
    }

    /// The record batch of this column.
    ///
    /// # Errors
    /// [`Error::Message`] for a column that is no batch, or has rows that are null.
    #[doc(hidden)]
    pub fn batch(&self) -> Result<RecordBatch> {
        let wrong = |text: String| Error::Message { what: "the batch", source: serde_json::Error::custom(text) };
        let DataType::Struct(_) = self.0.data_type() else {
            return Err(wrong(format!("a column of {} is no batch, which is a column of structs", self.0.data_type())));
        };
        let structs: &StructArray = self.0.as_struct();
        if structs.null_count() > 0 {
            return Err(wrong("a row is null".into()));
        }
        Ok(RecordBatch::from(structs))
    }
}
