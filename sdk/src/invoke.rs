//! The author's code: a function answers a call, a sink takes a message, a source
//! runs, and what becomes of their errors and panics. The runtime and the tests
//! have it in common.

use std::sync::Arc;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{BatchReply, Call, CallKind, FunctionMeta, Rows, encode_error, encode_result};

use crate::cancel::{CancelledCalls, Executing};
use crate::error::text_of;
use crate::output::Reply;
use crate::panic::catch_panic;
use crate::raw_function::RawFunction;
use crate::{BoxError, FunctionContext, Result, Sink, SinkContext, Source, SourceContext};

/// What is known of a function's calls.
pub(crate) struct Calls {
    pub(crate) format: Format,
    pub(crate) cancelled: Option<Arc<CancelledCalls>>,
    /// Maximum length of an answer, in bytes.
    pub(crate) limit: usize,
}

impl Calls {
    /// Calls outside of a plugin's process.
    pub(crate) fn in_test(format: Format) -> Self {
        Self { format, cancelled: None, limit: usize::MAX }
    }
}

/// Appends the reply to a call, which may be an error or a panic's text.
pub(crate) fn answer(function: &mut dyn RawFunction, calls: &Calls, call: &[u8], reply: &mut Vec<u8>) {
    let format = calls.format;
    let start = reply.len();
    let answered = Call::decode(format, call).map_err(Into::into).and_then(|call| {
        let done = catch_panic(|| carry_out(function, calls, &call, reply));
        // A malformed context is the cause, whatever error the function returned.
        if done.is_err() && call.kind == CallKind::Exec { call.meta().map_err(Into::into).and(done) } else { done }
    });
    if let Err(error) = answered {
        answer_error(format, reply, start, &error);
    }
}

/// Replaces what was written of a reply, from `start` on, by an error.
pub(crate) fn answer_error(format: Format, reply: &mut Vec<u8>, start: usize, error: &BoxError) {
    let text = text_of(&**error);
    tracing::debug!(error = text, "the call failed");
    reply.truncate(start);
    encode_error(format, reply, &text);
}

fn carry_out(function: &mut dyn RawFunction, calls: &Calls, call: &Call<'_>, reply: &mut Vec<u8>) -> Result<()> {
    let format = calls.format;
    match call.kind {
        CallKind::Validate => {
            function.validate(&call.args)?;
            Ok(encode_result(format, reply, "")?)
        }
        CallKind::Exec => {
            let mut context = FunctionContext::default();
            if function.needs_context() {
                context.meta = call.meta()?;
            }
            function.exec(&mut call.args.clone(), &context, &mut Reply::to_call(format, reply))
        }
        CallKind::Batch => carry_out_batch(function, calls, call, reply),
        CallKind::Columns => Err("the call has no columns, or this plugin is built without the feature arrow".into()),
        CallKind::IsAggregate => Ok(encode_result(format, reply, &function.is_aggregate())?),
    }
}

/// Kept out of the way of a single call.
#[inline(never)]
fn carry_out_batch(function: &mut dyn RawFunction, calls: &Calls, batch: &Call<'_>, reply: &mut Vec<u8>) -> Result<()> {
    // It ends before the answer is sent: the next batch is sent after that.
    let executing = calls.cancelled.as_ref().map(|cancelled| cancelled.begin(batch.id));
    let watch = executing.as_ref().map(Executing::watch).unwrap_or_default();
    let meta = if function.needs_context() { batch.meta()? } else { FunctionMeta::default() };
    let mut results = BatchReply::new(calls.format, reply, batch.id).within(calls.limit);
    function.exec_batch(&mut Rows::new(&batch.args)?, &FunctionContext::new(meta, watch), &mut results)?;
    results.finish();
    Ok(())
}

/// Passes one message to the sink, and acknowledges it in automatic mode.
pub(crate) fn deliver(sink: &mut dyn Sink, ctx: &SinkContext, message: &[u8]) -> Result<()> {
    ctx.begin();
    let outcome = catch_panic(|| sink.collect(ctx, message));
    ctx.end(&outcome);
    outcome
}

/// Opens and closes a source, and returns both outcomes. An error of `open` is
/// reported to the engine, unless the source was stopped. `ending` is called in
/// between.
pub(crate) fn run_source(
    source: &mut dyn Source,
    ctx: &SourceContext,
    ending: impl FnOnce(),
) -> (Result<()>, Result<()>) {
    let mut opened = catch_panic(|| source.open(ctx));
    ending();
    if let Err(error) = &opened {
        let text = text_of(&**error);
        if ctx.is_stopped() {
            tracing::debug!(error = text, "the source was stopped");
            opened = Ok(());
        } else {
            let _ = ctx.emit_error(&text);
        }
    }
    let closed = catch_panic(|| source.close(ctx));
    ctx.over();
    (opened, closed)
}
