//! What a closure may return.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Display;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{BatchReply, encode_result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Bytes, Result};

/// Where a function's result goes: the whole reply to a call, or a row of a
/// batch's.
pub struct Reply<'r, 'b>(Target<'r, 'b>);

enum Target<'r, 'b> {
    Call(Format, &'r mut Vec<u8>),
    Row(&'r mut BatchReply<'b>),
}

impl<'r, 'b> Reply<'r, 'b> {
    /// The reply to a call, after what `buffer` holds.
    pub(crate) fn to_call(format: Format, buffer: &'r mut Vec<u8>) -> Self {
        Self(Target::Call(format, buffer))
    }

    /// The next row of a batch's.
    pub(crate) fn to_row(reply: &'r mut BatchReply<'b>) -> Self {
        Self(Target::Row(reply))
    }

    /// Writes the result: once.
    ///
    /// # Errors
    /// It cannot be part of a message, such as NaN.
    #[inline]
    pub fn put(&mut self, result: &(impl Serialize + ?Sized)) -> Result<()> {
        match &mut self.0 {
            Target::Call(format, buffer) => encode_result(*format, buffer, result)?,
            Target::Row(reply) => reply.result(result)?,
        }
        Ok(())
    }
}

/// What a closure may return: a number, a text, a [`Value`], lists and maps of
/// whatever implements `Serialize`, [`Json`], or a `Result` of one of these,
/// whose error becomes the call's.
///
/// NaN and the infinities are an error: messages cannot hold them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a function's result",
    label = "a plugin's function cannot return this",
    note = "wrap it: `Json(value)` takes anything that implements `Serialize`"
)]
pub trait Output {
    #[doc(hidden)]
    fn write(self, reply: &mut Reply<'_, '_>) -> Result<()>;
}

/// Makes a function's result of anything that implements `Serialize`.
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
        // Alternate, since that is how error types with causes tell them all.
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
