//! What of a peer's stream `arrow-ipc` takes for granted: types that exist,
//! lengths that are within the body, and as many buffers as the types need.

use arrow_array::RecordBatch;
use arrow_ipc as ipc;
use arrow_ipc::Type;
use arrow_schema::{DataType, Field, Fields, Schema};

use super::MAX_ROWS;

type Checked<T = ()> = Result<T, String>;

/// Checks whether a batch can be sent.
pub(super) fn can_send(batch: &RecordBatch) -> Checked {
    if batch.num_rows() > MAX_ROWS {
        return Err(format!("it has {} rows, and a message at most {MAX_ROWS}", batch.num_rows()));
    }
    batch.schema_ref().fields().iter().try_for_each(|field| is_supported(field))
}

fn is_supported(field: &Field) -> Checked {
    match field.data_type() {
        DataType::Union(..) | DataType::RunEndEncoded(..) | DataType::ListView(_) | DataType::LargeListView(_) => {
            Err(format!("column {:?} has the type {}, which is not supported", field.name(), field.data_type()))
        }
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) | DataType::Map(of, _) => {
            is_supported(of)
        }
        DataType::Struct(fields) => fields.iter().try_for_each(|field| is_supported(field)),
        // Dictionaries in dictionaries have no place in a stream of one schema.
        DataType::Dictionary(_, of) => match &**of {
            DataType::Dictionary(..) => Err(format!("column {:?} has a dictionary of dictionaries", field.name())),
            of => is_supported(&Field::new(field.name(), of.clone(), true)),
        },
        _ => Ok(()),
    }
}

/// Checks a schema before it is converted.
pub(super) fn schema(schema: &ipc::Schema<'_>) -> Checked {
    if !schema.endianness().equals_to_target_endianness() {
        return Err("its byte order is not this machine's".into());
    }
    schema.fields().ok_or("its schema has no fields")?.iter().try_for_each(|found| field(&found))
}

fn field(field: &ipc::Field<'_>) -> Checked {
    let name = field.name().unwrap_or_default();
    let children = field.children().map_or(0, |children| children.len());
    let is_width = |width: i32| [8, 16, 32, 64].contains(&width);
    if let Some(dictionary) = field.dictionary() {
        let width = dictionary.indexType().map(|index| index.bitWidth());
        if !width.is_some_and(is_width) {
            return Err(format!("column {name:?} has a dictionary without a proper index type"));
        }
    }
    let is_unit = |unit: ipc::TimeUnit| unit.variant_name().is_some();
    let is_proper = match field.type_type() {
        Type::Null | Type::Bool | Type::Utf8 | Type::LargeUtf8 | Type::Utf8View => true,
        Type::Binary | Type::LargeBinary | Type::BinaryView | Type::Struct_ => true,
        Type::Int => field.type_as_int().is_some_and(|int| is_width(int.bitWidth())),
        Type::FloatingPoint => {
            field.type_as_floating_point().is_some_and(|float| float.precision().variant_name().is_some())
        }
        Type::Date => field.type_as_date().is_some_and(|date| date.unit().variant_name().is_some()),
        Type::Time => field.type_as_time().is_some_and(|time| match time.unit() {
            ipc::TimeUnit::SECOND | ipc::TimeUnit::MILLISECOND => time.bitWidth() == 32,
            unit => is_unit(unit) && time.bitWidth() == 64,
        }),
        Type::Timestamp => field.type_as_timestamp().is_some_and(|time| is_unit(time.unit())),
        Type::Duration => field.type_as_duration().is_some_and(|time| is_unit(time.unit())),
        Type::Interval => field.type_as_interval().is_some_and(|interval| interval.unit().variant_name().is_some()),
        Type::Decimal => field.type_as_decimal().is_some_and(|decimal| {
            let most = match decimal.bitWidth() {
                32 => 9,
                64 => 18,
                128 => 38,
                256 => 76,
                _ => 0,
            };
            (1..=most).contains(&decimal.precision()) && (-most..=decimal.precision()).contains(&decimal.scale())
        }),
        Type::FixedSizeBinary => field.type_as_fixed_size_binary().is_some_and(|binary| binary.byteWidth() >= 0),
        Type::List | Type::LargeList => children == 1,
        Type::FixedSizeList => {
            children == 1 && field.type_as_fixed_size_list().is_some_and(|list| list.listSize() >= 0)
        }
        Type::Map => children == 1 && field.type_as_map().is_some(),
        other => return Err(format!("column {name:?} has the type {other:?}, which is not supported")),
    };
    if !is_proper {
        return Err(format!("column {name:?} has a malformed type {:?}", field.type_type()));
    }
    field.children().into_iter().flatten().try_for_each(|child| self::field(&child))
}

/// Checks a dictionary before it is read.
pub(super) fn dictionary(found: &ipc::DictionaryBatch<'_>, schema: &Schema, body: usize) -> Checked {
    if found.isDelta() {
        return Err("it has a dictionary in parts".into());
    }
    #[allow(deprecated, reason = "nothing else finds a dictionary's type")]
    let fields = schema.fields_with_dict_id(found.id());
    let Some(DataType::Dictionary(_, of)) = fields.first().map(|field| field.data_type()) else {
        return Err(format!("it has a dictionary {} that no column uses", found.id()));
    };
    let data = found.data().ok_or("it has a dictionary without values")?;
    record_batch(&data, &Fields::from(vec![Field::new("", (**of).clone(), true)]), body)
}

/// Checks a batch of these columns before it is read.
pub(super) fn record_batch(batch: &ipc::RecordBatch<'_>, fields: &Fields, body: usize) -> Checked {
    if batch.compression().is_some() {
        return Err("it is compressed, which is not supported".into());
    }
    let (nodes, buffers) = (batch.nodes(), batch.buffers());
    let counts = batch.variadicBufferCounts();
    let mut walk = Walk {
        nodes: nodes.into_iter().flatten(),
        buffers: buffers.into_iter().flatten(),
        counts: counts.into_iter().flatten(),
        left: body as u64,
        body: body as u64,
    };
    if !usize::try_from(batch.length()).is_ok_and(|rows| rows <= MAX_ROWS) {
        return Err(format!("it has {} rows, and a message at most {MAX_ROWS}", batch.length()));
    }
    fields.iter().try_for_each(|field| walk.column(field))?;
    match walk.counts.next() {
        None => Ok(()),
        Some(_) => Err("it counts buffers of columns that it does not have".into()),
    }
}

/// The metadata of a batch, read in the order in which `arrow-ipc` reads it.
struct Walk<N, B, C> {
    nodes: N,
    buffers: B,
    counts: C,
    /// What all further buffers may have together: they do not overlap, so what
    /// is copied for its alignment is never more than the body.
    left: u64,
    body: u64,
}

impl<'a, N, B, C> Walk<N, B, C>
where
    N: Iterator<Item = &'a ipc::FieldNode>,
    B: Iterator<Item = &'a ipc::Buffer>,
    C: Iterator<Item = i64>,
{
    fn column(&mut self, field: &Field) -> Checked {
        match field.data_type() {
            DataType::Null => drop(self.node()?),
            DataType::Utf8 | DataType::Binary => {
                self.validity()?;
                self.units(4)?;
                self.buffer()?;
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                self.validity()?;
                self.units(8)?;
                self.buffer()?;
            }
            DataType::Utf8View | DataType::BinaryView => {
                let count = self.counts.next().filter(|count| *count >= 0);
                let count = count.ok_or("it does not count the buffers of a column of views")?;
                self.validity()?;
                self.units(16)?;
                (0..count).try_for_each(|_| self.buffer().map(drop))?;
            }
            DataType::List(of) | DataType::Map(of, _) => {
                self.validity()?;
                self.units(4)?;
                self.column(of)?;
            }
            DataType::LargeList(of) => {
                self.validity()?;
                self.units(8)?;
                self.column(of)?;
            }
            DataType::Dictionary(keys, _) => {
                self.validity()?;
                self.units(keys.primitive_width().unwrap_or(1) as u64)?;
            }
            DataType::FixedSizeList(of, _) => {
                self.validity()?;
                self.column(of)?;
            }
            DataType::Struct(fields) => {
                self.validity()?;
                fields.iter().try_for_each(|field| self.column(field))?;
            }
            _ => {
                self.validity()?;
                self.buffer()?;
            }
        }
        Ok(())
    }

    /// Returns the number of values, and that of nulls among them.
    fn node(&mut self) -> Checked<(i64, i64)> {
        let node = self.nodes.next().ok_or("it has fewer columns than its schema")?;
        let (rows, nulls) = (node.length(), node.null_count());
        let is_proper = (0..=i64::from(i32::MAX)).contains(&rows) && (0..=rows).contains(&nulls);
        if is_proper {
            Ok((rows, nulls))
        } else {
            Err(format!("it has a column of {rows} values, {nulls} of them null"))
        }
    }

    /// Reads the beginning of a column: its number of values, and which of them
    /// are null.
    fn validity(&mut self) -> Checked {
        let (rows, nulls) = self.node()?;
        let length = self.buffer()?;
        let is_cut_off = nulls > 0 && length < rows.unsigned_abs().div_ceil(8);
        if is_cut_off { Err("it does not say which values of a column are null".into()) } else { Ok(()) }
    }

    /// Returns the length of the next buffer.
    fn buffer(&mut self) -> Checked<u64> {
        let buffer = self.buffers.next().ok_or("it has fewer buffers than its columns need")?;
        let (Ok(offset), Ok(length)) = (u64::try_from(buffer.offset()), u64::try_from(buffer.length())) else {
            return Err("it has a buffer of negative length".into());
        };
        if offset.checked_add(length).is_none_or(|end| end > self.body) || length > self.left {
            return Err("it has a buffer beyond its end".into());
        }
        self.left -= length;
        Ok(length)
    }

    /// Reads a buffer of whole units of so many bytes.
    fn units(&mut self, unit: u64) -> Checked {
        if self.buffer()?.is_multiple_of(unit) { Ok(()) } else { Err("it has a buffer that is cut off".into()) }
    }
}
