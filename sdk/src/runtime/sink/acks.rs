//! The ack channel of a sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ekuiper_core::message::{AckCount, encode_ack};
use ekuiper_core::transport::{Push, TransportError};

use crate::context::AckOutlet;
use crate::runtime::source::until_sent;
use crate::runtime::supervised::Account;

/// The maximum number of acknowledgements between two writes: while the sink
/// works on the rest of what it has read, the host sends more.
const BATCH: u32 = 64;

/// The ack channel, and the account of messages to be acknowledged.
pub(super) struct Acks {
    channel: Arc<dyn Push>,
    account: Option<Arc<Account>>,
    /// Whether the host takes the number of acknowledged messages.
    counts: bool,
    /// Whether acknowledgements are sent at once: the engine waits for them.
    is_prompt: AtomicBool,
    /// The number of acknowledgements that were posted since the last write.
    posted: AtomicU32,
}

impl Acks {
    pub(super) fn new(channel: Arc<dyn Push>, account: Option<Arc<Account>>, counts: bool) -> Self {
        Self { channel, account, counts, is_prompt: AtomicBool::new(false), posted: AtomicU32::new(0) }
    }

    /// Sets whether acknowledgements are sent at once, or may be batched.
    pub(super) fn set_prompt(&self, is_prompt: bool) {
        self.is_prompt.store(is_prompt, Ordering::Relaxed);
    }

    /// Writes the batched acknowledgements.
    ///
    /// # Errors
    /// The channel is closed, or its peer has gone.
    pub(super) fn dispatch(&self) -> Result<(), TransportError> {
        self.posted.store(0, Ordering::Relaxed);
        self.channel.dispatch(None)
    }

    fn send(&self, outcome: Result<(), &str>) -> Result<(), TransportError> {
        let one = AckCount(1).encode();
        let (ack, is_count) = match outcome {
            Ok(()) if self.counts => ((&one[..]).into(), true),
            outcome => (encode_ack(outcome), false),
        };
        if self.is_prompt.load(Ordering::Relaxed) {
            return self.channel.send(&ack, None);
        }
        match is_count {
            true => self.channel.post_merged(&ack, AckCount::merge, None)?,
            false => self.channel.post(&ack, None)?,
        }
        if self.posted.fetch_add(1, Ordering::Relaxed) + 1 >= BATCH {
            // The posted ones are lost with a peer that has gone, and written at
            // the end of a channel that is closed.
            let _ = self.dispatch();
        }
        Ok(())
    }
}

impl AckOutlet for Arc<Acks> {
    fn acknowledge(&self, outcome: Result<(), &str>) -> Result<(), TransportError> {
        if let Some(account) = &self.account {
            account.mark().acknowledging();
            // Unbatched: the ack must have been sent even if the worker dies next.
            return self.channel.send(&encode_ack(outcome), None);
        }
        until_sent(|| self.send(outcome))
    }
}
