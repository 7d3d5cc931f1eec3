//! The results of functions that are closures.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Display;

use ekuiper_core::codec::Format;
#[cfg(feature = "arrow")]
use ekuiper_core::columns::ColumnWriter;
use ekuiper_core::message::{BatchReply, encode_result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::description::{DataType, of_type_name};
use crate::{Bytes, Result};

/// The destination of a function's result: the reply to a call, or a row of the
/// reply to a batch.
pub struct Reply<'r, 'b>(Target<'r, 'b>);

enum Target<'r, 'b> {
    Call(Format, &'r mut Vec<u8>),
    Row(&'r mut BatchReply<'b>),
    #[cfg(feature = "arrow")]
    Column(&'r mut ColumnWriter),
}

impl<'r, 'b> Reply<'r, 'b> {
    /// A reply to a call, appended to `buffer`.
    pub(crate) fn to_call(format: Format, buffer: &'r mut Vec<u8>) -> Self {
        Self(Target::Call(format, buffer))
    }

    /// The next row of a batch's reply.
    pub(crate) fn to_row(reply: &'r mut BatchReply<'b>) -> Self {
        Self(Target::Row(reply))
    }

    /// The next row of a column.
    #[cfg(feature = "arrow")]
    pub(crate) fn to_column(column: &'r mut ColumnWriter) -> Self {
        Self(Target::Column(column))
    }

    /// Writes the result; to be called once.
    ///
    /// # Errors
    /// The result cannot be encoded, such as NaN.
    #[inline]
    pub fn put(&mut self, result: &(impl Serialize + ?Sized)) -> Result<()> {
        match &mut self.0 {
            Target::Call(format, buffer) => encode_result(*format, buffer, result)?,
            Target::Row(reply) => reply.result(result)?,
            #[cfg(feature = "arrow")]
            Target::Column(column) => column.push(result)?,
        }
        Ok(())
    }
}

/// A value that a closure may return: a number, a text, a [`Value`], a list or
/// map of values that implement `Serialize`, [`Json`], or a `Result` of one of
/// these, whose error becomes the call's.
///
/// NaN and the infinities are errors: messages cannot hold them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a function's result",
    label = "a plugin's function cannot return this",
    note = "wrap it: `Json(value)` takes anything that implements `Serialize`"
)]
pub trait Output {
    #[doc(hidden)]
    fn write(self, reply: &mut Reply<'_, '_>) -> Result<()>;

    /// The type of the result.
    #[doc(hidden)]
    fn data_type() -> DataType {
        of_type_name::<Self>()
    }
}

/// A wrapper that makes any value that implements `Serialize` a function's
/// result.
///
/// ```
/// use ekuiper_sdk::{Json, testing};
///
/// #[derive(serde::Serialize)]
/// struct Point { x: i64, y: i64 }
///
/// let mut point = testing::function(|x: i64, y: i64| Json(Point { x, y }));
/// assert_eq!(point.call((1, 2)), Ok(ekuiper_sdk::json!({ "x": 1, "y": 2 })));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Json<T>(pub T);

impl<T: Serialize> Output for Json<T> {
    fn write(self, reply: &mut Reply<'_, '_>) -> Result<()> {
        reply.put(&self.0)
    }
}

impl<T: Output, E: Display> Output for Result<T, E> {
    fn write(self, reply: &mut Reply<'_, '_>) -> Result<()> {
        // The alternate form, in which error types such as anyhow's include
        // their causes.
        self.map_err(|error| format!("{error:#}"))?.write(reply)
    }
}

impl<T: Serialize, const N: usize> Output for [T; N] {
    fn write(self, reply: &mut Reply<'_, '_>) -> Result<()> {
        reply.put(self.as_slice())
    }
}

macro_rules! outputs {
    ($([$($generic:tt)*] $type:ty),* $(,)?) => {
        $(impl<$($generic)*> Output for $type {
            fn write(self, reply: &mut Reply<'_, '_>) -> Result<()> {
                reply.put(&self)
            }
        })*
    };
}

outputs!([] (), [] bool, [] char, [] f32, [] f64);
outputs!([] i8, [] i16, [] i32, [] i64, [] i128, [] isize, [] u8, [] u16, [] u32, [] u64, [] u128, [] usize);
outputs!([] Bytes, [] String, [] &'static str, [] Cow<'static, str>, [] Value, [] Map<String, Value>);
outputs!([T: Serialize] Vec<T>, [T: Serialize] VecDeque<T>, [T: Serialize] Option<T>, [T: Serialize] Box<T>);
outputs!([T: Serialize] BTreeSet<T>, [T: Serialize, S] HashSet<T, S>);
outputs!([T: Serialize] BTreeMap<String, T>, [T: Serialize, S] HashMap<String, T, S>);
outputs!([T: Serialize, U: Serialize] (T, U), [T: Serialize, U: Serialize, V: Serialize] (T, U, V));
