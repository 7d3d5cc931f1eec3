//! What is counted of one symbol while it is open.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ekuiper_core::message::{Meta, SymbolKind};

use super::latency::{Recorder, UNIT};
use super::{LastError, SymbolErrors, SymbolHealth, SymbolTotals};
use crate::error::ErrorDelivery;
use crate::status::Traffic;
use crate::sync::lock;
use crate::{Error, Result};

/// Number of rows whose beginning is remembered, at least and at most.
const ROWS: u64 = 256;
const MAX_ROWS: u64 = 1 << 16;

/// A symbol of one rule, operator and instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: SymbolKind,
    pub(crate) name: String,
    pub(crate) meta: Meta,
}

/// Counters of one symbol. Every counter is changed by atomic additions alone;
/// those that a later one is compared with are written before it, and read
/// after it.
pub(crate) struct Vitals {
    place: Place,
    opened: Instant,
    /// Restarts of the plugin before it was opened.
    restarts: u64,
    /// It was closed: no snapshot shows it.
    is_closed: AtomicBool,
    /// The plugin does not tell what it has collected.
    is_untold: AtomicBool,
    /// Rows to the plugin.
    out: AtomicU64,
    /// Rows from the plugin.
    received: AtomicU64,
    /// Those that were [taken back](Vitals::takes_back): `received` falls by as
    /// many while this is locked.
    taken_back: Mutex<u64>,
    /// Rows to the plugin that will never be answered.
    unanswered: AtomicU64,
    queue: Queue,
    errors: Errors,
    last_error: Mutex<Option<(Error, SystemTime)>>,
    latency: Option<Recorder>,
    pub(crate) lost: Counter,
    pub(crate) overruns: Counter,
    /// Refusals that no sender learns of.
    refused: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Release);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Default)]
struct Errors {
    symbol: Counter,
    timeouts: Counter,
    unknown_outcomes: Counter,
    others: Counter,
}

impl Errors {
    fn of(&self, error: &Error) -> &Counter {
        match error {
            Error::Function { .. } | Error::Source { .. } | Error::Sink { .. } => &self.symbol,
            Error::Timeout { .. } | Error::Expired { .. } => &self.timeouts,
            Error::OutcomeUnknown { .. } => &self.unknown_outcomes,
            _ => &self.others,
        }
    }
}

/// When what waits began to wait: first in, first out.
struct Queue {
    /// When each entered, by its number: [`Queue::mark`]. Later ones replace
    /// earlier ones. Its length is a power of two.
    since: Box<[AtomicU64]>,
    /// Messages of a source that entered the queue, and that left it.
    entered: AtomicU64,
    left: AtomicU64,
}

/// Bits of a mark for how often its place was used before, which tells whether
/// it is that of the number looked for, or an earlier one that is about to be
/// replaced.
const LAP: u32 = 8;

impl Queue {
    fn new(length: u64) -> Self {
        let since = (0..length.next_power_of_two()).map(|_| AtomicU64::new(0)).collect();
        Self { since, entered: AtomicU64::new(0), left: AtomicU64::new(0) }
    }

    fn place(&self, number: u64) -> &AtomicU64 {
        &self.since[(number & (self.since.len() as u64 - 1)) as usize]
    }

    fn lap(&self, number: u64) -> u64 {
        // A new queue has no marks.
        ((number >> self.since.len().trailing_zeros()) + 1) & ((1 << LAP) - 1)
    }

    /// Records that these entered, from `first` on, at this time in
    /// nanoseconds.
    fn enter(&self, first: u64, count: u64, at: u64) {
        for number in first..first + count.min(self.since.len() as u64) {
            self.place(number).store((at / UNIT) << LAP | self.lap(number), Ordering::Relaxed);
        }
    }

    /// Returns when the one with this number entered, if that is known.
    fn since(&self, number: u64) -> Option<u64> {
        let mark = self.place(number).load(Ordering::Relaxed);
        (mark & ((1 << LAP) - 1) == self.lap(number)).then_some((mark >> LAP) * UNIT)
    }
}

impl Vitals {
    fn new(place: Place, restarts: u64, latency: bool, remembered: u64) -> Self {
        let zero = AtomicU64::default;
        Self {
            place,
            opened: Instant::now(),
            restarts,
            is_closed: AtomicBool::new(false),
            is_untold: AtomicBool::new(false),
            out: zero(),
            received: zero(),
            taken_back: Mutex::default(),
            unanswered: zero(),
            queue: Queue::new(remembered),
            errors: Errors::default(),
            last_error: Mutex::default(),
            latency: latency.then(Recorder::new),
            lost: Counter::default(),
            overruns: Counter::default(),
            refused: Counter::default(),
        }
    }

    pub(super) fn of_function(place: Place, restarts: u64) -> Self {
        Self::new(place, restarts, true, ROWS)
    }

    pub(crate) fn of_source(place: Place, restarts: u64) -> Self {
        Self::new(place, restarts, false, ROWS)
    }

    /// `window`: how many messages may be unacknowledged; `None` without
    /// acknowledgements.
    pub(super) fn of_sink(place: Place, restarts: u64, window: Option<u64>) -> Self {
        let remembered = window.unwrap_or(0).clamp(ROWS, MAX_ROWS);
        Self::new(place, restarts, window.is_some(), remembered)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Hides the symbol, which was closed.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Records whether the plugin tells what it has collected.
    pub(crate) fn is_told(&self, is_told: bool) {
        self.is_untold.store(!is_told, Ordering::Relaxed);
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        let time = at.saturating_duration_since(self.opened);
        // No symbol is open for centuries.
        time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
    }

    /// Counts rows to the plugin, which [end](Rows::end) with their outcome.
    pub(crate) fn begin(&self, rows: u64, at: Instant) -> Rows<'_> {
        self.made(rows, at);
        Rows { vitals: self, rows, since: at }
    }

    /// Counts rows to the plugin.
    pub(crate) fn made(&self, rows: u64, at: Instant) {
        let first = self.out.fetch_add(rows, Ordering::Relaxed);
        self.queue.enter(first, rows, self.nanoseconds(at));
    }

    /// Prepares for the next messages of a sink, which may be acknowledged
    /// before they count as [sent](Self::sent). One thread at a time sends.
    pub(crate) fn sends(&self, messages: u64, at: Instant) {
        self.queue.enter(self.out.load(Ordering::Relaxed), messages, self.nanoseconds(at));
    }

    /// Counts messages of a sink that were sent.
    pub(crate) fn sent(&self, messages: u64) {
        self.out.fetch_add(messages, Ordering::Release);
    }

    /// Counts answers, to calls made at this time.
    pub(crate) fn answered(&self, rows: u64, since: Instant) {
        self.received.fetch_add(rows, Ordering::Release);
        if let Some(latency) = &self.latency {
            latency.record(since.elapsed(), rows);
        }
    }

    /// Counts rows to the plugin that will never be answered.
    pub(crate) fn given_up(&self, rows: u64) {
        self.unanswered.fetch_add(rows, Ordering::Release);
    }

    /// Counts messages of a sink as acknowledged, in the order in which they
    /// were sent, or reported.
    pub(crate) fn collected(&self, messages: u64) {
        if let Some(latency) = self.latency.as_ref().filter(|_| messages > 0) {
            let first = self.received.load(Ordering::Relaxed) + self.unanswered.load(Ordering::Relaxed);
            let now = self.nanoseconds(Instant::now());
            for number in first..first + messages {
                let sent = self.queue.since(number).unwrap_or(now);
                latency.record(Duration::from_nanos(now.saturating_sub(sent)), 1);
            }
        }
        self.received.fetch_add(messages, Ordering::Release);
    }

    /// Takes back messages that were read, but will never be known to be
    /// processed.
    pub(crate) fn takes_back(&self, messages: u64) {
        let mut taken_back = lock(&self.taken_back);
        let fewer = |received: u64| Some(received.saturating_sub(messages));
        let received = self.received.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
        *taken_back += received.map_or(0, |received| received.min(messages));
    }

    /// Counts a message that was read from a source, which has one reader.
    pub(crate) fn read(&self) {
        self.received.store(self.received.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Counts a message of a source that waits to be read.
    pub(crate) fn queued(&self) {
        let number = self.queue.entered.load(Ordering::Relaxed);
        self.queue.enter(number, 1, self.nanoseconds(Instant::now()));
        self.queue.entered.fetch_add(1, Ordering::Release);
    }

    /// Counts messages of a source that do not wait any more.
    pub(crate) fn unqueued(&self, messages: u64) {
        self.queue.left.fetch_add(messages, Ordering::Release);
    }

    /// Counts refusals that no sender learns of.
    pub(crate) fn refused_silently(&self, messages: u64) {
        self.refused.add(messages);
    }

    /// Counts messages that the sink has refused.
    pub(crate) fn refused(&self, messages: u64) {
        self.errors.symbol.add(messages);
    }

    /// Counts messages that may be lost.
    pub(crate) fn lost(&self, messages: u64) {
        self.lost.add(messages);
        self.errors.unknown_outcomes.add(messages);
        self.given_up(messages);
    }

    /// Counts rows that failed, and keeps the error.
    pub(crate) fn failed(&self, rows: u64, error: &Error) {
        // The engine's own doing.
        if rows == 0 || matches!(error, Error::Stopped) {
            return;
        }
        self.errors.of(error).add(rows);
        self.keep(error);
    }

    /// Keeps the error as the last one.
    pub(crate) fn keep(&self, error: &Error) {
        *lock(&self.last_error) = Some((error.clone(), SystemTime::now()));
    }

    pub(crate) fn received_so_far(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    pub(crate) fn sent_so_far(&self) -> u64 {
        self.out.load(Ordering::Acquire)
    }

    /// Returns the number of rows to the plugin, after those from it were read.
    fn rows_out(&self, received: u64) -> u64 {
        let out = self.out.load(Ordering::Acquire);
        match self.place.kind {
            // A message may be acknowledged before its sender counts it.
            SymbolKind::Sink => out.max(received),
            SymbolKind::Function | SymbolKind::Source => out,
        }
    }

    /// Returns what waits, and the age of the oldest. What came in and out is
    /// given: read before.
    fn waiting(&self, out: u64, done: u64) -> (u64, Duration) {
        let (entered, left) = match self.place.kind {
            SymbolKind::Source => {
                let left = self.queue.left.load(Ordering::Acquire);
                (self.queue.entered.load(Ordering::Acquire), left)
            }
            SymbolKind::Sink | SymbolKind::Function => (out, done),
        };
        let depth = entered.saturating_sub(left);
        if depth == 0 {
            return (0, Duration::ZERO);
        }
        // Of those that are not remembered any more, the oldest that is.
        let oldest = left.max(entered.saturating_sub(self.queue.since.len() as u64));
        let now = self.nanoseconds(Instant::now());
        // One that is about to be marked has just come.
        let since = self.queue.since(oldest).unwrap_or(now);
        (depth, Duration::from_nanos(now.saturating_sub(since)))
    }

    /// Returns what was counted so far.
    ///
    /// In this order: errors are counted after the answers that they are, and
    /// those after their calls.
    pub(crate) fn health(&self, restarts: u64) -> SymbolHealth {
        let latency = self.latency.as_ref().map(Recorder::read);
        let errors = SymbolErrors {
            symbol: self.errors.symbol.get(),
            timeouts: self.errors.timeouts.get(),
            unknown_outcomes: self.errors.unknown_outcomes.get(),
            others: self.errors.others.get(),
        };
        let unanswered = self.unanswered.load(Ordering::Acquire);
        let received = self.received.load(Ordering::Acquire);
        let out = self.rows_out(received);
        let (queue, lag) = self.waiting(out, received.saturating_add(unanswered));
        let is_told = !self.is_untold.load(Ordering::Relaxed);
        let last_error = lock(&self.last_error).clone();
        SymbolHealth {
            kind: self.place.kind,
            name: self.place.name.clone(),
            meta: self.place.meta.clone(),
            open_for: self.opened.elapsed(),
            restarts: restarts.saturating_sub(self.restarts),
            rows_out: out,
            rows_in: received,
            errors,
            lost: self.lost.get(),
            latency,
            queue: is_told.then_some(queue),
            lag: is_told.then_some(lag),
            last_error: last_error.map(|(error, at)| LastError::of(&error, at)),
        }
    }

    /// Returns its part in the symbol's totals, none of which ever decreases but
    /// for what waits.
    pub(super) fn totals(&self) -> SymbolTotals {
        let health = self.health(0);
        let read = match self.place.kind {
            SymbolKind::Sink => {
                let taken_back = lock(&self.taken_back);
                *taken_back + self.received.load(Ordering::Acquire)
            }
            SymbolKind::Function | SymbolKind::Source => health.rows_in,
        };
        SymbolTotals::of(health, read)
    }

    /// Returns its part in the plugin's traffic.
    pub(super) fn traffic(&self) -> Traffic {
        let received = self.received.load(Ordering::Acquire);
        let out = self.rows_out(received);
        let mut traffic = Traffic {
            lost: self.lost.get(),
            refused: self.refused.get(),
            overruns: self.overruns.get(),
            ..Traffic::default()
        };
        match self.place.kind {
            SymbolKind::Function => (traffic.calls, traffic.answers) = (out, received),
            SymbolKind::Sink => {
                let acks = if self.latency.is_some() { received } else { 0 };
                (traffic.messages_out, traffic.acks) = (out, acks);
            }
            SymbolKind::Source => traffic.messages_in = received,
        }
        traffic
    }
}

/// Rows to the plugin without an outcome. If there never is one, they are given
/// up.
pub(crate) struct Rows<'a> {
    vitals: &'a Vitals,
    rows: u64,
    since: Instant,
}

impl Rows<'_> {
    /// Counts this error as their outcome, and returns it.
    pub(crate) fn fail(self, error: Error) -> Error {
        let outcome: Result<()> = Err(error.clone());
        self.end(&outcome);
        error
    }

    /// Counts the outcome.
    pub(crate) fn end<T>(mut self, outcome: &Result<T>) {
        let rows = std::mem::take(&mut self.rows);
        match outcome {
            Err(error) if error.delivery() != ErrorDelivery::Answered => {
                self.vitals.failed(rows, error);
                self.vitals.given_up(rows);
            }
            Err(error) => {
                self.vitals.answered(rows, self.since);
                self.vitals.failed(rows, error);
            }
            Ok(_) => self.vitals.answered(rows, self.since),
        }
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        if self.rows > 0 {
            self.vitals.given_up(self.rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: SymbolKind) -> Place {
        Place { kind, name: "s".into(), meta: Meta::default() }
    }

    fn own_error() -> Error {
        Error::Function { plugin: "p".into(), symbol: "s".into(), text: "no".into() }
    }

    #[test]
    fn rows_wait_until_their_outcome_and_the_oldest_tells_the_lag() {
        let vitals = Vitals::of_function(place(SymbolKind::Function), 3);
        let start = vitals.opened;
        let first = vitals.begin(1, start + Duration::from_secs(1));
        let second = vitals.begin(2, start + Duration::from_secs(2));
        assert_eq!(vitals.waiting(3, 0).0, 3);
        let of = |health: &SymbolHealth| (health.rows_out, health.rows_in, health.queue);
        first.end(&Ok(()));
        let since = [0, 1, 2, 3].map(|number| vitals.queue.since(number));
        assert_eq!(since, [Some(1_000_000_000), Some(2_000_000_000), Some(2_000_000_000), None]);
        assert_eq!(of(&vitals.health(3)), (3, 1, Some(2)));
        second.end::<()>(&Err(own_error()));
        drop(vitals.begin(4, start));
        let health = vitals.health(5);
        assert_eq!((of(&health), health.restarts, health.lag), ((7, 3, Some(0)), 2, Some(Duration::ZERO)));
        assert_eq!((health.errors.symbol, health.errors.total()), (2, 2));
        assert_eq!(health.last_error.unwrap().kind, crate::ErrorKind::Function);
        assert_eq!(health.latency.unwrap().count(), 3);
    }

    #[test]
    fn the_marks_of_earlier_rounds_are_not_mistaken_for_a_number_s_own() {
        let queue = Queue::new(ROWS);
        queue.enter(0, 1, 64);
        assert_eq!((queue.since(0), queue.since(ROWS), queue.since(1)), (Some(64), None, None));
        // The last of them replaces the first.
        queue.enter(1, ROWS, 6400);
        assert_eq!((queue.since(0), queue.since(ROWS), queue.since(1)), (None, Some(6400), Some(6400)));
    }

    #[test]
    fn what_is_taken_back_does_not_lower_the_total() {
        let vitals = Vitals::of_sink(place(SymbolKind::Sink), 0, None);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..100_000 {
                    vitals.sent(2);
                    vitals.collected(2);
                    vitals.takes_back(1);
                    vitals.lost(1);
                }
            });
            let reader = scope.spawn(|| {
                let mut last = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    let totals = vitals.totals();
                    let now = (totals.rows_in, totals.rows_out);
                    assert!(last.0 <= now.0 && last.1 <= now.1, "{last:?}, then {now:?}");
                    last = now;
                }
            });
            writer.join().unwrap();
            is_over.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        let totals = vitals.totals();
        assert_eq!((vitals.health(0).rows_in, totals.rows_in, totals.lost), (100_000, 200_000, 100_000));
    }

    /// Snapshots beside counting threads never show more answers than calls, or
    /// more errors than answers.
    #[test]
    fn a_snapshot_under_load_is_consistent() {
        let vitals = Vitals::of_function(place(SymbolKind::Function), 0);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..100_000 {
                            vitals.begin(1, Instant::now()).end::<()>(&Err(own_error()));
                        }
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                let mut last = (0, 0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    let health = vitals.health(0);
                    let now = (health.errors.symbol, health.rows_in, health.rows_out);
                    assert!(now.0 <= now.1 && now.1 <= now.2, "{now:?}");
                    assert!(last.0 <= now.0 && last.1 <= now.1 && last.2 <= now.2, "{last:?}, then {now:?}");
                    last = now;
                }
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            is_over.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        let health = vitals.health(0);
        assert_eq!((health.rows_out, health.rows_in, health.queue), (200_000, 200_000, Some(0)));
    }
}
