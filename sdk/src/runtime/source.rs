//! A running source: its data channel, its thread, its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::message::Control;
use ekuiper_core::transport::{Endpoint, Push, TransportError};

use super::control::{Key, Live, StartFailure, launch};
use super::{Site, guarded};
use crate::context::Outlet;
use crate::{Error, Source, SourceContext};

/// How long a source that is over waits until its last tuples have left.
const LINGER: Duration = Duration::from_secs(1);

/// The push end of a channel; shared with whoever closes it.
pub(super) struct Channel(pub(super) Arc<dyn Push>);

impl Outlet for Channel {
    fn send(&self, message: &[u8]) -> Result<(), TransportError> {
        self.0.send(message, None)
    }
}

pub(super) fn start(
    site: &Site,
    key: &Key,
    mut source: Box<dyn Source>,
    control: Control,
) -> Result<Live, StartFailure> {
    let site = site.clone();
    launch(key, move |report| {
        let config = control.config.clone().unwrap_or_default().into();
        guarded(|| source.configure(control.datasource(), &config))?;
        let address = site.folder.data(&control.meta)?;
        let push = site.transport.push(&Endpoint::Dial(address.clone()), &site.options);
        let push: Arc<dyn Push> =
            Arc::from(push.map_err(|source| Error::Transport { what: format!("data channel {address}"), source })?);
        let ctx = Arc::new(SourceContext::new(control.meta, Box::new(Channel(push.clone()))));
        let (stopped, closed) = (ctx.clone(), push.clone());
        let _ = report.send(Ok(Box::new(move || {
            stopped.stop();
            // Ends an `emit` that waits for a slow engine.
            closed.close();
        })));
        let outcome = guarded(|| source.open(&ctx));
        match outcome {
            Ok(()) => tracing::debug!("the source is over"),
            Err(_) if ctx.is_stopped() => {}
            Err(error) => {
                tracing::error!(%error, "the source failed");
                let _ = ctx.emit_error(&error.to_string());
            }
        }
        if let Err(error) = guarded(|| source.close(&ctx)) {
            tracing::error!(%error, "the source was not closed in order");
        }
        let _ = push.flush(Some(Instant::now() + LINGER));
        push.close();
        Ok(())
    })
}
