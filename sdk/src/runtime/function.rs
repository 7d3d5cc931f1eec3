//! A running function: its channel and its thread, which receives, executes and
//! answers calls.

use std::sync::Arc;

use ekuiper_core::address::Address;
use ekuiper_core::message::{HANDSHAKE, encode_error};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::Request;

use super::channel;
use super::live::{Progress, Stopper};
use super::site::Site;
use super::supervised::{Begin, FunctionMark, UNKNOWN_CALL};
use crate::definition::SharedFunction;
use crate::invoke::{Calls, answer};
use crate::raw_function::RawFunction;
use crate::{Error, Result};

/// Runs a function on its thread, on the given channel or a new one, until it
/// is stopped. `mark` is `None` where no supervisor restarts this process.
pub(super) fn live(
    site: &Site,
    shared: &SharedFunction,
    address: Address,
    channel: Option<Box<dyn Request>>,
    calls: Calls,
    mark: Option<FunctionMark>,
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
    channel::serve(&*request, None, HANDSHAKE, &mut Server { function: &mut **function, calls, mark }).map_err(fail)?;
    Ok(())
}

struct Server<'a> {
    function: &'a mut dyn RawFunction,
    calls: Calls,
    mark: Option<FunctionMark>,
}

impl channel::Answer for Server<'_> {
    fn answer(&mut self, call: &mut Vec<u8>, reply: &mut Vec<u8>) {
        if self.mark.as_mut().is_some_and(|mark| mark.begin(call) == Begin::Unknown) {
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
        if let Some(mark) = &mut self.mark {
            mark.end();
        }
    }
}
