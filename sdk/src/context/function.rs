//! The context of a function.

use ekuiper_core::message::FunctionMeta;

/// The context of a call: its call site in the rule.
#[derive(Clone, Debug, Default)]
pub struct FunctionContext {
    pub(crate) meta: FunctionMeta,
}

impl FunctionContext {
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
}
