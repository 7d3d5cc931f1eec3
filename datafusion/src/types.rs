//! The types of plugins' arguments and results, in Arrow's words.

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use ekuiper_host::description::DataType as Described;

/// The Arrow type of values of this type; `None` where a column of them has no
/// one type.
pub(crate) fn arrow_type(described: &Described) -> Option<DataType> {
    Some(match described {
        Described::Bool => DataType::Boolean,
        Described::Int => DataType::Int64,
        Described::Float => DataType::Float64,
        // The engine writes a moment as text.
        Described::String | Described::Datetime => DataType::Utf8,
        Described::Bytes => DataType::Binary,
        Described::Nullable(inner) => return arrow_type(inner),
        Described::List(of) => DataType::List(item(arrow_type(of)?)),
        _ => return None,
    })
}

/// The field of a list's values.
pub(crate) fn item(of: DataType) -> FieldRef {
    Field::new_list_field(of, true).into()
}

/// Whether values of this type can be passed where a function takes the other,
/// without a loss that its author does not expect: integers for numbers, but no
/// numbers for integers, and nothing but text for text.
pub(crate) fn fits(given: &DataType, wanted: &DataType) -> bool {
    match wanted {
        _ if given == wanted || given.is_null() => true,
        DataType::Int64 => given.is_integer(),
        DataType::Float64 => given.is_numeric(),
        DataType::Utf8 => matches!(given, DataType::LargeUtf8 | DataType::Utf8View),
        DataType::Binary => {
            matches!(given, DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
        }
        DataType::List(of) => match given {
            DataType::List(from) | DataType::LargeList(from) | DataType::FixedSizeList(from, _) => {
                fits(from.data_type(), of.data_type())
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_no_integers_and_dates_no_texts() {
        assert!(fits(&DataType::UInt8, &DataType::Float64));
        assert!(!fits(&DataType::Float64, &DataType::Int64));
        assert!(!fits(&DataType::Date32, &DataType::Utf8));
        assert!(fits(&DataType::Null, &DataType::Binary));
        let list = |of| DataType::List(item(of));
        assert!(fits(&list(DataType::Int8), &list(DataType::Int64)));
        assert_eq!(arrow_type(&Described::list(Described::Any)), None);
        assert_eq!(arrow_type(&Described::list(Described::Float.nullable())), Some(list(DataType::Float64)));
    }
}
