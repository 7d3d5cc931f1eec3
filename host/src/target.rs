//! The rule, operator and instance for which a source or sink is opened.

use std::time::Duration;

use ekuiper_core::message::{Meta, SymbolKind};
use serde_json::{Map, Value};

use crate::{Error, Result, Subject};

/// Settings common to the builders of sources and sinks.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: SymbolKind,
    pub(crate) symbol: String,
    pub(crate) meta: Meta,
    pub(crate) config: Value,
    /// Maximum wait for the place of the target, if it is taken.
    pub(crate) wait_for_place: Duration,
}

impl Target {
    pub(crate) fn new(kind: SymbolKind, symbol: &str) -> Self {
        let meta = Meta { rule_id: default_rule(), op_id: symbol.to_owned(), instance_id: 0 };
        Self {
            kind,
            symbol: symbol.to_owned(),
            meta,
            config: Value::Object(Map::new()),
            wait_for_place: Duration::ZERO,
        }
    }

    pub(crate) fn config(&self, plugin: &str) -> Result<Map<String, Value>> {
        match &self.config {
            Value::Object(config) => Ok(config.clone()),
            Value::Null => Ok(Map::new()),
            _ => Err(Error::Config { plugin: plugin.to_owned(), kind: self.kind, symbol: self.symbol.clone() }),
        }
    }

    /// Returns the subject of an error of the target.
    pub(crate) fn subject(&self, plugin: &str) -> Subject {
        Subject::from(format!("{} (plugin {plugin})", self.describe())).about(plugin, Some(&self.symbol))
    }

    /// Describes the target for people: `source random of rule1/random/0`.
    pub(crate) fn describe(&self) -> String {
        format!("{} {} of {}", self.kind, self.symbol, self.meta)
    }
}

/// Returns the rule id used unless the engine sets one. It contains this
/// process's id, so that two hosts on one machine do not use the same sockets
/// in `/tmp`.
pub(crate) fn default_rule() -> String {
    format!("host{}", std::process::id())
}

/// Setters common to the builders of sources and sinks.
macro_rules! target_setters {
    () => {
        /// Sets the rule's id. Default: a name of this process.
        pub fn rule(mut self, id: impl Into<String>) -> Self {
            self.target.meta.rule_id = id.into();
            self
        }

        /// Sets the operator's id within the rule. Default: the symbol's name.
        pub fn operator(mut self, id: impl Into<String>) -> Self {
            self.target.meta.op_id = id.into();
            self
        }

        /// Sets the operator's instance. Default: 0.
        pub fn instance(mut self, id: i64) -> Self {
            self.target.meta.instance_id = id;
            self
        }

        /// Sets the configuration, a JSON object. Default: an empty one.
        pub fn config(mut self, config: serde_json::Value) -> Self {
            self.target.config = config;
            self
        }

        /// Sets the maximum time to wait while the place, the rule, operator and
        /// instance, is taken by another handle: by the one that this one is to
        /// replace, for example. Default: zero, which waits only for a handle
        /// that is being closed or was dropped, at most `init_timeout`.
        pub fn wait_for_place(mut self, patience: std::time::Duration) -> Self {
            self.target.wait_for_place = patience;
            self
        }
    };
}
pub(crate) use target_setters;
