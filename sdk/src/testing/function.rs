//! Tests of functions.

use ekuiper_core::codec::Format;
#[cfg(feature = "arrow")]
use ekuiper_core::columns::{
    arrow_array::{ArrayRef, RecordBatch},
    arrow_buffer::Buffer,
    decode, encode,
};
use ekuiper_core::message::{CallKind, EncodedMeta, FunctionMeta, decode_reply, encode_call};
#[cfg(feature = "arrow")]
use ekuiper_core::message::{end_columns_call, is_columns};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::meta::test_meta;
use crate::error::text_of;
use crate::invoke::{Calls, answer};
use crate::raw_function::{BoxedFunction, IntoFunction};

/// Creates a test of a function, as added by
/// [`Plugin::function`](crate::Plugin::function).
pub fn function<M>(function: impl IntoFunction<M>) -> FunctionTest {
    FunctionTest(function.into_function(false))
}

/// Creates a test of an aggregate function, as added by
/// [`Plugin::aggregate`](crate::Plugin::aggregate).
///
/// ```
/// use ekuiper_sdk::testing;
///
/// let mut sum = testing::aggregate(|values: Vec<i64>| values.iter().sum::<i64>());
/// assert!(sum.is_aggregate());
/// assert_eq!(sum.call::<i64>(([1, 2, 3],)), Ok(6));
/// ```
pub fn aggregate<M>(function: impl IntoFunction<M>) -> FunctionTest {
    FunctionTest(function.into_function(true))
}

/// Creates a test of a columnar function, as added by
/// [`Plugin::columnar`](crate::Plugin::columnar).
///
/// ```
/// use std::sync::Arc;
///
/// use ekuiper_sdk::columns::arrow_array::{ArrayRef, Float64Array, RecordBatch};
/// use ekuiper_sdk::testing;
///
/// let mut double = testing::columnar(|x: &Float64Array| -> Float64Array { x.unary(|x| x * 2.0) });
/// assert_eq!(double.call::<f64>((1.5,)), Ok(3.0));
/// let x: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2.0]));
/// let doubled = double.call_columns(&RecordBatch::try_from_iter([("x", x)])?)?;
/// assert_eq!(*doubled, Float64Array::from(vec![3.0, 4.0]));
/// # Ok::<(), ekuiper_sdk::BoxError>(())
/// ```
#[cfg(feature = "arrow")]
pub fn columnar<M>(function: impl crate::columns::IntoColumnar<M>) -> FunctionTest {
    FunctionTest(function.into_columnar())
}

/// The call site of calls in tests.
fn test_call_site() -> FunctionMeta {
    let meta = test_meta();
    FunctionMeta { rule_id: meta.rule_id, op_id: meta.op_id, instance_id: meta.instance_id, func_id: 0 }
}

/// A function under test, whose calls are encoded and decoded as an engine does.
pub struct FunctionTest(BoxedFunction);

impl FunctionTest {
    /// Calls the function with a tuple of arguments: `call::<String>(("a", 1))`.
    ///
    /// # Errors
    /// The text of the function's error or panic, as the engine gets it.
    pub fn call<R: DeserializeOwned>(&mut self, args: impl Serialize) -> Result<R, String> {
        self.call_for(&test_call_site(), args)
    }

    /// Calls the function for a call site, which its context then has.
    ///
    /// # Errors
    /// As [`FunctionTest::call`].
    pub fn call_for<R: DeserializeOwned>(&mut self, meta: &FunctionMeta, args: impl Serialize) -> Result<R, String> {
        self.ask(CallKind::Exec, args, Some(meta))
    }

    /// Calls the function, columnar or not, with columns as its arguments.
    ///
    /// # Errors
    /// The text of the function's error or panic, as the engine gets it.
    #[cfg(feature = "arrow")]
    pub fn call_columns(&mut self, batch: &RecordBatch) -> Result<ArrayRef, String> {
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        encode(&mut request, batch).map_err(|error| text_of(&error))?;
        end_columns_call(Format::Json, &mut request, 0, 0, &EncodedMeta::from(&test_call_site()));
        crate::columns::answer(&mut *self.0.function, &Calls::in_test(Format::Json), &mut request, &mut reply);
        if !is_columns(&reply) {
            let error = decode_reply::<()>(Format::Json, &reply).map_err(|error| text_of(&error))?;
            return Err(error.err().unwrap_or_default());
        }
        let result = decode(&Buffer::from_vec(reply)).map_err(|error| text_of(&error))?;
        Ok(result.column(0).clone())
    }

    /// Validates arguments; for a closure only their number matters.
    ///
    /// # Errors
    /// The text of the function's error, as the engine gets it.
    pub fn validate(&mut self, args: impl Serialize) -> Result<(), String> {
        self.ask::<String>(CallKind::Validate, args, None).map(|_| ())
    }

    /// Whether the function is an aggregate.
    pub fn is_aggregate(&mut self) -> bool {
        self.ask(CallKind::IsAggregate, (), None) == Ok(true)
    }

    fn ask<R: DeserializeOwned>(
        &mut self,
        kind: CallKind,
        args: impl Serialize,
        meta: Option<&FunctionMeta>,
    ) -> Result<R, String> {
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        // Converted as the codec converts them, bytes for example.
        Format::Json.encode(&mut request, &args).map_err(|error| text_of(&error))?;
        let args = match Format::Json.decode(&request).map_err(|error| text_of(&error))? {
            Value::Array(args) => args,
            Value::Null => Vec::new(),
            other => vec![other],
        };
        request.clear();
        let meta = meta.map(EncodedMeta::from);
        encode_call(Format::Json, &mut request, kind, &args, meta.as_ref()).map_err(|error| text_of(&error))?;
        answer(&mut *self.0.function, &Calls::in_test(Format::Json), &request, &mut reply);
        decode_reply(Format::Json, &reply).map_err(|error| text_of(&error))?
    }
}
