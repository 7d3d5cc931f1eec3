//! Calls of a plugin's function.

mod command;
mod many;
pub(crate) mod pending;
mod pipeline;
mod route;

use std::sync::Arc;

use ekuiper_core::message::{Arguments, CallKind, FunctionMeta};
use serde::de::DeserializeOwned;

use crate::Result;
use crate::plugin::Plugin;
use crate::target::default_rule;
use pending::PendingCall;
use pipeline::Pipeline;
use route::FunctionRoute;

/// A function of a plugin. Cheap to clone; calls of the same function are
/// executed one at a time, from whichever clone.
#[derive(Clone)]
pub struct Function {
    route: Arc<FunctionRoute>,
    pipeline: Arc<Pipeline>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function")
            .field("symbol", &self.route.symbol)
            .field("meta", &self.route.meta)
            .finish_non_exhaustive()
    }
}

impl Function {
    pub(crate) fn new(plugin: Arc<Plugin>, symbol: &str) -> Result<Self> {
        // The official Go SDK executes nothing without a rule and an operator.
        let meta = FunctionMeta { rule_id: default_rule(), op_id: symbol.to_owned(), ..FunctionMeta::default() };
        Ok(Self::of(FunctionRoute::open(plugin, symbol, meta)?))
    }

    fn of(route: FunctionRoute) -> Self {
        let route = Arc::new(route);
        Self { pipeline: Pipeline::new(route.clone()), route }
    }

    /// Returns the function's name.
    pub fn name(&self) -> &str {
        &self.route.symbol
    }

    /// Returns the function with the rule, operator and instance that its calls
    /// carry. Default: a rule named after this process, with an operator of the
    /// function's name.
    pub fn with_meta(self, meta: FunctionMeta) -> Self {
        Self::of(self.route.with_meta(meta))
    }

    /// Calls the function: `revert.call::<String>(("hello",))`.
    ///
    /// # Errors
    /// [`Error::Function`](crate::Error::Function) with the function's error
    /// text; or there is no answer: [`Timeout`](crate::Error::Timeout),
    /// [`OutcomeUnknown`](crate::Error::OutcomeUnknown) and others.
    pub fn call<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<R> {
        self.route.call(&args)
    }

    /// Calls the function for many rows of arguments. Returns one outcome per
    /// row, in order, with the function's error text where it failed.
    ///
    /// A plugin on our SDK gets many rows per message, and computes them while
    /// the host encodes the next message; any other plugin gets one call per
    /// row.
    ///
    /// # Errors
    /// As [`Function::call`], when there is no answer; rows may have been
    /// computed nevertheless.
    pub fn call_many<R, A>(&self, rows: impl IntoIterator<Item = A>) -> Result<Vec<Result<R, String>>>
    where
        R: DeserializeOwned + Send + 'static,
        A: Arguments,
    {
        many::call_many(&self.route, rows.into_iter())
    }

    /// Makes a call without waiting for anything. [`PendingCall`] is a future of
    /// its result, and [`PendingCall::wait`] blocks for it.
    ///
    /// Calls are made at once, in their order, whether or not anything waits
    /// for their results. To a plugin on our SDK, calls made while one is in
    /// flight are sent as one batch; any other plugin gets one call after the
    /// other.
    ///
    /// # Errors
    /// The arguments cannot be encoded.
    pub fn call_async<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<PendingCall<R>> {
        let (command, row) = self.pipeline.add(&args)?;
        Ok(PendingCall::new(self.pipeline.clone(), command, row))
    }

    /// Asks the function whether it accepts these arguments; plugins check at
    /// least their number.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn validate(&self, args: impl Arguments) -> Result<()> {
        self.route.ask::<serde::de::IgnoredAny>(CallKind::Validate, &args, None).map(|_| ())
    }

    /// Asks the function whether it takes all values of a window at once.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn is_aggregate(&self) -> Result<bool> {
        self.route.ask(CallKind::IsAggregate, &(), None)
    }
}
