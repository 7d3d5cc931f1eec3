//! A function under test.

use ekuiper_core::codec::Format;
use ekuiper_core::message::{CallKind, EncodedMeta, FunctionMeta, decode_reply, encode_call};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::test_meta;
use crate::closure::{BoxedFunction, IntoFunction};
use crate::runtime::answer;

/// A function under test, as [`Plugin::function`](crate::Plugin::function)
/// takes it.
pub fn function<M>(function: impl IntoFunction<M>) -> FunctionTest {
    FunctionTest(function.into_function(false))
}

/// An aggregate function under test, as
/// [`Plugin::aggregate`](crate::Plugin::aggregate) takes it.
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

/// A function under test: each question goes through the messages that an
/// engine sends and reads.
pub struct FunctionTest(BoxedFunction);

impl FunctionTest {
    /// Calls it, with a tuple of arguments: `call::<String>(("a", 1))`.
    ///
    /// # Errors
    /// The function's text, as the engine gets it; so is a panic's.
    pub fn call<R: DeserializeOwned>(&mut self, args: impl Serialize) -> Result<R, String> {
        let meta = test_meta();
        let meta = FunctionMeta { rule_id: meta.rule_id, op_id: meta.op_id, instance_id: meta.instance_id, func_id: 0 };
        self.call_for(&meta, args)
    }

    /// Calls it for a place in a rule, which its context then tells.
    ///
    /// # Errors
    /// As [`FunctionTest::call`].
    pub fn call_for<R: DeserializeOwned>(&mut self, meta: &FunctionMeta, args: impl Serialize) -> Result<R, String> {
        self.ask(CallKind::Exec, args, Some(meta))
    }

    /// Asks whether it takes these arguments; only their number counts for a
    /// closure.
    ///
    /// # Errors
    /// The function's text, as the engine gets it.
    pub fn validate(&mut self, args: impl Serialize) -> Result<(), String> {
        self.ask::<String>(CallKind::Validate, args, None).map(|_| ())
    }

    /// Whether it is an aggregate.
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
        // As the codec writes them, bytes for example.
        Format::Json.encode(&mut request, &args).map_err(|error| error.to_string())?;
        let args = match Format::Json.decode(&request).map_err(|error| error.to_string())? {
            Value::Array(args) => args,
            Value::Null => Vec::new(),
            other => vec![other],
        };
        request.clear();
        let meta = meta.map(EncodedMeta::from);
        encode_call(Format::Json, &mut request, kind, &args, meta.as_ref()).map_err(|error| error.to_string())?;
        answer(&mut *self.0.0, Format::Json, &request, &mut reply);
        decode_reply(Format::Json, &reply).map_err(|error| error.to_string())?
    }
}
