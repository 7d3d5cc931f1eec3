//! A running function: its channel and its thread. The thread that receives a
//! call carries it out and answers it.

use std::sync::{Arc, PoisonError};

use ekuiper_core::message::{Call, CallKind, encode_error, encode_result};
use ekuiper_core::transport::Request;

use super::control::{Key, Live, StartFailure, launch};
use super::{Site, channel, guarded};
use crate::closure::ErasedFunction;
use crate::plugin::SharedFunction;
use crate::{Error, FunctionContext, Result};

pub(super) fn start(site: &Site, key: &Key, shared: SharedFunction) -> Result<Live, StartFailure> {
    let site = site.clone();
    let symbol = key.1.clone();
    launch(key, move |report| {
        let address = site.folder.function(&symbol)?;
        let what = format!("function channel {address}");
        let request = site.transport.request(&address, &site.options);
        let request: Arc<dyn Request> =
            Arc::from(request.map_err(|source| Error::Transport { what: what.clone(), source })?);
        let closed = request.clone();
        let _ = report.send(Ok(Box::new(move || closed.close())));
        let mut function = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let served = channel::serve(&*request, None, |call, reply| answer(&mut **function, call, reply));
        if let Err(error) = served {
            tracing::error!(%error, "{what} failed");
        }
        Ok(())
    })
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
        tracing::debug!(%error, "the call failed");
        reply.truncate(start);
        encode_error(reply, &error.to_string());
    }
}
