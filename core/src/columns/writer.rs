//! A column made of values, one at a time: rows written as columns.

use std::fmt::Display;
use std::sync::Arc;

use arrow_array::types::*;
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BinaryViewArray, BooleanArray, Float32Array, LargeBinaryArray,
    LargeStringArray, PrimitiveArray, StringArray, StringViewArray, new_null_array,
};
use arrow_buffer::{Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, TimeUnit};
use serde::de::Error as _;
use serde::ser::{Impossible, Serialize, Serializer};

use crate::codec::Error;
use crate::description::DataType as Described;
use crate::{Error as MessageError, Result};

/// A column to which values are added: bools, integers, floats, texts or bytes,
/// and nulls. Its type is that of the first value, unless it was given; integers
/// and floats together are floats.
#[derive(Debug)]
pub struct ColumnWriter {
    kind: Kind,
    nulls: NullBufferBuilder,
    is_given: bool,
}

#[derive(Debug)]
enum Kind {
    /// Only nulls yet.
    Unknown,
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Text(Lengthy),
    Bytes(Lengthy),
}

/// Values of any length, one behind the other.
#[derive(Debug, Default)]
struct Lengthy {
    bytes: Vec<u8>,
    ends: Vec<i32>,
}

impl Lengthy {
    fn push(&mut self, value: &[u8]) -> Result<(), Error> {
        let end = i32::try_from(self.bytes.len() + value.len());
        let end = end.map_err(|_| Error::custom("the texts of a column are longer than 2 GiB together"))?;
        self.bytes.extend_from_slice(value);
        self.ends.push(end);
        Ok(())
    }

    fn parts(self) -> (OffsetBuffer<i32>, Buffer) {
        let ends = std::iter::once(0).chain(self.ends).collect::<ScalarBuffer<i32>>();
        (OffsetBuffer::new(ends), self.bytes.into())
    }
}

impl Default for ColumnWriter {
    fn default() -> Self {
        Self::new(None, 0)
    }
}

impl ColumnWriter {
    /// A column of values that are described so, with room for so many.
    /// Without a type, or with one that no column of values has, the type is
    /// that of the values.
    pub fn new(described: Option<&Described>, rows: usize) -> Self {
        let kind = match described {
            Some(Described::Nullable(of)) => return Self::new(Some(of), rows),
            Some(Described::Bool) => Kind::Bool(Vec::with_capacity(rows)),
            Some(Described::Int) => Kind::Int(Vec::with_capacity(rows)),
            Some(Described::Float) => Kind::Float(Vec::with_capacity(rows)),
            Some(Described::String) => Kind::Text(Lengthy::default()),
            Some(Described::Bytes) => Kind::Bytes(Lengthy::default()),
            _ => Kind::Unknown,
        };
        Self { is_given: !matches!(kind, Kind::Unknown), kind, nulls: NullBufferBuilder::new(rows) }
    }

    /// A column of so many nulls.
    pub(super) fn nulls(count: usize) -> Self {
        let mut writer = Self::default();
        writer.nulls.append_n_nulls(count);
        writer
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Whether there is no value, nor a null.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a value.
    ///
    /// # Errors
    /// The column has values of another type, or this one has a type that no
    /// column of values has: it is a list or a map.
    #[inline]
    pub fn push(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        value.serialize(Value(self))
    }

    /// Adds a null.
    pub fn push_null(&mut self) {
        match &mut self.kind {
            Kind::Unknown => {}
            Kind::Bool(values) => values.push(false),
            Kind::Int(values) => values.push(0),
            Kind::Float(values) => values.push(0.0),
            Kind::Text(values) | Kind::Bytes(values) => values.ends.push(values.bytes.len() as i32),
        }
        self.nulls.append_null();
    }

    /// Gives a column of nulls its type, by its first value.
    #[cold]
    fn become_kind(&mut self, kind: Kind) {
        let nulls = self.nulls.len();
        self.kind = kind;
        match &mut self.kind {
            Kind::Unknown => {}
            Kind::Bool(values) => values.resize(nulls, false),
            Kind::Int(values) => values.resize(nulls, 0),
            Kind::Float(values) => values.resize(nulls, 0.0),
            Kind::Text(values) | Kind::Bytes(values) => values.ends.resize(nulls, 0),
        }
    }

    #[cold]
    fn misfit(&self, value: &dyn Display) -> Error {
        let of = match self.kind {
            Kind::Unknown => "values",
            Kind::Bool(_) => "bools",
            Kind::Int(_) => "integers",
            Kind::Float(_) => "numbers",
            Kind::Text(_) => "texts",
            Kind::Bytes(_) => "bytes",
        };
        Error::custom(format_args!("{value} in a column of {of}"))
    }

    fn int(&mut self, value: i64) -> Result<(), Error> {
        loop {
            match &mut self.kind {
                Kind::Int(values) => values.push(value),
                Kind::Float(values) => values.push(value as f64),
                Kind::Unknown => {
                    self.become_kind(Kind::Int(Vec::new()));
                    continue;
                }
                _ => return Err(self.misfit(&format_args!("the integer {value}"))),
            }
            self.nulls.append_non_null();
            return Ok(());
        }
    }

    #[inline]
    fn float(&mut self, value: f64) -> Result<(), Error> {
        loop {
            match &mut self.kind {
                Kind::Float(values) => values.push(value),
                Kind::Unknown => {
                    self.become_kind(Kind::Float(Vec::new()));
                    continue;
                }
                Kind::Int(values) if !self.is_given => {
                    self.kind = Kind::Float(values.iter().map(|value| *value as f64).collect());
                    continue;
                }
                _ => return Err(self.misfit(&format_args!("the number {value}"))),
            }
            self.nulls.append_non_null();
            return Ok(());
        }
    }

    /// Returns the column.
    pub fn finish(mut self) -> ArrayRef {
        let rows = self.nulls.len();
        let nulls = self.nulls.finish();
        match self.kind {
            Kind::Unknown => new_null_array(&DataType::Null, rows),
            Kind::Bool(values) => Arc::new(BooleanArray::new(values.into(), nulls)),
            Kind::Int(values) => Arc::new(PrimitiveArray::<Int64Type>::new(values.into(), nulls)),
            Kind::Float(values) => Arc::new(PrimitiveArray::<Float64Type>::new(values.into(), nulls)),
            Kind::Text(values) => {
                let (offsets, bytes) = values.parts();
                Arc::new(StringArray::new(offsets, bytes, nulls))
            }
            Kind::Bytes(values) => {
                let (offsets, bytes) = values.parts();
                Arc::new(BinaryArray::new(offsets, bytes, nulls))
            }
        }
    }

    /// Returns the column with another type that holds the same values.
    ///
    /// # Errors
    /// [`Encode`](MessageError::Encode) when a value does not fit, or no column
    /// of values can have that type.
    pub fn finish_as(mut self, wanted: &DataType) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        let rows = nulls.as_ref().map_or_else(|| self.kind.len(), NullBuffer::len);
        let wrong = |text: String| MessageError::Encode { what: "a column", source: Error::custom(text) };
        if let Kind::Unknown = self.kind {
            return Ok(new_null_array(wanted, rows));
        }
        macro_rules! ints {
            ($type:ty) => {
                self.kind.ints::<$type>(nulls).map_err(wrong)
            };
        }
        Ok(match wanted {
            DataType::Int8 => ints!(Int8Type)?,
            DataType::Int16 => ints!(Int16Type)?,
            DataType::Int32 => ints!(Int32Type)?,
            DataType::UInt8 => ints!(UInt8Type)?,
            DataType::UInt16 => ints!(UInt16Type)?,
            DataType::UInt32 => ints!(UInt32Type)?,
            DataType::UInt64 => ints!(UInt64Type)?,
            DataType::Date32 => ints!(Date32Type)?,
            DataType::Date64 => ints!(Date64Type)?,
            DataType::Timestamp(TimeUnit::Second, None) => ints!(TimestampSecondType)?,
            DataType::Timestamp(TimeUnit::Millisecond, None) => ints!(TimestampMillisecondType)?,
            DataType::Timestamp(TimeUnit::Microsecond, None) => ints!(TimestampMicrosecondType)?,
            DataType::Timestamp(TimeUnit::Nanosecond, None) => ints!(TimestampNanosecondType)?,
            DataType::Duration(TimeUnit::Second) => ints!(DurationSecondType)?,
            DataType::Duration(TimeUnit::Millisecond) => ints!(DurationMillisecondType)?,
            DataType::Duration(TimeUnit::Microsecond) => ints!(DurationMicrosecondType)?,
            DataType::Duration(TimeUnit::Nanosecond) => ints!(DurationNanosecondType)?,
            _ => match (wanted, self.kind) {
                (DataType::Boolean, Kind::Bool(values)) => Arc::new(BooleanArray::new(values.into(), nulls)),
                (DataType::Int64, Kind::Int(values)) => {
                    Arc::new(PrimitiveArray::<Int64Type>::new(values.into(), nulls))
                }
                (DataType::Float64, kind @ (Kind::Int(_) | Kind::Float(_))) => {
                    Arc::new(PrimitiveArray::<Float64Type>::new(kind.floats().collect(), nulls))
                }
                (DataType::Float32, kind @ (Kind::Int(_) | Kind::Float(_))) => {
                    Arc::new(Float32Array::new(kind.floats().map(|value| value as f32).collect(), nulls))
                }
                (DataType::Utf8, Kind::Text(values)) => {
                    let (offsets, bytes) = values.parts();
                    Arc::new(StringArray::new(offsets, bytes, nulls))
                }
                (DataType::LargeUtf8, Kind::Text(values)) => {
                    let (offsets, bytes) = values.parts();
                    Arc::new(LargeStringArray::from_iter(StringArray::new(offsets, bytes, nulls).iter()))
                }
                (DataType::Utf8View, Kind::Text(values)) => {
                    let (offsets, bytes) = values.parts();
                    Arc::new(StringViewArray::from_iter(StringArray::new(offsets, bytes, nulls).iter()))
                }
                (DataType::Binary, Kind::Bytes(values)) => {
                    let (offsets, bytes) = values.parts();
                    Arc::new(BinaryArray::new(offsets, bytes, nulls))
                }
                (DataType::LargeBinary, Kind::Bytes(values)) => {
                    let (offsets, bytes) = values.parts();
                    Arc::new(LargeBinaryArray::from_iter(BinaryArray::new(offsets, bytes, nulls).iter()))
                }
                (DataType::BinaryView, Kind::Bytes(values)) => {
                    let (offsets, bytes) = values.parts();
                    Arc::new(BinaryViewArray::from_iter(BinaryArray::new(offsets, bytes, nulls).iter()))
                }
                (wanted, kind) => {
                    return Err(wrong(format!("{} cannot be a column of {wanted}", kind.name())));
                }
            },
        })
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "nulls",
            Self::Bool(_) => "bools",
            Self::Int(_) => "integers",
            Self::Float(_) => "numbers",
            Self::Text(_) => "texts",
            Self::Bytes(_) => "bytes",
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::Bool(values) => values.len(),
            Self::Int(values) => values.len(),
            Self::Float(values) => values.len(),
            Self::Text(values) | Self::Bytes(values) => values.ends.len(),
        }
    }

    fn floats(self) -> Box<dyn Iterator<Item = f64>> {
        match self {
            Self::Int(values) => Box::new(values.into_iter().map(|value| value as f64)),
            Self::Float(values) => Box::new(values.into_iter()),
            _ => Box::new(std::iter::empty()),
        }
    }

    fn ints<T: ArrowPrimitiveType<Native: TryFrom<i64>>>(self, nulls: Option<NullBuffer>) -> Result<ArrayRef, String> {
        let Self::Int(values) = self else {
            return Err(format!("{} cannot be a column of {}", self.name(), T::DATA_TYPE));
        };
        let fit = |value: i64| {
            T::Native::try_from(value).map_err(|_| format!("the integer {value} cannot be a {}", T::DATA_TYPE))
        };
        let values = values.into_iter().map(fit).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(PrimitiveArray::<T>::new(values.into(), nulls)))
    }
}

/// The next value of a column.
struct Value<'w>(&'w mut ColumnWriter);

macro_rules! ints {
    ($($method:ident($type:ty)),*) => {
        $(#[inline]
        fn $method(self, value: $type) -> Result<(), Error> {
            match i64::try_from(value) {
                Ok(value) => self.0.int(value),
                Err(_) => Err(Error::custom(format_args!("the integer {value} is longer than 64 bits of a column"))),
            }
        })*
    };
}

macro_rules! refused {
    ($($method:ident($($arg:ty),*) -> $out:ty: $what:expr;)*) => {
        $(fn $method(self, $(_: $arg),*) -> Result<$out, Error> {
            Err(Error::custom(concat!($what, " cannot be a value of a column that is made of rows")))
        })*
    };
}

type Never = Impossible<(), Error>;

impl Serializer for Value<'_> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Never;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Never;
    type SerializeStructVariant = Never;

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        if let Kind::Unknown = self.0.kind {
            self.0.become_kind(Kind::Bool(Vec::new()));
        }
        let Kind::Bool(values) = &mut self.0.kind else { return Err(self.0.misfit(&value)) };
        values.push(value);
        self.0.nulls.append_non_null();
        Ok(())
    }

    ints! {
        serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128)
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.0.float(value.into())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.0.float(value)
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Error> {
        if let Kind::Unknown = self.0.kind {
            self.0.become_kind(Kind::Text(Lengthy::default()));
        }
        let Kind::Text(values) = &mut self.0.kind else { return Err(self.0.misfit(&"a text")) };
        values.push(value.as_bytes())?;
        self.0.nulls.append_non_null();
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        if let Kind::Unknown = self.0.kind {
            self.0.become_kind(Kind::Bytes(Lengthy::default()));
        }
        let Kind::Bytes(values) = &mut self.0.kind else { return Err(self.0.misfit(&"bytes")) };
        values.push(value)?;
        self.0.nulls.append_non_null();
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.0.push_null();
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_none()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        Err(Error::custom("an enum with a value cannot be a value of a column that is made of rows"))
    }

    refused! {
        serialize_seq(Option<usize>) -> Never: "a list";
        serialize_tuple(usize) -> Never: "a list";
        serialize_tuple_struct(&'static str, usize) -> Never: "a list";
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Never: "an enum with values";
        serialize_map(Option<usize>) -> Never: "an object";
        serialize_struct(&'static str, usize) -> Never: "an object";
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Never: "an enum with values";
    }
}
