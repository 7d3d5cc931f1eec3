//! How far the manager's end has come, for the requests that are under way.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Maximum number of answers at the same time that may have no end of their own.
pub(crate) const STREAMS: usize = 256;

/// A stage of the manager's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Open,
    /// Answers without an end of their own end, and no further ones begin. What
    /// was asked for before is done.
    Ending,
    /// The host is being shut down: what waits for a plugin, or for more of a
    /// request, ends.
    Shutdown,
    /// The host is shut down, and no change is under way.
    Over,
}

/// The stage, and who may go on until the end.
pub(crate) struct Ending {
    stage: watch::Sender<Stage>,
    streams: Arc<Semaphore>,
}

impl Default for Ending {
    fn default() -> Self {
        Self { stage: watch::Sender::new(Stage::Open), streams: Arc::new(Semaphore::new(STREAMS)) }
    }
}

impl Ending {
    /// Enters a stage, unless it was entered before.
    pub(crate) fn advance(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let is_later = *now < stage;
            if is_later {
                *now = stage;
            }
            is_later
        });
    }

    /// Returns what tells of the end.
    pub(crate) fn watch(&self) -> End {
        End(self.stage.subscribe())
    }

    /// Takes the place of an answer without an end of its own, if there is one.
    pub(crate) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().ok()
    }
}

/// What tells of the manager's end. It does not keep the manager.
#[derive(Clone)]
pub(crate) struct End(watch::Receiver<Stage>);

impl End {
    /// Returns whether the end has come as far as this stage.
    pub(crate) fn has_come(&self, stage: Stage) -> bool {
        *self.0.borrow() >= stage
    }

    /// Waits until the end has come as far as this stage.
    pub(crate) async fn comes(&self, stage: Stage) {
        // An error is the end of the manager.
        let _ = self.0.clone().wait_for(|now| *now >= stage).await;
    }

    /// Does the work; if the end comes as far as this stage meanwhile, has it cut
    /// short.
    pub(crate) async fn cuts<T>(&self, stage: Stage, work: impl Future<Output = T>, cut: impl FnOnce()) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.comes(stage) => cut(),
        }
        work.await
    }
}
