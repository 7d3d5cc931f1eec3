//! The interface beneath all functions, and the conversion into it.

#[cfg(feature = "arrow")]
use ekuiper_core::columns::arrow_array::{ArrayRef, RecordBatch};
use ekuiper_core::message::{Args, BatchReply, Rows};

use crate::description::{Declared, FunctionDescription};
use crate::error::text_of;
use crate::output::Reply;
use crate::panic::catch_panic;
use crate::{FunctionContext, Result};

/// The outcome of a call that was cancelled before it was begun, which nothing
/// waits for.
pub(crate) const CANCELLED: &str = "the call was cancelled";

/// A function as the SDK's threads call it.
pub trait RawFunction: Send {
    /// Refuses calls that can never succeed: see
    /// [`Function::validate`](crate::Function::validate).
    ///
    /// # Errors
    /// The author's error; the engine refuses the rule with its text.
    fn validate(&mut self, args: &Args<'_>) -> Result<()>;

    /// Computes the result and puts it into `reply`. The arguments are known to
    /// be well-formed only once they have been read to their end, by
    /// [`Args::read`] up to `None`, [`Args::is_over`] or [`Args::all`].
    ///
    /// # Errors
    /// The author's error, which becomes the call's result.
    fn exec(&mut self, args: &mut Args<'_>, ctx: &FunctionContext, reply: &mut Reply<'_, '_>) -> Result<()>;

    /// Computes the result of each row of a batch. The default calls
    /// [`exec`](Self::exec) for each row; an implementation that replaces it
    /// must put a result or an error for each row, in order, as [`each_row`]
    /// does.
    ///
    /// # Errors
    /// The batch as a whole cannot be read.
    fn exec_batch(&mut self, rows: &mut Rows<'_>, ctx: &FunctionContext, reply: &mut BatchReply<'_>) -> Result<()> {
        each_row(rows, ctx, reply, |row, reply| self.exec(row, ctx, &mut Reply::to_row(reply)))
    }

    /// Computes the results of rows whose arguments are columns. The default
    /// calls [`exec`](Self::exec) for each row.
    ///
    /// # Errors
    /// The author's error, or that of a row, with its number, which becomes that
    /// of the call.
    #[cfg(feature = "arrow")]
    fn exec_columns(&mut self, batch: &RecordBatch, ctx: &FunctionContext) -> Result<ArrayRef> {
        crate::columns::row_by_row(self, batch, ctx)
    }

    /// Whether each argument is the array of a window's values.
    fn is_aggregate(&self) -> bool;

    /// Describes the arguments and the result. The name and
    /// [`is_aggregate`](Self::is_aggregate) are added by the plugin.
    fn describe(&self) -> FunctionDescription {
        FunctionDescription::unknown()
    }

    /// Whether the function uses its context. If false, the context is not
    /// decoded.
    fn needs_context(&self) -> bool {
        true
    }
}

/// Calls `exec` for each row of a batch, which it reads, and whose result it
/// puts into the reply. An error or a panic is the outcome of its row alone, and
/// so is that the row was [cancelled](FunctionContext::is_cancelled) before it
/// was begun. When no further outcome fits into the longest message, the rest
/// of the rows is not executed.
///
/// # Errors
/// The batch as a whole cannot be read.
#[inline]
pub fn each_row<'a>(
    rows: &mut Rows<'a>,
    ctx: &FunctionContext,
    reply: &mut BatchReply<'_>,
    mut exec: impl FnMut(&mut Args<'a>, &mut BatchReply<'_>) -> Result<()>,
) -> Result<()> {
    let mut number = 0;
    while let Some(mut row) = rows.next_row()? {
        if reply.is_full() {
            reply.refuse_rest();
            break;
        }
        ctx.watch.go_to(number);
        number += 1;
        if ctx.is_cancelled() {
            reply.error(CANCELLED.to_owned());
        } else {
            let mark = reply.mark();
            if let Err(error) = catch_panic(|| exec(&mut row, reply)) {
                let text = text_of(&*error);
                tracing::debug!(error = text, "the call failed");
                reply.reset(mark);
                reply.error(text);
            }
        }
        rows.go_on(row)?;
    }
    Ok(())
}

/// A function of a plugin, with its concrete type erased.
pub struct BoxedFunction {
    pub(crate) function: Box<dyn RawFunction>,
    pub(crate) declared: Declared,
}

impl BoxedFunction {
    pub(crate) fn new(function: impl RawFunction + 'static) -> Self {
        Self { function: Box::new(function), declared: Declared::default() }
    }
}

/// A type that can be a plugin's function: a closure (or `fn`) of up to 12
/// arguments that implement `DeserializeOwned`, whose result is an [`Output`](crate::Output);
/// or a [`Function`](crate::Function).
///
/// After its arguments a closure may take the call's context, which is not an
/// argument of the call: `|text: String, ctx: &FunctionContext| …`.
///
/// All rules share one instance of a closure and its captured state. Its calls
/// are sequential.
///
/// Arguments are owned: `String`, not `&str`. Captures must be `Send` and
/// `'static`: `move |…|`.
///
/// Only the number of arguments is checked when a rule is created, since the
/// engine then passes nodes of its syntax tree, not values. Their types are
/// checked by each call, whose error names the argument's position and both
/// types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a plugin's function",
    label = "not a function that a plugin can serve",
    note = "a closure takes up to 12 owned arguments that implement `DeserializeOwned`, each with its type written down: `|text: String, times: u32| …`",
    note = "after these it may take `ctx: &FunctionContext`",
    note = "and returns a number, text, `Value`, list or map of such, `Json(anything that implements Serialize)`, or a `Result` of one of these"
)]
pub trait IntoFunction<Marker> {
    #[doc(hidden)]
    fn into_function(self, aggregate: bool) -> BoxedFunction;
}

/// A wrapper that makes a [`RawFunction`] a plugin's function.
pub struct Raw<F>(pub F);

/// The marker that distinguishes a [`RawFunction`] from a closure.
#[doc(hidden)]
pub struct ByRaw;

impl<F: RawFunction + 'static> IntoFunction<ByRaw> for Raw<F> {
    /// Ignores `aggregate`: [`RawFunction::is_aggregate`] decides.
    fn into_function(self, _: bool) -> BoxedFunction {
        BoxedFunction::new(self.0)
    }
}
