//! What every function is underneath, for bindings of other languages: it reads
//! its arguments and writes its result without a [`Value`](crate::Value) in
//! between, whatever the codec.
//!
//! In Rust, a closure or a [`Function`](crate::Function) is what you want.

use ekuiper_core::message::Mark;
pub use ekuiper_core::message::{Arg, Args, BatchReply, Rows};

use crate::closure::{BoxedFunction, IntoFunction};
use crate::error::text_of;
pub use crate::output::Reply;
use crate::runtime::guarded;
use crate::{FunctionContext, Result};

/// A function as the plugin's threads see it.
pub trait RawFunction: Send {
    /// Refuses calls that cannot be carried out: see
    /// [`Function::validate`](crate::Function::validate).
    ///
    /// # Errors
    /// The author's; the engine refuses the rule with its text.
    fn validate(&mut self, args: &Args<'_>) -> Result<()>;

    /// Computes, and puts the result into `reply`. That the arguments are whole
    /// is known once they have been read to their end, by [`Args::read`] up to
    /// `None`, [`Args::is_over`] or [`Args::all`].
    ///
    /// # Errors
    /// The author's; it is the call's result.
    fn exec(&mut self, args: &mut Args<'_>, ctx: &FunctionContext, reply: &mut Reply<'_, '_>) -> Result<()>;

    /// Computes for each row of a batch. What stands here does so row by row;
    /// whoever can do better, may, and gives each row a result or an error, in
    /// order.
    ///
    /// # Errors
    /// The batch as a whole cannot be read.
    fn exec_batch(&mut self, rows: &mut Rows<'_>, ctx: &FunctionContext, reply: &mut BatchReply<'_>) -> Result<()> {
        while let Some(mut row) = rows.next_row()? {
            let mark = reply.mark();
            let done = guarded(|| self.exec(&mut row, ctx, &mut Reply::to_row(reply)));
            settle(reply, mark, done);
            rows.go_on(row)?;
        }
        Ok(())
    }

    /// Whether each argument is the array of a window's values.
    fn is_aggregate(&self) -> bool;

    /// Whether it looks at its context: one that does not is spared the reading
    /// of it.
    fn needs_context(&self) -> bool {
        true
    }
}

/// Sees to it that a row has either a result or an error.
#[inline]
fn settle(reply: &mut BatchReply<'_>, mark: Mark, done: Result<()>) {
    if let Err(error) = done {
        reply.reset(mark);
        reply.error(text_of(&*error));
    }
}

/// Makes a function of a [`RawFunction`].
pub struct Raw<F>(pub F);

/// Tells a [`RawFunction`] from a closure.
#[doc(hidden)]
pub struct ByRaw;

impl<F: RawFunction + 'static> IntoFunction<ByRaw> for Raw<F> {
    /// It says itself whether it is an aggregate.
    fn into_function(self, _: bool) -> BoxedFunction {
        BoxedFunction(Box::new(self.0))
    }
}
