//! The traits that an author implements; they mirror the official interfaces.

use serde_json::Value;

use crate::ack_mode::AckMode;
use crate::description::{FunctionDescription, SinkDescription, SourceDescription};
use crate::{Config, FunctionContext, Result, SinkContext, SourceContext};

/// A source, which sends tuples to the engine. Each rule that uses it has its
/// own instance.
///
/// The SDK calls `configure`, `open` and `close`, in this order, on a thread of
/// the instance's own. A panic in any of them becomes an error with the panic's
/// text.
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
    note = "implement `Source` for it: only `open` is required"
)]
pub trait Source: Send {
    /// Describes the source and the fields of its configuration. The name is
    /// added by the plugin. A configuration that does not fit refuses the
    /// start, before `configure` is called; unknown fields are logged.
    ///
    /// ```
    /// use ekuiper_sdk::prelude::*;
    /// # struct Clock;
    /// impl Source for Clock {
    ///     fn describe() -> SourceDescription {
    ///         let interval = Field::new("interval", DataType::Int).default_value(1000).doc("Milliseconds between rows.");
    ///         SourceDescription::new().doc("Emits the time.").config([interval])
    ///     }
    /// #   fn open(&mut self, ctx: &SourceContext) -> Result<()> { Ok(()) }
    ///     // …
    /// }
    /// ```
    fn describe() -> SourceDescription
    where
        Self: Sized,
    {
        SourceDescription::new()
    }

    /// Receives the topic, which may be empty, and the configuration. An error
    /// refuses the start, with its text.
    ///
    /// # Errors
    /// The author's error, which answers the engine's start.
    fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
        let _ = (datasource, config);
        Ok(())
    }

    /// Emits tuples until the source is stopped, that is, until
    /// [`SourceContext::sleep`] returns false or `emit` fails. A source that
    /// blocks in its own I/O registers a hook that unblocks it by
    /// [`SourceContext::on_stop`]. The source ends when this returns.
    ///
    /// # Errors
    /// The author's error, which is reported to the engine as the source's
    /// error, unless the source was stopped.
    fn open(&mut self, ctx: &SourceContext) -> Result<()>;

    /// Cleans up, after `open` has returned.
    ///
    /// # Errors
    /// The author's error, which is logged.
    fn close(&mut self, ctx: &SourceContext) -> Result<()> {
        let _ = ctx;
        Ok(())
    }
}

/// A sink, which collects messages from the engine. Each rule that uses it has
/// its own instance.
///
/// The SDK calls `configure`, `open`, `collect` for each message, and `close`,
/// in this order, on one thread. A panic in any of them becomes an error with
/// the panic's text.
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
    note = "implement `Sink` for it: only `collect` is required"
)]
pub trait Sink: Send {
    /// Describes the sink and the fields of its configuration, as
    /// [`Source::describe`] does.
    fn describe() -> SinkDescription
    where
        Self: Sized,
    {
        SinkDescription::new()
    }

    /// Receives the configuration. An error refuses the start, with its text.
    ///
    /// # Errors
    /// The author's error, which answers the engine's start.
    fn configure(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Opens the sink's destination. An error refuses the start, with its text.
    ///
    /// # Errors
    /// The author's error, which answers the engine's start.
    fn open(&mut self, ctx: &SinkContext) -> Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// Collects one message, normally JSON, which [`SinkContext::rows`] reads.
    ///
    /// # Errors
    /// The author's error, which is logged, and becomes the acknowledgement
    /// where the engine asks for one.
    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()>;

    /// Cleans up, after the last message.
    ///
    /// # Errors
    /// The author's error, which is logged.
    fn close(&mut self, ctx: &SinkContext) -> Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// How the sink's messages are acknowledged; called once, before `open`.
    fn ack_mode(&self) -> AckMode {
        AckMode::Automatic
    }
}

/// A function, which computes a value from its arguments. Most functions are
/// closures; implement this trait for one with a variable number of arguments.
///
/// All rules share one instance, and its calls are sequential.
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
    /// Refuses calls that can never succeed, when a rule is created. The engine
    /// passes nodes of its syntax tree, not values: only their number is
    /// meaningful.
    ///
    /// # Errors
    /// The author's error; the engine refuses the rule with its text.
    fn validate(&mut self, args: &[Value]) -> Result<()> {
        let _ = args;
        Ok(())
    }

    /// Computes the result of a call.
    ///
    /// # Errors
    /// The author's error, which becomes the call's result.
    fn exec(&mut self, args: &[Value], ctx: &FunctionContext) -> Result<Value>;

    /// Describes the arguments and the result, which are unknown by default.
    /// [`describe`](crate::describe) adds to it where the function is added to
    /// a plugin.
    fn describe(&self) -> FunctionDescription {
        FunctionDescription::unknown()
    }

    /// Whether each argument is the array of a window's values.
    fn is_aggregate(&self) -> bool {
        false
    }
}
