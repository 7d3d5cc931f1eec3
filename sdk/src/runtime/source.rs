//! A running source: its data channel, its thread, and its end.

use std::sync::Arc;
use std::time::Duration;

use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::Control;
use ekuiper_core::transport::{Endpoint, Push, TransportError};
use ekuiper_transport_ipc::wait::deadline_after;

use super::live::{Progress, Stopper};
use super::site::Site;
use crate::configuration::Described;
use crate::context::Outlet;
use crate::definition::SourceFactory;
use crate::error::text_of;
use crate::invoke::run_source;
use crate::panic::catch_panic;
use crate::{Config, Error, Result, SourceContext};

/// The maximum wait for the engine to accept the data channel. The engine
/// listens before it starts the source. If it has stopped listening because the
/// rule was removed, its next command must not wait as long as it waits for the
/// answer (5 s).
const CONNECT: Duration = Duration::from_secs(3);

/// The maximum wait for the last tuples of an ended source to be flushed.
const LINGER: Duration = Duration::from_secs(1);

/// The push end of a channel, shared with the thread that closes it. Messages
/// that follow each other quickly are batched.
struct Channel(Arc<dyn Push>);

impl Outlet for Channel {
    fn send(&self, message: &[u8]) -> Result<(), TransportError> {
        until_sent(|| self.0.post(message, None))
    }
}

/// Sends a message, and again to the next peer as long as one disconnects before
/// it has received the whole message.
pub(super) fn until_sent(mut send: impl FnMut() -> Result<(), TransportError>) -> Result<(), TransportError> {
    loop {
        match send() {
            Err(TransportError::Disconnected) => {}
            sent => return sent,
        }
    }
}

/// Runs a source on its thread from its start to its end.
pub(super) fn live(
    site: &Site,
    make: &SourceFactory,
    described: &Described,
    control: Control,
    format: Format,
    data: Address,
    progress: &Progress,
) -> Result<()> {
    let mut source = catch_panic(|| Ok(make()))?;
    let config = Config::from(control.config.clone().unwrap_or_default());
    described.configure(&config, || source.configure(control.datasource(), &config))?;
    let push = site.transport.push(&Endpoint::Dial(data.clone()), &site.options);
    let fail = |source| Error::Transport { what: format!("data channel {data} failed"), source };
    let push: Arc<dyn Push> = Arc::from(push.map_err(fail)?);
    // The engine detects the source's end by the end of its connection, so
    // connect even if no tuple is ever sent.
    let waiting = push.clone();
    progress.waits(move || waiting.close());
    push.connect(Some(deadline_after(CONNECT))).map_err(fail)?;
    let ctx = SourceContext::new(control.meta, format, control.columns, Box::new(Channel(push.clone())));
    let (stopped, closed) = (ctx.clone(), push.clone());
    let stopper = Stopper::by_asking(move || {
        stopped.stop();
        // Unblocks an `emit` that waits for a slow engine.
        closed.close();
    });
    if progress.running(stopper) {
        let (opened, closed) = run_source(&mut *source, &ctx, || progress.ending());
        if let Err(error) = opened.and(closed) {
            tracing::error!(error = text_of(&*error), "the source failed");
        }
        let _ = push.flush(Some(deadline_after(LINGER)));
    }
    push.close();
    Ok(())
}
