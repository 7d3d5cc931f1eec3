//! Closures as functions: the signature gives the number of arguments and
//! their types, and no `Value` is built on the way.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::marker::PhantomData;

use ekuiper_core::message::encode_result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Error, Function, FunctionContext, Result};

/// A function behind a pointer, fed with JSON text.
pub(crate) trait ErasedFunction: Send {
    fn validate(&mut self, args: &[&RawValue]) -> Result<()>;
    /// Appends the whole reply.
    fn exec(&mut self, args: &[&RawValue], ctx: &FunctionContext, reply: &mut Vec<u8>) -> Result<()>;
    fn is_aggregate(&self) -> bool;
}

/// A function of a plugin, whatever it was made of.
pub struct BoxedFunction(pub(crate) Box<dyn ErasedFunction>);

/// What can be a function: a closure whose arguments can be read from JSON and
/// whose result can be written as JSON, or a [`Function`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a plugin's function",
    label = "not a function that a plugin can serve",
    note = "a closure takes up to 8 owned arguments that implement `DeserializeOwned`, each with its type written down: `|text: String, times: u32| …`",
    note = "and returns a number, text, `Value`, list or map of such, `Json(anything that implements Serialize)`, or a `Result` of one of these"
)]
pub trait IntoFunction<Marker> {
    #[doc(hidden)]
    fn into_function(self, aggregate: bool) -> BoxedFunction;
}

/// What a closure may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a function's result",
    note = "wrap it: `Json(value)` takes anything that implements `Serialize`"
)]
pub trait Output {
    #[doc(hidden)]
    fn write(self, reply: &mut Vec<u8>) -> Result<()>;
}

/// Makes a function's result of anything that implements `Serialize`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Json<T>(pub T);

impl<T: Serialize> Output for Json<T> {
    fn write(self, reply: &mut Vec<u8>) -> Result<()> {
        Ok(encode_result(reply, &self.0)?)
    }
}

impl<T: Output, E: Display> Output for Result<T, E> {
    fn write(self, reply: &mut Vec<u8>) -> Result<()> {
        self.map_err(|error| error.to_string())?.write(reply)
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

outputs!([] (), [] bool, [] char, [] String, [] &'static str, [] f32, [] f64, [] Value);
outputs!([] i8, [] i16, [] i32, [] i64, [] i128, [] isize, [] u8, [] u16, [] u32, [] u64, [] u128, [] usize);
outputs!([T: Serialize] Vec<T>, [T: Serialize] Option<T>, [T: Serialize] Box<T>);
outputs!([T: Serialize] HashMap<String, T>, [T: Serialize] BTreeMap<String, T>, [T: Serialize, U: Serialize] (T, U));

struct Closure<F, Signature> {
    function: F,
    aggregate: bool,
    signature: PhantomData<Signature>,
}

fn count(expected: usize, args: &[&RawValue]) -> Result<(), Error> {
    if args.len() == expected { Ok(()) } else { Err(Error::ArgumentCount { expected, got: args.len() }) }
}

fn argument<T: DeserializeOwned>(args: &[&RawValue], index: usize) -> Result<T, Error> {
    let text = args.get(index).map_or("null", |arg| arg.get());
    serde_json::from_str(text).map_err(|source| Error::Argument { position: index + 1, source })
}

macro_rules! closures {
    ($count:expr; $($name:ident $index:expr),*) => {
        impl<F, R, $($name),*> IntoFunction<fn($($name),*) -> R> for F
        where
            F: FnMut($($name),*) -> R + Send + 'static,
            R: Output + 'static,
            $($name: DeserializeOwned + 'static,)*
        {
            fn into_function(self, aggregate: bool) -> BoxedFunction {
                let signature = PhantomData::<fn($($name),*) -> R>;
                BoxedFunction(Box::new(Closure { function: self, aggregate, signature }))
            }
        }

        impl<F, R, $($name),*> ErasedFunction for Closure<F, fn($($name),*) -> R>
        where
            F: FnMut($($name),*) -> R + Send,
            R: Output,
            $($name: DeserializeOwned,)*
        {
            fn validate(&mut self, args: &[&RawValue]) -> Result<()> {
                Ok(count($count, args)?)
            }

            fn exec(&mut self, args: &[&RawValue], _: &FunctionContext, reply: &mut Vec<u8>) -> Result<()> {
                count($count, args)?;
                (self.function)($(argument::<$name>(args, $index)?),*).write(reply)
            }

            fn is_aggregate(&self) -> bool {
                self.aggregate
            }
        }
    };
}

closures!(0;);
closures!(1; A 0);
closures!(2; A 0, B 1);
closures!(3; A 0, B 1, C 2);
closures!(4; A 0, B 1, C 2, D 3);
closures!(5; A 0, B 1, C 2, D 3, E 4);
closures!(6; A 0, B 1, C 2, D 3, E 4, G 5);
closures!(7; A 0, B 1, C 2, D 3, E 4, G 5, H 6);
closures!(8; A 0, B 1, C 2, D 3, E 4, G 5, H 6, I 7);

/// Tells a [`Function`] from a closure.
#[doc(hidden)]
pub struct ByTrait;

struct Implemented<T> {
    function: T,
    aggregate: bool,
}

impl<T: Function + 'static> IntoFunction<ByTrait> for T {
    fn into_function(self, aggregate: bool) -> BoxedFunction {
        BoxedFunction(Box::new(Implemented { function: self, aggregate }))
    }
}

fn values(args: &[&RawValue]) -> Result<Vec<Value>, Error> {
    (0..args.len()).map(|index| argument(args, index)).collect()
}

impl<T: Function> ErasedFunction for Implemented<T> {
    fn validate(&mut self, args: &[&RawValue]) -> Result<()> {
        self.function.validate(&values(args)?)
    }

    fn exec(&mut self, args: &[&RawValue], ctx: &FunctionContext, reply: &mut Vec<u8>) -> Result<()> {
        let result = self.function.exec(&values(args)?, ctx)?;
        Ok(encode_result(reply, &result)?)
    }

    fn is_aggregate(&self) -> bool {
        self.aggregate || self.function.is_aggregate()
    }
}
