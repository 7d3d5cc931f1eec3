//! A running function: its channel and its thread, which receives, executes and
//! answers calls.

use std::sync::Arc;

use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{BatchReply, Call, CallKind, FunctionMeta, HANDSHAKE, Rows, encode_error, encode_result};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::Request;

use super::channel;
use super::live::{Progress, Stopper};
use super::site::Site;
use super::supervised::{Begin, FunctionMark, UNKNOWN_CALL};
use crate::cancel::{CancelledCalls, Executing};
use crate::definition::SharedFunction;
use crate::error::text_of;
use crate::output::Reply;
use crate::panic::catch_panic;
use crate::raw_function::RawFunction;
use crate::{Error, FunctionContext, Result};

/// What is known of a function's calls.
pub(crate) struct Calls {
    pub(crate) format: Format,
    /// `None` where no supervisor restarts this process.
    pub(super) mark: Option<FunctionMark>,
    pub(super) cancelled: Option<Arc<CancelledCalls>>,
    /// Maximum length of an answer, in bytes.
    pub(super) limit: usize,
}

impl Calls {
    /// Calls outside of a plugin's process.
    pub(crate) fn in_test(format: Format) -> Self {
        Self { format, mark: None, cancelled: None, limit: usize::MAX }
    }
}

/// Runs a function on its thread, on the given channel or a new one, until it
/// is stopped.
pub(super) fn live(
    site: &Site,
    shared: &SharedFunction,
    address: Address,
    channel: Option<Box<dyn Request>>,
    calls: Calls,
    progress: &Progress,
) -> Result<()> {
    let fail = |source| Error::Transport { what: format!("function channel {address} failed"), source };
    let request: Arc<dyn Request> = Arc::from(match channel {
        Some(connected) => connected,
        None => site.transport.request(&address, &site.options).map_err(fail)?,
    });
    let closed = request.clone();
    let stopper = Stopper::by_asking(move || closed.close());
    if !progress.running(stopper) {
        return Ok(());
    }
    // A previous thread of this function has ended, or is about to.
    let mut function = lock(shared);
    channel::serve(&*request, None, HANDSHAKE, &mut Server { function: &mut **function, calls }).map_err(fail)?;
    Ok(())
}

struct Server<'a> {
    function: &'a mut dyn RawFunction,
    calls: Calls,
}

impl channel::Answer for Server<'_> {
    fn answer(&mut self, call: &mut Vec<u8>, reply: &mut Vec<u8>) {
        if self.calls.mark.as_mut().is_some_and(|mark| mark.begin(call) == Begin::Unknown) {
            tracing::error!("a call that was in flight when the previous worker died is not executed again");
            return encode_error(self.calls.format, reply, UNKNOWN_CALL);
        }
        #[cfg(feature = "arrow")]
        if ekuiper_core::message::is_columns(call) {
            return crate::columns::answer(self.function, &self.calls, call, reply);
        }
        answer(self.function, &self.calls, call, reply);
    }

    fn refuse(&mut self, text: &str, reply: &mut Vec<u8>) {
        encode_error(self.calls.format, reply, text);
    }

    fn sent(&mut self) {
        if let Some(mark) = &mut self.calls.mark {
            mark.end();
        }
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
        let text = text_of(&*error);
        tracing::debug!(error = text, "the call failed");
        reply.truncate(start);
        encode_error(format, reply, &text);
    }
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
