//! What an author implements; the traits mirror the official interfaces.

use serde_json::Value;

use crate::{Config, FunctionContext, Result, SinkContext, SourceContext};

/// Gives tuples to the engine. Each rule that uses it has its own.
///
/// `configure`, then `open` on a thread of its own, then `close` on the same
/// thread. A panic in any of them is an error with the panic's text.
///
/// ```
/// use std::time::Duration;
///
/// use ekuiper_sdk::prelude::*;
///
/// /// Emits the number of seconds since its start.
/// struct Clock;
///
/// impl Source for Clock {
///     fn open(&mut self, ctx: &SourceContext) -> Result<()> {
///         let mut seconds = 0;
///         while ctx.sleep(Duration::from_secs(1)) {
///             seconds += 1;
///             ctx.emit(&json!({ "seconds": seconds }))?;
///         }
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source",
    note = "implement `Source` for it: only `open` must be written"
)]
pub trait Source: Send {
    /// Takes the topic, which may be empty, and the configuration. An error
    /// refuses the start, with its text.
    ///
    /// # Errors
    /// The author's; it is the engine's answer to the start.
    fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
        let _ = (datasource, config);
        Ok(())
    }

    /// Emits until it is stopped: until [`SourceContext::sleep`] is false or
    /// `emit` fails. A source that waits in its own I/O registers with
    /// [`SourceContext::on_stop`] what ends that wait. When it returns, the
    /// source is over.
    ///
    /// # Errors
    /// The author's; reported to the engine as the source's error, unless it
    /// was stopped.
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
    /// Only the sink itself, by hand, also after `collect` has returned: the
    /// SDK never acknowledges for it, not even when `collect` fails.
    Manual,
}

/// Takes messages from the engine. Each rule that uses it has its own.
///
/// `configure`, `open`, `collect` for each message, `close`, all on one thread.
/// A panic in any of them is an error with the panic's text.
///
/// ```
/// use ekuiper_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Print;
///
/// impl Sink for Print {
///     fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
///         for row in ctx.rows::<Value>(data)? {
///             println!("{row}");
///         }
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a sink",
    note = "implement `Sink` for it: only `collect` must be written"
)]
pub trait Sink: Send {
    /// Takes the configuration. An error refuses the start, with its text.
    ///
    /// # Errors
    /// The author's; it is the engine's answer to the start.
    fn configure(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Opens what it writes to. An error refuses the start, with its text.
    ///
    /// # Errors
    /// The author's; it is the engine's answer to the start.
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

    /// Who acknowledges; asked once, before `open`.
    fn ack_mode(&self) -> AckMode {
        AckMode::Automatic
    }
}

/// Computes a value from values. Most functions are closures instead; this is
/// for those that take any number of arguments.
///
/// There is one for all rules; its calls come one after the other.
///
/// ```
/// use ekuiper_sdk::prelude::*;
///
/// /// The greatest of its arguments.
/// struct Greatest;
///
/// impl Function for Greatest {
///     fn validate(&mut self, args: &[Value]) -> Result<()> {
///         if args.is_empty() { Err("takes at least one argument".into()) } else { Ok(()) }
///     }
///
///     fn exec(&mut self, args: &[Value], _ctx: &FunctionContext) -> Result<Value> {
///         let numbers = args.iter().map(|arg| arg.as_f64().ok_or_else(|| format!("{arg} is not a number")));
///         let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
///         Ok(json!(numbers.into_iter().fold(f64::NEG_INFINITY, f64::max)))
///     }
/// }
/// ```
pub trait Function: Send {
    /// Refuses calls that cannot be carried out, when a rule is made. The
    /// engine passes its syntax tree's nodes, not values: only their number
    /// says anything.
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
