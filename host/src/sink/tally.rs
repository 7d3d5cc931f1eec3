//! What became of the messages of one sink, through all processes of its
//! plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::plugin::Plugin;
use crate::status::EventKind;

/// What is known of the messages that were sent to a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that the sink is known to have collected: it has acknowledged
    /// them, or its plugin has told so. Of a plugin that tells neither (on an
    /// official SDK, without acknowledgements): that its process is known to
    /// have read.
    pub delivered: u64,
    /// Messages that came to the sink, and that it refused: they are among
    /// `delivered` too, so the sink has taken `delivered - refused`. Without
    /// acknowledgements they are known as far as the plugin tells; those of our
    /// SDKs do.
    pub refused: u64,
}

/// Counts [`Delivery`].
pub(crate) struct Tally {
    plugin: Arc<Plugin>,
    symbol: String,
    sent: AtomicU64,
    delivered: AtomicU64,
    refused: AtomicU64,
    /// How many have failed, and whoever sent them knows.
    told: AtomicU64,
    /// How many are known to be lost, and that was told.
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

    /// A message was sent. Only one thread at a time sends.
    pub(crate) fn sent(&self) {
        self.sent.store(self.sent.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// So many more were delivered, and so many of them refused.
    pub(crate) fn delivered(&self, messages: u64, refused: u64) {
        self.delivered.fetch_add(messages, Ordering::AcqRel);
        self.refused.fetch_add(refused, Ordering::AcqRel);
    }

    /// So many that were read are not known to have been dealt with, and will
    /// not be.
    pub(crate) fn takes_back(&self, messages: u64) {
        let fewer = |delivered: u64| Some(delivered.saturating_sub(messages));
        let _ = self.delivered.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
    }

    /// So many refusals that nobody else is told of.
    pub(crate) fn refused_silently(&self, messages: u64) {
        self.plugin.counters.refused.add(messages);
    }

    /// A message has failed, and whoever sent it is told.
    pub(crate) fn told(&self) {
        self.told.fetch_add(1, Ordering::AcqRel);
    }

    /// How many messages have no known outcome.
    fn missing(&self) -> u64 {
        let told = self.told.load(Ordering::Acquire);
        let Delivery { sent, delivered, .. } = self.delivery();
        sent.saturating_sub(delivered).saturating_sub(told)
    }

    /// Nothing more will be known of the messages that were sent so far: those
    /// that have no known outcome are lost, which is counted and told. How many
    /// those are.
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
