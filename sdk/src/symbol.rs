//! What an author implements; the traits mirror the official interfaces.

use serde_json::Value;

use crate::{Config, FunctionContext, Result, SinkContext, SourceContext};

/// Gives tuples to the engine.
pub trait Source: Send {
    /// Takes the configuration. An error refuses the start, with its text.
    ///
    /// # Errors
    /// The author's.
    fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
        let _ = (datasource, config);
        Ok(())
    }

    /// Emits until it is stopped: until [`SourceContext::sleep`] is false or
    /// `emit` fails. Runs on a thread of its own. When it returns, the source
    /// is over.
    ///
    /// # Errors
    /// The author's; reported to the engine as the source's error.
    fn open(&mut self, ctx: &SourceContext) -> Result<()>;

    /// Cleans up, after `open` has returned.
    ///
    /// # Errors
    /// The author's; logged.
    fn close(&mut self, ctx: &SourceContext) -> Result<()> {
        let _ = ctx;
        Ok(())
    }
}

/// Who acknowledges, where the engine asks for it (`requireAck`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// The result of `collect` does, unless it acknowledged by hand.
    #[default]
    Automatic,
    /// Only the sink itself, by hand, also after `collect` has returned.
    Manual,
}

/// Takes messages from the engine.
pub trait Sink: Send {
    /// Takes the configuration. An error refuses the start, with its text.
    ///
    /// # Errors
    /// The author's.
    fn configure(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Opens what it writes to. An error refuses the start, with its text.
    ///
    /// # Errors
    /// The author's.
    fn open(&mut self, ctx: &SinkContext) -> Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// Takes one message, normally JSON: [`SinkContext::rows`] reads it.
    ///
    /// # Errors
    /// The author's; the engine gets it as the acknowledgement where it asked
    /// for one, else it is logged.
    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()>;

    /// Cleans up, after the last message.
    ///
    /// # Errors
    /// The author's; logged.
    fn close(&mut self, ctx: &SinkContext) -> Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// Who acknowledges.
    fn ack_mode(&self) -> AckMode {
        AckMode::Automatic
    }
}

/// Computes a value from values. Most functions are closures instead.
pub trait Function: Send {
    /// Refuses calls that cannot be carried out. The engine passes its syntax
    /// tree's nodes, not values: only their number says anything.
    ///
    /// # Errors
    /// The author's; the engine refuses the rule with its text.
    fn validate(&mut self, args: &[Value]) -> Result<()> {
        let _ = args;
        Ok(())
    }

    /// Computes.
    ///
    /// # Errors
    /// The author's; it is the call's result.
    fn exec(&mut self, args: &[Value], ctx: &FunctionContext) -> Result<Value>;

    /// Whether each argument is the array of a window's values.
    fn is_aggregate(&self) -> bool {
        false
    }
}
