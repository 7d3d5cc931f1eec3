//! Closures as functions: the signature gives the number of arguments and
//! their types, and no `Value` is built on the way.

use std::marker::PhantomData;

use ekuiper_core::codec::{Adapted, Format};
#[cfg(feature = "arrow")]
use ekuiper_core::columns::arrow_array::{ArrayRef, RecordBatch};
#[cfg(feature = "arrow")]
use ekuiper_core::columns::{Cells, ColumnWriter};
use ekuiper_core::message::{Arg, Args};
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use crate::arity::{WithContext, call, for_each_arity};
#[cfg(feature = "arrow")]
use crate::columns::of_row;
use crate::description::{Field, FunctionDescription, traced};
use crate::error::{located, without_useless_place};
use crate::output::{Output, Reply};
use crate::raw_function::{BoxedFunction, IntoFunction, RawFunction};
use crate::{Error, Function, FunctionContext, Result};

struct Closure<F, Signature> {
    function: F,
    aggregate: bool,
    signature: PhantomData<Signature>,
}

pub(crate) fn count(expected: usize, args: &Args<'_>) -> Result<(), Error> {
    let got = arguments(args)?.len();
    if got == expected { Ok(()) } else { Err(Error::ArgumentCount { expected, got }) }
}

pub(crate) fn arguments<'a>(args: &Args<'a>) -> Result<Vec<Arg<'a>>, Error> {
    Ok(args.all().map_err(wrong_arguments)?)
}

fn wrong_arguments(source: serde_json::Error) -> ekuiper_core::Error {
    ekuiper_core::Error::Message { what: "the function's arguments", source }
}

/// Reads an argument; an error has its position and path.
pub(crate) fn argument<T: DeserializeOwned>(arg: &Arg<'_>, position: usize) -> Result<T, Error> {
    arg.read().map_err(|source| {
        // Parse again with the path, which valid arguments need not pay for.
        let (field, source) = match arg.format() {
            Format::Json => {
                let mut again = serde_json::Deserializer::from_slice(arg.bytes());
                serde_path_to_error::deserialize::<_, T>(Adapted::new(&mut again))
                    .err()
                    .map_or((String::new(), source), located)
            }
            // As a JSON value: both codecs have the same data model.
            _ => {
                let value = arg.read::<Value>().ok();
                let path = value.and_then(|value| serde_path_to_error::deserialize::<_, T>(Adapted::new(value)).err());
                path.map_or((String::new(), source), located)
            }
        };
        Error::Argument { position, field, source: without_useless_place(source) }
    })
}

/// Reads an argument from a column.
#[cfg(feature = "arrow")]
#[inline]
fn value<T: DeserializeOwned>(column: &Cells<'_>, row: usize, position: usize) -> Result<T, Error> {
    let misfit = |source| Error::Argument { position, field: String::new(), source };
    column.at(row).read().map_err(misfit)
}

/// The error of a call whose arguments do not match the signature.
fn mismatch<T>(expected: usize, args: &Args<'_>, check: impl FnOnce(&[Arg<'_>]) -> Result<T, Error>) -> Error {
    if let Err(error) = count(expected, args) {
        return error;
    }
    match arguments(args).and_then(|all| check(&all)) {
        Err(error) => error,
        // No single argument is wrong: something between or behind them is.
        Ok(_) => wrong_arguments(serde_json::Error::custom("they are not written properly")).into(),
    }
}

macro_rules! closures {
    ($count:expr; $($name:ident $index:expr),*) => {
        closures!(@with fn($($name),*) -> Out, (), (_ctx), false; $count; $($name $index),*);
        closures!(@with WithContext<fn($($name),*) -> Out>, (&FunctionContext), (ctx), true; $count; $($name $index),*);
    };
    // The closure's signature as a marker, the type and the name of its context
    // parameter, and whether it has one.
    (
        @with $signature:ty, ($($extra:ty)?), ($ctx:ident), $needs_context:tt;
        $count:expr; $($name:ident $index:expr),*
    ) => {
        impl<Func, Out, $($name),*> IntoFunction<$signature> for Func
        where
            Func: FnMut($($name,)* $($extra)?) -> Out + Send + 'static,
            Out: Output + 'static,
            $($name: DeserializeOwned + 'static,)*
        {
            fn into_function(self, aggregate: bool) -> BoxedFunction {
                let signature = PhantomData::<$signature>;
                BoxedFunction::new(Closure { function: self, aggregate, signature })
            }
        }

        impl<Func, Out, $($name),*> RawFunction for Closure<Func, $signature>
        where
            Func: FnMut($($name,)* $($extra)?) -> Out + Send,
            Out: Output,
            $($name: DeserializeOwned,)*
        {
            fn validate(&mut self, args: &Args<'_>) -> Result<()> {
                Ok(count($count, args)?)
            }

            #[inline]
            #[allow(non_snake_case, unused_mut)]
            fn exec(&mut self, args: &mut Args<'_>, $ctx: &FunctionContext, reply: &mut Reply<'_, '_>) -> Result<()> {
                let unread = args.clone();
                let mut read = || Some(($(args.read::<$name>().ok()??,)*));
                if let Some(($($name,)*)) = read()
                    && args.is_over()
                {
                    return call!((self.function); $needs_context, $ctx; $($name),*).write(reply);
                }
                Err(mismatch($count, &unread, |all| {
                    let _ = all;
                    $(argument::<$name>(&all[$index], $index + 1)?;)*
                    Ok(())
                })
                .into())
            }

            #[cfg(feature = "arrow")]
            #[allow(non_snake_case)]
            fn exec_columns(&mut self, batch: &RecordBatch, $ctx: &FunctionContext) -> Result<ArrayRef> {
                let columns = batch.columns().iter().map(|column| Cells::new(column)).collect::<Result<Vec<_>, _>>()?;
                let [$($name),*] = &columns[..] else {
                    return Err(Error::ArgumentCount { expected: $count, got: columns.len() }.into());
                };
                let mut results = ColumnWriter::new(Some(&Out::data_type()), batch.num_rows());
                for row in 0..batch.num_rows() {
                    let _ = row;
                    $(let $name = value::<$name>($name, row, $index + 1).map_err(|error| of_row($ctx, row, &error))?;)*
                    let result = call!((self.function); $needs_context, $ctx; $($name),*);
                    result.write(&mut Reply::to_column(&mut results)).map_err(|error| of_row($ctx, row, &*error))?;
                }
                Ok(results.finish())
            }

            fn needs_context(&self) -> bool {
                $needs_context
            }

            fn is_aggregate(&self) -> bool {
                self.aggregate
            }

            fn describe(&self) -> FunctionDescription {
                FunctionDescription::new([$(Field::new("", traced::<$name>()),)*], Out::data_type())
            }
        }
    };
}

closures!(0;);
for_each_arity!(closures);

/// The marker that distinguishes a [`Function`] from a closure.
#[doc(hidden)]
pub struct ByTrait;

struct Implemented<T> {
    function: T,
    aggregate: bool,
}

impl<T: Function + 'static> IntoFunction<ByTrait> for T {
    fn into_function(self, aggregate: bool) -> BoxedFunction {
        BoxedFunction::new(Implemented { function: self, aggregate })
    }
}

fn values(args: &Args<'_>) -> Result<Vec<Value>, Error> {
    arguments(args)?.iter().enumerate().map(|(index, arg)| argument(arg, index + 1)).collect()
}

impl<T: Function> RawFunction for Implemented<T> {
    fn validate(&mut self, args: &Args<'_>) -> Result<()> {
        self.function.validate(&values(args)?)
    }

    fn exec(&mut self, args: &mut Args<'_>, ctx: &FunctionContext, reply: &mut Reply<'_, '_>) -> Result<()> {
        self.function.exec(&values(args)?, ctx)?.write(reply)
    }

    fn is_aggregate(&self) -> bool {
        self.aggregate || self.function.is_aggregate()
    }

    fn describe(&self) -> FunctionDescription {
        self.function.describe()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use crate::testing::{aggregate, function};
    use crate::{BoxError, Bytes, Function, FunctionContext, Json, Result};

    #[test]
    fn none_to_twelve_arguments() {
        assert_eq!(function(|| 7).call::<u8>(()), Ok(7));
        #[rustfmt::skip]
        let sum = |a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8, k: u8, l: u8| {
            a + b + c + d + e + f + g + h + i + j + k + l
        };
        let twelve = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(function(sum).call::<u8>(twelve), Ok(78));
        assert_eq!(function(sum).validate([0; 11]), Err("takes 12 arguments, got 11".into()));
    }

    #[test]
    fn validate_looks_at_the_number_only_and_exec_at_the_types() {
        let mut repeat = function(|text: String, times: u8| text.repeat(times.into()));
        // Nodes of the engine's syntax tree.
        let node = json!({ "Name": "a", "StreamName": "demo" });
        assert_eq!(repeat.validate((&node, &node)), Ok(()));
        assert_eq!(repeat.validate((&node,)), Err("takes 2 arguments, got 1".into()));
        assert_eq!(repeat.call::<String>(("ab", 2)), Ok("abab".into()));
        assert_eq!(
            repeat.call::<String>(("ab", "two")),
            Err("invalid argument 2: invalid type: string \"two\", expected u8".into())
        );
        assert_eq!(
            repeat.call::<String>(("ab", 300)),
            Err("invalid argument 2: invalid value: integer `300`, expected u8".into())
        );
        assert_eq!(repeat.call::<String>(("ab", 2, 3)), Err("takes 2 arguments, got 3".into()));
    }

    #[test]
    fn bytes_are_taken_and_returned() {
        let mut reversed = function(|data: Vec<u8>| Bytes(data.into_iter().rev().collect()));
        let bytes = || Bytes(vec![1, 200]);
        assert_eq!(reversed.call::<Bytes>((bytes(),)), Ok(Bytes(vec![200, 1])));
        assert_eq!(reversed.call::<Vec<u8>>(("Acg=",)), Ok(vec![200, 1]));
        assert_eq!(reversed.call::<Value>((bytes(),)), Ok(json!("yAE=")));
        assert_eq!(reversed.call::<String>(([1, 200],)), Ok("yAE=".into()));
        assert_eq!(function(|text: String| text).call::<String>((bytes(),)), Ok("Acg=".into()));
        assert_eq!(
            reversed.call::<Value>(("no base64",)),
            Err("invalid argument 1: invalid type: string \"no base64\", expected a sequence".into())
        );
    }

    #[test]
    fn the_path_within_an_argument_is_told() {
        #[derive(Deserialize)]
        struct Point {
            x: i64,
        }
        let mut xs = function(|points: Vec<Point>| points.iter().map(|point| point.x).collect::<Vec<_>>());
        assert_eq!(xs.call::<Vec<i64>>((json!([{ "x": 1 }]),)), Ok(vec![1]));
        assert_eq!(
            xs.call::<Value>((json!([{ "x": 1 }, { "x": true }]),)),
            Err("invalid argument 1 field [1].x: invalid type: boolean `true`, expected i64".into())
        );
    }

    #[test]
    fn a_result_is_a_value_or_an_error() {
        let mut half = function(|n: i64| if n % 2 == 0 { Ok(n / 2) } else { Err(format!("{n} is odd")) });
        assert_eq!(half.call::<i64>((4,)), Ok(2));
        assert_eq!(half.call::<i64>((5,)), Err("5 is odd".into()));
        let mut parse = function(|text: String| -> Result<f64, std::num::ParseFloatError> { text.parse() });
        assert_eq!(parse.call::<f64>(("x",)), Err("invalid float literal".into()));
        assert_eq!(function(|| Err::<(), BoxError>("".into())).call::<()>(()), Err("an error without a text".into()));
    }

    #[test]
    fn nan_is_an_error_and_not_null() {
        let mut divide = function(|a: f64, b: f64| a / b);
        assert_eq!(divide.call::<f64>((1.0, 2.0)), Ok(0.5));
        let error = divide.call::<Value>((0.0, 0.0)).unwrap_err();
        assert!(error.contains("NaN is not a number"), "{error}");
        let error = function(|| Json([f32::INFINITY])).call::<Value>(()).unwrap_err();
        assert!(error.contains("inf is not a number"), "{error}");
    }

    #[test]
    fn closures_keep_state_and_aggregates_say_so() {
        let mut calls = 0;
        let mut counter = function(move || {
            calls += 1;
            calls
        });
        assert_eq!((counter.call::<u8>(()), counter.call::<u8>(())), (Ok(1), Ok(2)));
        assert!(!counter.is_aggregate());
        assert!(aggregate(|values: Vec<i64>| values.iter().sum::<i64>()).is_aggregate());
    }

    #[test]
    fn a_closure_may_take_the_context_after_its_arguments() {
        let mut place = function(|ctx: &FunctionContext| format!("{}/{}", ctx.rule_id(), ctx.func_id()));
        assert_eq!(place.call::<String>(()), Ok("test/0".into()));
        assert_eq!(place.validate((1,)), Err("takes 0 arguments, got 1".into()));
        let mut label = function(|text: String, n: u8, ctx: &FunctionContext| format!("{} {text} {n}", ctx.op_id()));
        assert_eq!(label.call::<String>(("a", 1)), Ok("test a 1".into()));
        assert_eq!(label.validate((1, 2)), Ok(()));
        assert_eq!(label.validate((1, 2, 3)), Err("takes 2 arguments, got 3".into()));
        let error = label.call::<String>(("a", "b")).unwrap_err();
        assert_eq!(error, "invalid argument 2: invalid type: string \"b\", expected u8");
        fn named(values: Vec<f64>, ctx: &FunctionContext) -> Result<String> {
            Ok(format!("{} of {}", values.len(), ctx.rule_id()))
        }
        let mut named = aggregate(named);
        assert!(named.is_aggregate());
        assert_eq!(named.call::<String>(([1.0, 2.0],)), Ok("2 of test".into()));
    }

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let mut first = function(|list: Vec<u8>| list[0]);
        let error = first.call::<u8>((Vec::<u8>::new(),)).unwrap_err();
        assert!(error.starts_with("panicked: index out of bounds"), "{error}");
        assert_eq!(first.call::<u8>(([5],)), Ok(5), "and it goes on");
    }

    #[test]
    fn a_function_by_trait() {
        struct Where;
        impl Function for Where {
            fn validate(&mut self, args: &[Value]) -> Result<()> {
                if args.is_empty() { Ok(()) } else { Err("takes nothing".into()) }
            }
            fn exec(&mut self, _: &[Value], ctx: &FunctionContext) -> Result<Value> {
                Ok(json!([ctx.rule_id(), ctx.op_id(), ctx.instance_id(), ctx.func_id()]))
            }
        }
        let mut place = function(Where);
        assert_eq!(place.validate((1,)), Err("takes nothing".into()));
        assert_eq!(place.call((),), Ok(json!(["test", "test", 0, 0])));
    }
}
