//! Delivery counts of one sink, across all processes of its plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::plugin::Plugin;
use crate::status::EventKind;

/// Counts of the messages sent to a sink, by what is known of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Messages that were sent.
    pub sent: u64,
    /// Messages known to have been collected and not refused: acknowledged, or
    /// reported by the plugin. For a plugin that does neither (on an official
    /// SDK, without acknowledgements): messages known to have been read by its
    /// process.
    pub delivered: u64,
    /// Messages that reached the sink and were rejected. Without
    /// acknowledgements, known as far as the plugin reports it; plugins on our
    /// SDKs do.
    pub refused: u64,
}

impl Delivery {
    /// Returns the number of messages whose outcome is not known (yet):
    /// `sent - delivered - refused`.
    pub fn unknown(&self) -> u64 {
        self.sent.saturating_sub(self.delivered).saturating_sub(self.refused)
    }
}

/// Counters behind [`Delivery`].
pub(crate) struct Tally {
    plugin: Arc<Plugin>,
    symbol: String,
    sent: AtomicU64,
    /// Messages known to have been collected, rejected ones included.
    collected: AtomicU64,
    refused: AtomicU64,
    /// Messages whose failure was returned to their sender.
    told: AtomicU64,
    /// Messages already reported as lost.
    lost: AtomicU64,
}

impl Tally {
    pub(crate) fn new(plugin: Arc<Plugin>, symbol: &str) -> Self {
        let zero = AtomicU64::default;
        let symbol = symbol.to_owned();
        Self { plugin, symbol, sent: zero(), collected: zero(), refused: zero(), told: zero(), lost: zero() }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        let get = |count: &AtomicU64| count.load(Ordering::Acquire);
        // In this order: what is refused was collected, and what is collected
        // was sent before.
        let refused = get(&self.refused);
        let collected = get(&self.collected).max(refused);
        Delivery { sent: get(&self.sent).max(collected), delivered: collected - refused, refused }
    }

    /// Counts a message as sent. Only one thread at a time sends.
    pub(crate) fn sent(&self) {
        self.sent.store(self.sent.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Counts messages as collected, and some of them as refused.
    pub(crate) fn collected(&self, messages: u64, refused: u64) {
        self.collected.fetch_add(messages, Ordering::AcqRel);
        self.refused.fetch_add(refused, Ordering::AcqRel);
    }

    /// Takes back messages that were read, but will never be known to be
    /// processed.
    pub(crate) fn takes_back(&self, messages: u64) {
        let fewer = |collected: u64| Some(collected.saturating_sub(messages));
        let _ = self.collected.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
    }

    /// Counts refusals that no sender learns of.
    pub(crate) fn refused_silently(&self, messages: u64) {
        self.plugin.counters.refused.add(messages);
    }

    /// Counts a message whose failure is returned to its sender.
    pub(crate) fn told(&self) {
        self.told.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the number of messages without a known outcome.
    fn missing(&self) -> u64 {
        let told = self.told.load(Ordering::Acquire);
        self.delivery().unknown().saturating_sub(told)
    }

    /// Counts and reports all messages without a known outcome as lost, once
    /// nothing more will be known of them. Returns their number.
    pub(crate) fn give_up(&self) -> u64 {
        let missing = self.missing();
        let lost = missing.saturating_sub(self.lost.swap(missing, Ordering::AcqRel));
        if lost > 0 {
            self.plugin.counters.lost.add(lost);
            let event = EventKind::Lost { symbol: self.symbol.clone(), messages: lost };
            self.plugin.site.events.tell(self.plugin.name(), event);
        }
        missing
    }
}
