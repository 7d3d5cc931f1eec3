//! A running function: its channel and its thread. The thread that receives a
//! call carries it out and answers it.

use std::sync::{Arc, PoisonError};

use ekuiper_core::address::Address;
use ekuiper_core::message::{Call, CallKind, encode_error, encode_result};
use ekuiper_core::transport::Request;

use super::live::{Progress, Stopper};
use super::supervised::{Begin, FunctionMark, UNKNOWN_CALL};
use super::{Site, channel, guarded};
use crate::closure::ErasedFunction;
use crate::error::text_of;
use crate::plugin::SharedFunction;
use crate::{Error, FunctionContext, Result};

/// A function's whole life, on its thread.
pub(super) fn live(
    site: &Site,
    shared: &SharedFunction,
    address: Address,
    mark: Option<FunctionMark>,
    progress: &Progress,
) -> Result<()> {
    let fail = |source| Error::Transport { what: format!("function channel {address}"), source };
    let request: Arc<dyn Request> = Arc::from(site.transport.request(&address, &site.options).map_err(fail)?);
    let closed = request.clone();
    let stopper = Stopper { ask: Box::new(move || closed.close()), force: Box::new(|| {}) };
    if !progress.running(stopper) {
        return Ok(());
    }
    // A former thread of the same function has ended, or is about to.
    let mut function = shared.lock().unwrap_or_else(PoisonError::into_inner);
    channel::serve(&*request, None, &mut Server { function: &mut **function, mark }).map_err(fail)?;
    Ok(())
}

struct Server<'a> {
    function: &'a mut dyn ErasedFunction,
    /// Absent where no guard starts this process again.
    mark: Option<FunctionMark>,
}

impl channel::Answer for Server<'_> {
    fn answer(&mut self, call: &[u8], reply: &mut Vec<u8>) {
        if self.mark.as_mut().is_some_and(|mark| mark.begin(call) == Begin::Unknown) {
            tracing::error!("the call that a former worker ended with is not executed again");
            return encode_error(reply, UNKNOWN_CALL);
        }
        answer(self.function, call, reply);
    }

    fn refuse(&mut self, text: &str, reply: &mut Vec<u8>) {
        encode_error(reply, text);
    }

    fn sent(&mut self) {
        if let Some(mark) = &mut self.mark {
            mark.end();
        }
    }
}

/// Appends the reply to a call; an error or a panic is one too.
pub(crate) fn answer(function: &mut dyn ErasedFunction, call: &[u8], reply: &mut Vec<u8>) {
    let start = reply.len();
    let answered = guarded(|| {
        let call = Call::decode(call)?;
        match call.kind {
            CallKind::Validate => {
                function.validate(&call.args)?;
                Ok(encode_result(reply, "")?)
            }
            CallKind::Exec => function.exec(&call.args, &FunctionContext { meta: call.meta }, reply),
            CallKind::IsAggregate => Ok(encode_result(reply, &function.is_aggregate())?),
        }
    });
    if let Err(error) = answered {
        let text = text_of(&*error);
        tracing::debug!(error = text, "the call failed");
        reply.truncate(start);
        encode_error(reply, &text);
    }
}
