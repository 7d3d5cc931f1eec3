//! What a sink has collected, and its reports to a host that asks for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::message::Collected;
use ekuiper_core::transport::Push;
use ekuiper_transport_ipc::platform::coarse_now;

use super::stop::Stop;

/// The minimum time between two reports of collected messages.
const REPORT_PAUSE: Duration = Duration::from_millis(10);

/// The number of messages that a sink has collected, and its reports to a host
/// that has asked for them.
pub(super) struct Tally {
    stop: Arc<Stop>,
    channel: Option<Arc<dyn Push>>,
    now: Collected,
    /// The numbers last reported to the host.
    told: Collected,
    /// The encoded report.
    report: Vec<u8>,
    /// The earliest time of the next report, on the coarse clock: the precise
    /// one would cost more per message than the counting itself.
    next: Duration,
}

impl Tally {
    pub(super) fn new(stop: Arc<Stop>, channel: Option<Arc<dyn Push>>) -> Self {
        let (now, told) = Default::default();
        // The longest possible report.
        let report = Vec::with_capacity(80);
        Self { stop, channel, now, told, report, next: Duration::ZERO }
    }

    /// Counts a message that the sink has dealt with.
    pub(super) fn add(&mut self, is_refused: bool) {
        self.now.collected += 1;
        self.now.refused += u64::from(is_refused);
        self.stop.note(self.now);
        self.report_if_due();
    }

    /// Reports new numbers, at most once per [`REPORT_PAUSE`].
    pub(super) fn report_if_due(&mut self) {
        if self.channel.is_some() && self.now != self.told && coarse_now() >= self.next {
            self.report(Instant::now());
        }
    }

    /// Reports new numbers.
    pub(super) fn report(&mut self, deadline: Instant) {
        let Some(channel) = &self.channel else { return };
        if self.now != self.told {
            // A report that cannot be sent is superseded by the next.
            self.now.encode(&mut self.report);
            if channel.send(&self.report, Some(deadline)).is_ok() {
                self.told = self.now;
            }
            self.next = coarse_now() + REPORT_PAUSE;
        }
    }

    /// The longest wait that does not delay the next report.
    pub(super) fn patience(&self) -> Option<Duration> {
        let has_news = self.channel.is_some() && self.now != self.told;
        has_news.then(|| self.next.saturating_sub(coarse_now()).max(Duration::from_millis(1)))
    }
}
