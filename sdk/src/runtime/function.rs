//! A running function: its channel and its thread. The thread that receives a
//! call carries it out and answers it.

use std::sync::{Arc, PoisonError};

use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{BatchReply, Call, CallKind, HANDSHAKE, Rows, encode_error, encode_result};
use ekuiper_core::transport::Request;

use super::live::{Progress, Stopper};
use super::supervised::{Begin, FunctionMark, UNKNOWN_CALL};
use super::{Site, channel, guarded};
use crate::error::text_of;
use crate::output::Reply;
use crate::plugin::SharedFunction;
use crate::raw::RawFunction;
use crate::{Error, FunctionContext, Result};

/// A function's whole life, on its thread, at this channel or one of its own.
pub(super) fn live(
    site: &Site,
    shared: &SharedFunction,
    address: Address,
    channel: Option<Box<dyn Request>>,
    format: Format,
    mark: Option<FunctionMark>,
    progress: &Progress,
) -> Result<()> {
    let fail = |source| Error::Transport { what: format!("function channel {address}"), source };
    let request: Arc<dyn Request> = Arc::from(match channel {
        Some(connected) => connected,
        None => site.transport.request(&address, &site.options).map_err(fail)?,
    });
    let closed = request.clone();
    let stopper = Stopper::by_asking(move || closed.close());
    if !progress.running(stopper) {
        return Ok(());
    }
    // A former thread of the same function has ended, or is about to.
    let mut function = shared.lock().unwrap_or_else(PoisonError::into_inner);
    channel::serve(&*request, None, HANDSHAKE, &mut Server { function: &mut **function, format, mark })
        .map_err(fail)?;
    Ok(())
}

struct Server<'a> {
    function: &'a mut dyn RawFunction,
    format: Format,
    /// Absent where no guard starts this process again.
    mark: Option<FunctionMark>,
}

impl channel::Answer for Server<'_> {
    fn answer(&mut self, call: &[u8], reply: &mut Vec<u8>) {
        if self.mark.as_mut().is_some_and(|mark| mark.begin(call) == Begin::Unknown) {
            tracing::error!("the call that a former worker ended with is not executed again");
            return encode_error(self.format, reply, UNKNOWN_CALL);
        }
        answer(self.function, self.format, call, reply);
    }

    fn refuse(&mut self, text: &str, reply: &mut Vec<u8>) {
        encode_error(self.format, reply, text);
    }

    fn sent(&mut self) {
        if let Some(mark) = &mut self.mark {
            mark.end();
        }
    }
}

/// Appends the reply to a call; an error or a panic is one too.
pub(crate) fn answer(function: &mut dyn RawFunction, format: Format, call: &[u8], reply: &mut Vec<u8>) {
    let start = reply.len();
    let answered = Call::decode(format, call).map_err(Into::into).and_then(|call| {
        let done = guarded(|| carry_out(function, format, &call, reply));
        // Whatever the function makes of such a call, this is what is wrong.
        if done.is_err() && call.kind == CallKind::Exec { call.meta().map_err(Into::into).and(done) } else { done }
    });
    if let Err(error) = answered {
        let text = text_of(&*error);
        tracing::debug!(error = text, "the call failed");
        reply.truncate(start);
        encode_error(format, reply, &text);
    }
}

fn carry_out(function: &mut dyn RawFunction, format: Format, call: &Call<'_>, reply: &mut Vec<u8>) -> Result<()> {
    let context = |call: &Call<'_>| -> Result<_> {
        Ok(FunctionContext { meta: if function.needs_context() { call.meta()? } else { Default::default() } })
    };
    match call.kind {
        CallKind::Validate => {
            function.validate(&call.args)?;
            Ok(encode_result(format, reply, "")?)
        }
        CallKind::Exec => {
            let context = context(call)?;
            function.exec(&mut call.args.clone(), &context, &mut Reply::to_call(format, reply))
        }
        CallKind::Batch => {
            let context = context(call)?;
            let mut results = BatchReply::new(format, reply, call.id);
            function.exec_batch(&mut Rows::new(&call.args)?, &context, &mut results)?;
            results.finish();
            Ok(())
        }
        CallKind::IsAggregate => Ok(encode_result(format, reply, &function.is_aggregate())?),
    }
}
