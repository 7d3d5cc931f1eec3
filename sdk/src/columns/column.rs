//! The arrays that a columnar function takes and returns.

use std::fmt::Display;
use std::sync::Arc;

use ekuiper_core::columns::arrow_array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, ByteArrayType, ByteViewType,
};
use ekuiper_core::columns::arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray, GenericByteArray,
    GenericByteViewArray, GenericListArray, MapArray, NullArray, OffsetSizeTrait, PrimitiveArray, StructArray,
};
use ekuiper_core::columns::arrow_schema::DataType;

use crate::Result;
use crate::description;

/// An array that a columnar function may take and return: every array of
/// numbers, bools, texts, bytes, times, decimals, lists, structs, maps and
/// dictionaries, or an [`ArrayRef`] for any of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an array that a columnar function takes",
    label = "not a column",
    note = "take an array by reference, such as `&Float64Array`, `&StringArray`, or `&ArrayRef` for any type"
)]
pub trait Column: Sized + 'static {
    /// The array as this type, if it has it.
    #[doc(hidden)]
    fn of(array: &ArrayRef) -> Option<&Self>;

    #[doc(hidden)]
    fn into_array(self) -> ArrayRef;

    /// The type of the array's values, where the array's type tells.
    #[doc(hidden)]
    fn data_type() -> Option<DataType> {
        None
    }
}

impl Column for ArrayRef {
    fn of(array: &ArrayRef) -> Option<&Self> {
        Some(array)
    }

    fn into_array(self) -> ArrayRef {
        self
    }
}

macro_rules! columns {
    ($([$($generic:tt)*] $type:ty $(, $data_type:expr)?;)*) => {
        $(impl<$($generic)*> Column for $type {
            fn of(array: &ArrayRef) -> Option<&Self> {
                array.as_any().downcast_ref()
            }

            fn into_array(self) -> ArrayRef {
                Arc::new(self)
            }

            $(fn data_type() -> Option<DataType> {
                Some($data_type)
            })?
        })*
    };
}

columns! {
    [T: ArrowPrimitiveType] PrimitiveArray<T>, T::DATA_TYPE;
    [T: ByteArrayType] GenericByteArray<T>, T::DATA_TYPE;
    [T: ByteViewType] GenericByteViewArray<T>, T::DATA_TYPE;
    [] BooleanArray, DataType::Boolean;
    [] NullArray, DataType::Null;
    [] FixedSizeBinaryArray;
    [] FixedSizeListArray;
    [O: OffsetSizeTrait] GenericListArray<O>;
    [] MapArray;
    [] StructArray;
    [K: ArrowDictionaryKeyType] DictionaryArray<K>;
}

/// A value that a columnar function may return: a [`Column`] with a value for
/// each row, or a `Result` of one, whose error becomes the call's.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a columnar function",
    label = "a columnar function cannot return this",
    note = "return an array with a value for each row, such as `Float64Array`, an `ArrayRef`, or a `Result` of one of these"
)]
pub trait ColumnOutput {
    #[doc(hidden)]
    fn into_column(self) -> Result<ArrayRef>;

    /// The type of the values, where the array's type tells.
    #[doc(hidden)]
    fn data_type() -> Option<DataType>;
}

impl<C: Column> ColumnOutput for C {
    fn into_column(self) -> Result<ArrayRef> {
        Ok(self.into_array())
    }

    fn data_type() -> Option<DataType> {
        C::data_type()
    }
}

impl<C: Column, E: Display> ColumnOutput for Result<C, E> {
    fn into_column(self) -> Result<ArrayRef> {
        Ok(self.map_err(|error| format!("{error:#}"))?.into_array())
    }

    fn data_type() -> Option<DataType> {
        C::data_type()
    }
}

/// The type of the values of a column, in the words of descriptions.
pub(super) fn described(data_type: Option<&DataType>) -> description::DataType {
    use description::DataType as Described;
    match data_type {
        Some(DataType::Boolean) => Described::Bool,
        Some(of) if of.is_integer() => Described::Int,
        Some(of) if of.is_floating() => Described::Float,
        Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => Described::String,
        Some(DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => Described::Bytes,
        _ => Described::Any,
    }
}
