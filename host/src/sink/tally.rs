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
    /// Messages known to have been collected: acknowledged, or reported by the
    /// plugin. For a plugin that does neither (on an official SDK, without
    /// acknowledgements): messages known to have been read by its process.
    pub delivered: u64,
    /// Messages that reached the sink and were rejected: they are included in
    /// `delivered`, so the sink has accepted `delivered - refused`. Without
    /// acknowledgements, known as far as the plugin reports it; plugins on our
    /// SDKs do.
    pub refused: u64,
}

/// Counters behind [`Delivery`].
pub(crate) struct Tally {
    plugin: Arc<Plugin>,
    symbol: String,
    sent: AtomicU64,
    delivered: AtomicU64,
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
        Self { plugin, symbol, sent: zero(), delivered: zero(), refused: zero(), told: zero(), lost: zero() }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        let get = |count: &AtomicU64| count.load(Ordering::Acquire);
        // In this order: what is delivered was sent before.
        let (refused, delivered) = (get(&self.refused), get(&self.delivered));
        Delivery { sent: get(&self.sent).max(delivered), delivered, refused }
    }

    /// Counts a message as sent. Only one thread at a time sends.
    pub(crate) fn sent(&self) {
        self.sent.store(self.sent.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Counts messages as delivered, and some of them as refused.
    pub(crate) fn delivered(&self, messages: u64, refused: u64) {
        self.delivered.fetch_add(messages, Ordering::AcqRel);
        self.refused.fetch_add(refused, Ordering::AcqRel);
    }

    /// Takes back messages that were read, but will never be known to be
    /// processed.
    pub(crate) fn takes_back(&self, messages: u64) {
        let fewer = |delivered: u64| Some(delivered.saturating_sub(messages));
        let _ = self.delivered.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
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
        let Delivery { sent, delivered, .. } = self.delivery();
        sent.saturating_sub(delivered).saturating_sub(told)
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
