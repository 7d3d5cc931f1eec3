//! The values of a column, one at a time, as `serde` sees them: columns read as
//! rows.
//!
//! Dates, times and durations are the integers that the column holds, in its
//! unit; decimals are text, which keeps their digits; a dictionary's value is
//! the value that it stands for.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::*;
use arrow_schema::{DataType, IntervalUnit, TimeUnit};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde::{de, forward_to_deserialize_any};

use crate::codec::{Adapted, Error};
use crate::{Error as MessageError, Result};

/// A column whose values are read one at a time.
#[derive(Clone, Debug)]
pub struct Cells<'a>(Kind<'a>);

macro_rules! kinds {
    (
        integers { $($int:ident($int_type:ty, $visit:ident, $serialize:ident, $as:ty)),* $(,)? }
        texts { $($text:ident($text_array:ty)),* $(,)? }
        bytes { $($bytes:ident($bytes_array:ty)),* $(,)? }
        decimals { $($decimal:ident($decimal_type:ty)),* $(,)? }
    ) => {
        #[derive(Clone, Debug)]
        enum Kind<'a> {
            Null,
            Boolean(&'a BooleanArray),
            Float16(&'a Float16Array),
            $($int(&'a PrimitiveArray<$int_type>),)*
            $($text(&'a $text_array),)*
            $($bytes(&'a $bytes_array),)*
            $($decimal(&'a PrimitiveArray<$decimal_type>),)*
            List(&'a ListArray, Box<Cells<'a>>),
            LargeList(&'a LargeListArray, Box<Cells<'a>>),
            FixedSizeList(&'a FixedSizeListArray, Box<Cells<'a>>),
            Map(&'a MapArray, Box<[Cells<'a>; 2]>),
            Struct(&'a StructArray, Vec<(&'a str, Cells<'a>)>),
            Dictionary(&'a dyn AnyDictionaryArray, Vec<usize>, Box<Cells<'a>>),
        }

        impl Cell<'_> {
            /// Whether there is no value.
            #[inline]
            pub fn is_null(&self) -> bool {
                match &self.column.0 {
                    Kind::Null => true,
                    Kind::Boolean(array) => array.is_null(self.row),
                    Kind::Float16(array) => array.is_null(self.row),
                    $(Kind::$int(array) => array.is_null(self.row),)*
                    $(Kind::$text(array) => array.is_null(self.row),)*
                    $(Kind::$bytes(array) => array.is_null(self.row),)*
                    $(Kind::$decimal(array) => array.is_null(self.row),)*
                    Kind::List(array, _) => array.is_null(self.row),
                    Kind::LargeList(array, _) => array.is_null(self.row),
                    Kind::FixedSizeList(array, _) => array.is_null(self.row),
                    Kind::Map(array, _) => array.is_null(self.row),
                    Kind::Struct(array, _) => array.is_null(self.row),
                    Kind::Dictionary(array, keys, values) => {
                        array.is_null(self.row) || values.at(keys[self.row]).is_null()
                    }
                }
            }

            /// Shows the visitor what is not null.
            #[inline]
            fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                let row = self.row;
                match &self.column.0 {
                    Kind::Null => visitor.visit_unit(),
                    Kind::Boolean(array) => visitor.visit_bool(array.value(row)),
                    Kind::Float16(array) => visitor.visit_f32(array.value(row).to_f32()),
                    $(Kind::$int(array) => visitor.$visit(array.value(row).into()),)*
                    $(Kind::$text(array) => visitor.visit_str(array.value(row)),)*
                    $(Kind::$bytes(array) => visitor.visit_bytes(array.value(row)),)*
                    $(Kind::$decimal(array) => visitor.visit_string(array.value_as_string(row)),)*
                    Kind::Struct(_, fields) => visitor.visit_map(Fields { fields, at: 0, row }),
                    Kind::Map(array, entries) => visitor.visit_map(Entries { entries, rows: range(array.value_offsets(), row) }),
                    Kind::Dictionary(_, keys, values) => values.at(keys[row]).visit(visitor),
                    Kind::List(..) | Kind::LargeList(..) | Kind::FixedSizeList(..) => {
                        let (values, rows) = self.list();
                        visitor.visit_seq(Items { values, rows })
                    }
                }
            }
        }

        impl Serialize for Cell<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let row = self.row;
                if self.is_null() {
                    return to.serialize_none();
                }
                match &self.column.0 {
                    Kind::Null => to.serialize_none(),
                    Kind::Boolean(array) => to.serialize_bool(array.value(row)),
                    Kind::Float16(array) => to.serialize_f32(array.value(row).to_f32()),
                    $(Kind::$int(array) => to.$serialize(<$as>::from(array.value(row))),)*
                    $(Kind::$text(array) => to.serialize_str(array.value(row)),)*
                    $(Kind::$bytes(array) => to.serialize_bytes(array.value(row)),)*
                    $(Kind::$decimal(array) => to.serialize_str(&array.value_as_string(row)),)*
                    Kind::Struct(_, fields) => {
                        let mut map = to.serialize_map(Some(fields.len()))?;
                        fields.iter().try_for_each(|(name, values)| map.serialize_entry(name, &values.at(row)))?;
                        map.end()
                    }
                    Kind::Map(array, entries) => {
                        let rows = range(array.value_offsets(), row);
                        let mut map = to.serialize_map(Some(rows.len()))?;
                        for row in rows {
                            map.serialize_entry(&entries[0].at(row), &entries[1].at(row))?;
                        }
                        map.end()
                    }
                    Kind::Dictionary(_, keys, values) => values.at(keys[row]).serialize(to),
                    Kind::List(..) | Kind::LargeList(..) | Kind::FixedSizeList(..) => {
                        let (values, rows) = self.list();
                        let mut seq = to.serialize_seq(Some(rows.len()))?;
                        for row in rows {
                            seq.serialize_element(&values.at(row))?;
                        }
                        seq.end()
                    }
                }
            }
        }
    };
}

kinds! {
    integers {
        Int8(Int8Type, visit_i64, serialize_i64, i64),
        Int16(Int16Type, visit_i64, serialize_i64, i64),
        Int32(Int32Type, visit_i64, serialize_i64, i64),
        Int64(Int64Type, visit_i64, serialize_i64, i64),
        UInt8(UInt8Type, visit_u64, serialize_u64, u64),
        UInt16(UInt16Type, visit_u64, serialize_u64, u64),
        UInt32(UInt32Type, visit_u64, serialize_u64, u64),
        UInt64(UInt64Type, visit_u64, serialize_u64, u64),
        Float32(Float32Type, visit_f32, serialize_f32, f32),
        Float64(Float64Type, visit_f64, serialize_f64, f64),
        Date32(Date32Type, visit_i64, serialize_i64, i64),
        Date64(Date64Type, visit_i64, serialize_i64, i64),
        Time32Second(Time32SecondType, visit_i64, serialize_i64, i64),
        Time32Millisecond(Time32MillisecondType, visit_i64, serialize_i64, i64),
        Time64Microsecond(Time64MicrosecondType, visit_i64, serialize_i64, i64),
        Time64Nanosecond(Time64NanosecondType, visit_i64, serialize_i64, i64),
        TimestampSecond(TimestampSecondType, visit_i64, serialize_i64, i64),
        TimestampMillisecond(TimestampMillisecondType, visit_i64, serialize_i64, i64),
        TimestampMicrosecond(TimestampMicrosecondType, visit_i64, serialize_i64, i64),
        TimestampNanosecond(TimestampNanosecondType, visit_i64, serialize_i64, i64),
        DurationSecond(DurationSecondType, visit_i64, serialize_i64, i64),
        DurationMillisecond(DurationMillisecondType, visit_i64, serialize_i64, i64),
        DurationMicrosecond(DurationMicrosecondType, visit_i64, serialize_i64, i64),
        DurationNanosecond(DurationNanosecondType, visit_i64, serialize_i64, i64),
        YearMonth(IntervalYearMonthType, visit_i64, serialize_i64, i64),
    }
    texts { Utf8(StringArray), LargeUtf8(LargeStringArray), Utf8View(StringViewArray) }
    bytes {
        Binary(BinaryArray),
        LargeBinary(LargeBinaryArray),
        BinaryView(BinaryViewArray),
        FixedSizeBinary(FixedSizeBinaryArray),
    }
    decimals {
        Decimal32(Decimal32Type),
        Decimal64(Decimal64Type),
        Decimal128(Decimal128Type),
        Decimal256(Decimal256Type),
    }
}

impl<'a> Cells<'a> {
    /// Reads a column.
    ///
    /// # Errors
    /// [`Encode`](MessageError::Encode) when its type has no values for rows.
    pub fn new(column: &'a dyn Array) -> Result<Self> {
        let unreadable = || {
            let text = format!("a column of {} cannot be read as rows", column.data_type());
            MessageError::Encode { what: "a column", source: de::Error::custom(text) }
        };
        let boxed = |column| Self::new(column).map(Box::new);
        Ok(Self(match column.data_type() {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Boolean(column.as_boolean()),
            DataType::Int8 => Kind::Int8(column.as_primitive()),
            DataType::Int16 => Kind::Int16(column.as_primitive()),
            DataType::Int32 => Kind::Int32(column.as_primitive()),
            DataType::Int64 => Kind::Int64(column.as_primitive()),
            DataType::UInt8 => Kind::UInt8(column.as_primitive()),
            DataType::UInt16 => Kind::UInt16(column.as_primitive()),
            DataType::UInt32 => Kind::UInt32(column.as_primitive()),
            DataType::UInt64 => Kind::UInt64(column.as_primitive()),
            DataType::Float16 => Kind::Float16(column.as_primitive()),
            DataType::Float32 => Kind::Float32(column.as_primitive()),
            DataType::Float64 => Kind::Float64(column.as_primitive()),
            DataType::Date32 => Kind::Date32(column.as_primitive()),
            DataType::Date64 => Kind::Date64(column.as_primitive()),
            DataType::Time32(TimeUnit::Second) => Kind::Time32Second(column.as_primitive()),
            DataType::Time32(_) => Kind::Time32Millisecond(column.as_primitive()),
            DataType::Time64(TimeUnit::Microsecond) => Kind::Time64Microsecond(column.as_primitive()),
            DataType::Time64(_) => Kind::Time64Nanosecond(column.as_primitive()),
            DataType::Timestamp(TimeUnit::Second, _) => Kind::TimestampSecond(column.as_primitive()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Kind::TimestampMillisecond(column.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Kind::TimestampMicrosecond(column.as_primitive()),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Kind::TimestampNanosecond(column.as_primitive()),
            DataType::Duration(TimeUnit::Second) => Kind::DurationSecond(column.as_primitive()),
            DataType::Duration(TimeUnit::Millisecond) => Kind::DurationMillisecond(column.as_primitive()),
            DataType::Duration(TimeUnit::Microsecond) => Kind::DurationMicrosecond(column.as_primitive()),
            DataType::Duration(TimeUnit::Nanosecond) => Kind::DurationNanosecond(column.as_primitive()),
            DataType::Interval(IntervalUnit::YearMonth) => Kind::YearMonth(column.as_primitive()),
            DataType::Utf8 => Kind::Utf8(column.as_string()),
            DataType::LargeUtf8 => Kind::LargeUtf8(column.as_string()),
            DataType::Utf8View => Kind::Utf8View(column.as_string_view()),
            DataType::Binary => Kind::Binary(column.as_binary()),
            DataType::LargeBinary => Kind::LargeBinary(column.as_binary()),
            DataType::BinaryView => Kind::BinaryView(column.as_binary_view()),
            DataType::FixedSizeBinary(_) => Kind::FixedSizeBinary(column.as_fixed_size_binary()),
            DataType::Decimal32(..) => Kind::Decimal32(column.as_primitive()),
            DataType::Decimal64(..) => Kind::Decimal64(column.as_primitive()),
            DataType::Decimal128(..) => Kind::Decimal128(column.as_primitive()),
            DataType::Decimal256(..) => Kind::Decimal256(column.as_primitive()),
            DataType::List(_) => Kind::List(column.as_list(), boxed(column.as_list::<i32>().values())?),
            DataType::LargeList(_) => Kind::LargeList(column.as_list(), boxed(column.as_list::<i64>().values())?),
            DataType::FixedSizeList(..) => {
                let list = column.as_fixed_size_list();
                Kind::FixedSizeList(list, boxed(list.values())?)
            }
            DataType::Map(..) => {
                let map = column.as_map();
                Kind::Map(map, Box::new([Self::new(map.keys())?, Self::new(map.values())?]))
            }
            DataType::Struct(fields) => {
                let array = column.as_struct();
                let read = fields.iter().zip(array.columns());
                let read = read.map(|(field, values)| Ok((field.name().as_str(), Self::new(values)?)));
                Kind::Struct(array, read.collect::<Result<_>>()?)
            }
            DataType::Dictionary(..) => {
                let array = column.as_any_dictionary_opt().ok_or_else(unreadable)?;
                let keys = if array.values().is_empty() { vec![0; array.len()] } else { array.normalized_keys() };
                Kind::Dictionary(array, keys, boxed(array.values())?)
            }
            _ => return Err(unreadable()),
        }))
    }

    /// The value of a row, which must be one of the column's.
    #[inline]
    pub fn at(&self, row: usize) -> Cell<'_> {
        Cell { column: self, row }
    }
}

fn range<T: Copy + TryInto<usize>>(offsets: &[T], row: usize) -> std::ops::Range<usize> {
    let at = |row: usize| offsets[row].try_into().unwrap_or(0);
    at(row)..at(row + 1)
}

/// The value of a column's row.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    column: &'a Cells<'a>,
    row: usize,
}

impl<'a> Cell<'a> {
    /// Reads the value as `T`, by the rules of the codecs: bytes are bytes for
    /// a reader that asks for bytes, and base64 text for any other.
    ///
    /// # Errors
    /// The value has another type.
    #[inline]
    pub fn read<T: de::DeserializeOwned>(self) -> Result<T, Error> {
        T::deserialize(Adapted::new(self))
    }

    /// The values of a list.
    fn list(&self) -> (&'a Cells<'a>, std::ops::Range<usize>) {
        match &self.column.0 {
            Kind::List(array, values) => (values, range(array.value_offsets(), self.row)),
            Kind::LargeList(array, values) => (values, range(array.value_offsets(), self.row)),
            Kind::FixedSizeList(array, values) => {
                let (start, length) = (array.value_offset(self.row), array.value_length());
                (values, start as usize..(start + length) as usize)
            }
            _ => unreachable!("only asked of lists"),
        }
    }
}

impl<'de> Deserializer<'de> for Cell<'_> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_unit() } else { self.visit(visitor) }
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let _ = (name, variants);
        match &self.column.0 {
            Kind::Struct(_, fields) if !self.is_null() => {
                let row = self.row;
                visitor.visit_enum(MapAccessDeserializer::new(Fields { fields, at: 0, row }))
            }
            _ => visitor.visit_enum(Variant(self.read::<String>()?)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Cell<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A variant without a value, by its name.
struct Variant(String);

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = Unit;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Unit), Error> {
        let name: StrDeserializer<'_, Error> = self.0.as_str().into_deserializer();
        seed.deserialize(name).map(|variant| (variant, Unit))
    }
}

struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, Error> {
        Err(no_value())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(no_value())
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(no_value())
    }
}

fn no_value() -> Error {
    de::Error::custom("a text is a variant without a value")
}

/// A record batch whose rows are read one at a time, as objects.
#[derive(Debug)]
pub struct TableReader<'a>(Vec<(&'a str, Cells<'a>)>);

impl<'a> TableReader<'a> {
    /// Reads a batch.
    ///
    /// # Errors
    /// [`Encode`](MessageError::Encode) when the type of a column has no values
    /// for rows.
    pub fn new(batch: &'a RecordBatch) -> Result<Self> {
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        let read = columns.map(|(field, column)| Ok((field.name().as_str(), Cells::new(column)?)));
        // A column's lifetime is the batch's.
        Ok(Self(read.collect::<Result<_>>()?))
    }

    /// A row, which must be one of the batch's.
    pub fn row(&self, row: usize) -> TableRow<'_> {
        TableRow { fields: &self.0, row }
    }
}

/// A row of a record batch, as an object.
#[derive(Clone, Copy, Debug)]
pub struct TableRow<'a> {
    fields: &'a [(&'a str, Cells<'a>)],
    row: usize,
}

impl TableRow<'_> {
    /// Reads the row as `T`, by the rules of the codecs.
    ///
    /// # Errors
    /// A field is missing or has another type.
    pub fn read<T: de::DeserializeOwned>(self) -> Result<T, Error> {
        let fields = Fields { fields: self.fields, at: 0, row: self.row };
        T::deserialize(Adapted::new(MapAccessDeserializer::new(fields)))
    }
}

impl Serialize for TableRow<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.fields.iter().map(|(name, values)| (name, values.at(self.row))))
    }
}

/// The values of a list.
struct Items<'a> {
    values: &'a Cells<'a>,
    rows: std::ops::Range<usize>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.rows.next().map(|row| seed.deserialize(self.values.at(row))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rows.len())
    }
}

/// The fields of a struct.
struct Fields<'a> {
    fields: &'a [(&'a str, Cells<'a>)],
    at: usize,
    row: usize,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((name, _)) = self.fields.get(self.at) else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (_, values) = &self.fields[self.at];
        self.at += 1;
        seed.deserialize(values.at(self.row))
    }
}

/// The entries of a map.
struct Entries<'a> {
    entries: &'a [Cells<'a>; 2],
    rows: std::ops::Range<usize>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        seed.deserialize(self.entries[0].at(self.rows.start)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let row = self.rows.start;
        self.rows.start += 1;
        seed.deserialize(self.entries[1].at(row))
    }
}
