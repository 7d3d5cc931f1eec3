//! What a closure may return.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Display;

use ekuiper_core::message::encode_result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Result;

/// What a closure may return: a number, a text, a [`Value`], lists and maps of
/// whatever implements `Serialize`, [`Json`], or a `Result` of one of these,
/// whose error becomes the call's.
///
/// NaN and the infinities are an error: JSON cannot hold them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a function's result",
    label = "a plugin's function cannot return this",
    note = "wrap it: `Json(value)` takes anything that implements `Serialize`"
)]
pub trait Output {
    #[doc(hidden)]
    fn write(self, reply: &mut Vec<u8>) -> Result<()>;
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
    fn write(self, reply: &mut Vec<u8>) -> Result<()> {
        Ok(encode_result(reply, &self.0)?)
    }
}

impl<T: Output, E: Display> Output for Result<T, E> {
    fn write(self, reply: &mut Vec<u8>) -> Result<()> {
        // Alternate, since that is how error types with causes tell them all.
        self.map_err(|error| format!("{error:#}"))?.write(reply)
    }
}

impl<T: Serialize, const N: usize> Output for [T; N] {
    fn write(self, reply: &mut Vec<u8>) -> Result<()> {
        Ok(encode_result(reply, self.as_slice())?)
    }
}

macro_rules! outputs {
    ($([$($generic:tt)*] $type:ty),* $(,)?) => {
        $(impl<$($generic)*> Output for $type {
            fn write(self, reply: &mut Vec<u8>) -> Result<()> {
                Ok(encode_result(reply, &self)?)
            }
        })*
    };
}

outputs!([] (), [] bool, [] char, [] f32, [] f64);
outputs!([] i8, [] i16, [] i32, [] i64, [] i128, [] isize, [] u8, [] u16, [] u32, [] u64, [] u128, [] usize);
outputs!([] String, [] &'static str, [] Cow<'static, str>, [] Value, [] Map<String, Value>);
outputs!([T: Serialize] Vec<T>, [T: Serialize] VecDeque<T>, [T: Serialize] Option<T>, [T: Serialize] Box<T>);
outputs!([T: Serialize] BTreeSet<T>, [T: Serialize, S] HashSet<T, S>);
outputs!([T: Serialize] BTreeMap<String, T>, [T: Serialize, S] HashMap<String, T, S>);
outputs!([T: Serialize, U: Serialize] (T, U), [T: Serialize, U: Serialize, V: Serialize] (T, U, V));
