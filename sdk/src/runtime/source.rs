//! A running source: its data channel, its thread, its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::Control;
use ekuiper_core::transport::{Endpoint, Push, TransportError};

use super::live::{Progress, Stopper};
use super::{Site, guarded};
use crate::context::Outlet;
use crate::error::text_of;
use crate::plugin::SourceFactory;
use crate::{Config, Error, Result, Source, SourceContext};

/// How long the engine may take to accept the data channel. It listens there
/// before it starts the source; where it does not any more, since the rule has
/// gone meanwhile, its next command is not to wait as long as it waits for the
/// answer (5 s).
const CONNECT: Duration = Duration::from_secs(3);

/// How long a source that is over waits until its last tuples have left.
const LINGER: Duration = Duration::from_secs(1);

/// The push end of a channel; shared with whoever closes it. Messages leave
/// together where they follow each other quickly.
pub(super) struct Channel(pub(super) Arc<dyn Push>);

impl Outlet for Channel {
    fn send(&self, message: &[u8]) -> Result<(), TransportError> {
        loop {
            match self.0.post(message, None) {
                // The peer went away in the middle of it, and has therefore
                // not got it: the next one does.
                Err(TransportError::Disconnected) => {}
                sent => return sent,
            }
        }
    }
}

/// A source's whole life, on its thread.
pub(super) fn live(
    site: &Site,
    make: &SourceFactory,
    control: Control,
    format: Format,
    data: Address,
    progress: &Progress,
) -> Result<()> {
    let mut source = guarded(|| Ok(make()))?;
    let config = Config::from(control.config.clone().unwrap_or_default());
    guarded(|| source.configure(control.datasource(), &config))?;
    let push = site.transport.push(&Endpoint::Dial(data.clone()), &site.options);
    let fail = |source| Error::Transport { what: format!("data channel {data}"), source };
    let push: Arc<dyn Push> = Arc::from(push.map_err(fail)?);
    // The engine learns of the source's end by the connection's: there must
    // have been one, also where no tuple is ever sent.
    let waiting = push.clone();
    progress.waits(move || waiting.close());
    push.connect(Some(Instant::now() + CONNECT)).map_err(fail)?;
    let ctx = SourceContext::new(control.meta, format, Box::new(Channel(push.clone())));
    let (stopped, closed) = (ctx.clone(), push.clone());
    let stopper = Stopper::by_asking(move || {
        stopped.stop();
        // Ends an `emit` that waits for a slow engine.
        closed.close();
    });
    if progress.running(stopper) {
        let (opened, closed) = run(&mut *source, &ctx, || progress.ending());
        if let Err(error) = opened.and(closed) {
            tracing::error!(error = text_of(&*error), "the source failed");
        }
        let _ = push.flush(Some(Instant::now() + LINGER));
    }
    push.close();
    Ok(())
}

/// Opens a source and closes it; both outcomes. The engine is told why one
/// ends by itself that does not want to; one that is stopped may end as it
/// likes. `ending` is called in between.
pub(crate) fn run(source: &mut dyn Source, ctx: &SourceContext, ending: impl FnOnce()) -> (Result<()>, Result<()>) {
    let mut opened = guarded(|| source.open(ctx));
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
    let closed = guarded(|| source.close(ctx));
    ctx.over();
    (opened, closed)
}
