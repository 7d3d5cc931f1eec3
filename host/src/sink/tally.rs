//! Delivery counts of one sink, across all processes of its plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ekuiper_core::message::Control;

use crate::Error;
use crate::health::ledger::Counted;
use crate::health::vitals::Place;
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
    /// Counts the messages sent, and those known to have been collected,
    /// rejected ones included.
    pub(crate) counted: Arc<Counted>,
    refused: AtomicU64,
    /// Messages whose failure was returned to their sender.
    told: AtomicU64,
    /// Messages already reported as lost.
    lost: AtomicU64,
}

impl Tally {
    pub(crate) fn new(plugin: Arc<Plugin>, control: &Control) -> Self {
        let zero = AtomicU64::default;
        let symbol = control.symbol_name.clone();
        let place = Place { kind: control.plugin_type, name: symbol.clone(), meta: control.meta.clone() };
        let window = control.requires_ack().then_some(plugin.site.options.ack_window);
        let counted = plugin.ledger.sink(place, plugin.restarts(), window);
        Self { plugin, symbol, counted, refused: zero(), told: zero(), lost: zero() }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        let get = |count: &AtomicU64| count.load(Ordering::Acquire);
        // In this order: what is refused was collected, and what is collected
        // was sent before.
        let refused = get(&self.refused);
        let collected = self.counted.received_so_far().max(refused);
        Delivery { sent: self.counted.sent_so_far().max(collected), delivered: collected - refused, refused }
    }

    /// Prepares for messages that are about to be sent at this time. Only one
    /// thread at a time sends.
    pub(crate) fn sends(&self, messages: u64, at: Instant) {
        self.counted.sends(messages, at);
    }

    /// Counts them as sent.
    pub(crate) fn sent(&self, messages: u64) {
        self.counted.sent(messages);
    }

    /// Counts messages as collected, and some of them as refused.
    pub(crate) fn collected(&self, messages: u64, refused: u64) {
        self.counted.collected(messages);
        if refused > 0 {
            self.refused.fetch_add(refused, Ordering::AcqRel);
            self.counted.refused(refused);
        }
    }

    /// Takes back messages that were read, but will never be known to be
    /// processed.
    pub(crate) fn takes_back(&self, messages: u64) {
        self.counted.takes_back(messages);
    }

    /// Counts refusals that no sender learns of.
    pub(crate) fn refused_silently(&self, messages: u64) {
        if messages > 0 {
            self.counted.refused_silently(messages);
            let text = "it has refused a message, as the log of its plugin tells".to_owned();
            let (plugin, symbol) = (self.plugin.name().to_owned(), self.symbol.clone());
            self.counted.keep(&Error::Sink { plugin, symbol, text });
        }
    }

    /// Counts a message whose failure is returned to its sender.
    pub(crate) fn told(&self) {
        self.told.fetch_add(1, Ordering::AcqRel);
        self.counted.given_up(1);
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
            self.counted.lost(lost);
            let event = EventKind::Lost { symbol: self.symbol.clone(), messages: lost };
            self.plugin.site.events.tell(self.plugin.name(), event);
        }
        missing
    }
}
