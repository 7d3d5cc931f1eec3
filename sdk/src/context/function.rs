//! The context of a function.

use ekuiper_core::message::FunctionMeta;

use crate::cancel::CallWatch;

/// The context of a call: its call site in the rule, and whether it was
/// cancelled.
#[derive(Clone, Debug, Default)]
pub struct FunctionContext {
    pub(crate) meta: FunctionMeta,
    pub(crate) watch: CallWatch,
    /// The number of the first row of columns, among those of the caller.
    #[cfg(feature = "arrow")]
    pub(crate) first_row: u64,
}

impl FunctionContext {
    pub(crate) fn new(meta: FunctionMeta, watch: CallWatch) -> Self {
        Self {
            meta,
            watch,
            #[cfg(feature = "arrow")]
            first_row: 0,
        }
    }

    /// The rule's id.
    pub fn rule_id(&self) -> &str {
        &self.meta.rule_id
    }

    /// The operator's id within the rule.
    pub fn op_id(&self) -> &str {
        &self.meta.op_id
    }

    /// The operator's instance, from 0.
    pub fn instance_id(&self) -> i64 {
        self.meta.instance_id
    }

    /// The call site's id within the rule: two calls of one function in one rule
    /// have two ids.
    pub fn func_id(&self) -> i64 {
        self.meta.func_id
    }

    /// Whether nothing waits for the call's result any more: the engine has
    /// dropped its future, the call's deadline has passed, or the engine has
    /// ended the wait. A function that takes long returns early then; what it
    /// returns is discarded. Costs an atomic load, so it can be asked often.
    ///
    /// Only our host cancels calls, except those of a blocking `call` without
    /// options; under eKuiper and in a supervised plugin this is
    /// always false. A clone of the context, in another thread, stays with its
    /// call, and returns true once that has ended.
    ///
    /// ```
    /// use ekuiper_sdk::prelude::*;
    ///
    /// fn primes_below(limit: u64, ctx: &FunctionContext) -> Result<Vec<u64>> {
    ///     let mut primes: Vec<u64> = Vec::new();
    ///     for number in 2..limit {
    ///         if ctx.is_cancelled() {
    ///             return Err("nobody waits for the primes any more".into());
    ///         }
    ///         if primes.iter().all(|prime| number % prime != 0) {
    ///             primes.push(number);
    ///         }
    ///     }
    ///     Ok(primes)
    /// }
    ///
    /// Plugin::new("primes").function("primes_below", primes_below);
    /// ```
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }

    /// Returns what tells whether the call was cancelled, without its call site,
    /// for language bindings.
    #[doc(hidden)]
    pub fn watch(&self) -> CallWatch {
        self.watch.clone()
    }
}
