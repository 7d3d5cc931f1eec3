//! Calls of functions with columns.

use ekuiper_host::arrow59::arrow_array::{ArrayRef, RecordBatch};
use ekuiper_host::arrow59::call_columns;
use ekuiper_host::{Error, Host};

/// A batch of these columns.
pub fn batch(columns: impl IntoIterator<Item = ArrayRef>) -> RecordBatch {
    let named = columns.into_iter().enumerate().map(|(at, column)| (format!("c{at}"), column));
    RecordBatch::try_from_iter(named).unwrap()
}

/// What a function gives for columns.
#[track_caller]
pub fn call(host: &Host, function: &str, columns: impl IntoIterator<Item = ArrayRef>) -> ArrayRef {
    call_columns(&host.function(function).unwrap(), &batch(columns)).unwrap()
}

/// With what text a function refuses columns.
#[track_caller]
pub fn refusal(host: &Host, function: &str, columns: impl IntoIterator<Item = ArrayRef>) -> String {
    match call_columns(&host.function(function).unwrap(), &batch(columns)) {
        Err(Error::Function { text, .. }) => text,
        other => panic!("{other:?}"),
    }
}
