//! Calling a plugin's function.

use std::sync::Arc;
use std::time::Instant;

use ekuiper_core::message::{CallKind, ErasedSerialize, FunctionMeta, Outcome, decode_reply, encode_call};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::channel::Failure;
use crate::plugin::Plugin;
use crate::target::default_rule;
use crate::{Error, Result};

/// A function of a plugin. Cheap to clone; calls of one function are carried
/// out one after the other, whoever makes them.
#[derive(Clone)]
pub struct Function {
    plugin: Arc<Plugin>,
    symbol: Arc<str>,
    meta: FunctionMeta,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("symbol", &self.symbol).field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Function {
    pub(crate) fn new(plugin: Arc<Plugin>, symbol: &str) -> Result<Self> {
        plugin.function(symbol, Instant::now() + plugin.site.options.init_timeout)?;
        // The official Go SDK executes nothing without a rule and an operator.
        let meta = FunctionMeta { rule_id: default_rule(), op_id: symbol.to_owned(), ..FunctionMeta::default() };
        Ok(Self { plugin, symbol: symbol.into(), meta })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.symbol
    }

    /// The same function, called for this place in a rule. Default: a rule
    /// named after this process, with an operator of the function's name.
    pub fn with_meta(mut self, meta: FunctionMeta) -> Self {
        self.meta = meta;
        self
    }

    /// Calls it: `revert.call::<String>(("hello",))`.
    ///
    /// # Errors
    /// [`Error::Function`] with the function's own words, or that there is no
    /// answer: [`Error::Timeout`], [`Error::OutcomeUnknown`] and others.
    pub fn call<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<R> {
        self.ask(CallKind::Exec, &args, Some(&self.meta))
    }

    /// Asks whether it takes these arguments; plugins check at least their
    /// number.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn validate(&self, args: impl Arguments) -> Result<()> {
        self.ask::<serde::de::IgnoredAny>(CallKind::Validate, &args, None).map(|_| ())
    }

    /// Asks whether it takes all values of a window at once.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn is_aggregate(&self) -> Result<bool> {
        self.ask(CallKind::IsAggregate, &(), None)
    }

    fn ask<R: DeserializeOwned>(
        &self,
        kind: CallKind,
        args: &impl Arguments,
        meta: Option<&FunctionMeta>,
    ) -> Result<R> {
        let what = || format!("{kind:?} of function {}", self.symbol);
        let message = |source| Error::Message { what: what(), source };
        let mut request = Vec::with_capacity(256);
        args.with(|args| encode_call(&mut request, kind, args, meta)).map_err(message)?;
        let options = &self.plugin.site.options;
        let counters = &self.plugin.counters;
        let now = Instant::now();
        let (send_by, answer_by) = (now + options.send_timeout, now + options.recv_timeout);
        let reply = loop {
            let (running, channel) = self.plugin.function(&self.symbol, send_by)?;
            counters.calls.add(1);
            match channel.exchange(&request, send_by, answer_by, decode_reply::<R>) {
                Ok(reply) => break reply,
                // Nothing was sent: the next process gets it.
                Err(Failure::ProcessEnded) if running.is_over() => {}
                Err(failure) => return Err(running.explain(failure, what(), options.recv_timeout)),
            }
        };
        counters.answers.add(1);
        match reply {
            Ok(Outcome::Ok(result)) => Ok(result),
            Ok(Err(text)) => Err(Error::Function { symbol: self.symbol.to_string(), text: text.trim_end().to_owned() }),
            Err(source) => Err(message(source)),
        }
    }
}

/// The arguments of a call: a tuple of up to eight values, or a list of
/// values.
pub trait Arguments {
    #[doc(hidden)]
    fn with<R>(&self, call: impl FnOnce(&[&dyn ErasedSerialize]) -> R) -> R;
}

impl<T: Serialize> Arguments for &[T] {
    fn with<R>(&self, call: impl FnOnce(&[&dyn ErasedSerialize]) -> R) -> R {
        call(&self.iter().map(|arg| arg as &dyn ErasedSerialize).collect::<Vec<_>>())
    }
}

impl Arguments for Vec<Value> {
    fn with<R>(&self, call: impl FnOnce(&[&dyn ErasedSerialize]) -> R) -> R {
        self.as_slice().with(call)
    }
}

macro_rules! tuple_arguments {
    ($($name:ident),*) => {
        impl<$($name: Serialize),*> Arguments for ($($name,)*) {
            #[allow(non_snake_case)]
            fn with<R_>(&self, call: impl FnOnce(&[&dyn ErasedSerialize]) -> R_) -> R_ {
                let ($($name,)*) = self;
                call(&[$($name as &dyn ErasedSerialize),*])
            }
        }
    };
}

tuple_arguments!();
tuple_arguments!(A);
tuple_arguments!(A, B);
tuple_arguments!(A, B, C);
tuple_arguments!(A, B, C, D);
tuple_arguments!(A, B, C, D, E);
tuple_arguments!(A, B, C, D, E, F);
tuple_arguments!(A, B, C, D, E, F, G);
tuple_arguments!(A, B, C, D, E, F, G, H);
