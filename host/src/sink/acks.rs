//! The channel on which a sink acknowledges messages, or reports how many it
//! has collected.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::Instant;

use ekuiper_core::Chain;
use ekuiper_core::buffer::trim;
use ekuiper_core::message::{AckCount, Collected, decode_ack};
use ekuiper_core::transport::{Pull, PullEvent, TransportError};
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::wait::deadline_after;

use super::tally::Tally;
use crate::channel::idle_reader::{Armer, LOOK_LIMIT, Tended, Watch, Watched};
use crate::channel::speaker::SpeakerFilter;
use crate::process::EXIT_GRACE;
use crate::sync::{lock, wake_tasks};

/// Evidence that a message was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// The sink acknowledges the message.
    Ack,
    /// The plugin reports the number of messages collected.
    Report,
    /// None; only that the plugin's process has read the message.
    Read,
}

/// Outcome of waiting for a message's acknowledgement.
pub(crate) enum Acknowledged {
    /// The sink's answer, with the reason if it rejected the message.
    Answer(std::result::Result<(), String>),
    /// An answer that cannot be decoded.
    Garbage(ekuiper_core::Error),
    /// The connection ended.
    Lost,
    /// No answer in time.
    Timeout(TransportError),
}

/// The channel on which a sink acknowledges messages, or reports what it has
/// collected.
pub(crate) struct Acks {
    pub(super) pull: Arc<dyn Pull>,
    /// Held by a caller that waits for an acknowledgement, and reads for all.
    pub(super) reading: DeadlineLock<Reading>,
    pub(super) refusals_to_tell: Mutex<Refusals>,
    /// Number of acknowledgements without a message that were not logged yet.
    pub(super) surplus: AtomicU64,
    /// Number of messages sent.
    pub(super) sent: AtomicU64,
    /// Number of messages known to be acknowledged, collected, or read;
    /// increases under `reading`.
    pub(super) acked: AtomicU64,
    /// Number of the other messages whose failure was returned to their sender.
    pub(super) told: AtomicU64,
    pub(super) receipt: Receipt,
    /// The sink may acknowledge several messages at once.
    has_counts: bool,
    pub(super) tally: Arc<Tally>,
    /// Number of rejected messages whose outcome has not been taken.
    pub(super) refusals: AtomicU64,
    tasks: Tasks,
    /// Has the idle reader read the next acknowledgement at once.
    armer: OnceLock<Arc<Armer>>,
}

/// Tasks that wait for acknowledgements.
struct Tasks {
    /// Their wakers, by the number of the message.
    wakers: Mutex<BTreeMap<u64, Vec<Waker>>>,
    /// The lowest of these numbers: `u64::MAX` when nothing waits.
    first: AtomicU64,
}

impl Tasks {
    fn add(&self, number: u64, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        let of_number = wakers.entry(number).or_default();
        if !of_number.iter().any(|other| other.will_wake(waker)) {
            of_number.push(waker.clone());
        }
        self.first.fetch_min(number, Ordering::SeqCst);
    }

    fn is_empty(&self) -> bool {
        self.first.load(Ordering::SeqCst) == u64::MAX
    }

    /// Wakes the tasks that wait for messages up to this number.
    fn wake_up_to(&self, number: u64) {
        if self.first.load(Ordering::SeqCst) > number {
            return;
        }
        let mut wakers = lock(&self.wakers);
        let later = wakers.split_off(&number.saturating_add(1));
        let due = std::mem::replace(&mut *wakers, later);
        self.first.store(wakers.keys().next().copied().unwrap_or(u64::MAX), Ordering::SeqCst);
        drop(wakers);
        wake_tasks(due.into_values().flatten());
    }
}

#[derive(Default)]
pub(crate) struct Reading {
    buffer: Vec<u8>,
    pub(crate) peers: SpeakerFilter,
    /// Latest report.
    report: Collected,
}

/// Outcomes of rejected messages.
#[derive(Default)]
pub(super) struct Refusals {
    /// Rejected messages, by number, until their outcome is taken.
    pub(super) refused: HashMap<u64, Acknowledged>,
    /// Messages whose outcome nobody will take.
    pub(super) unwanted: HashSet<u64>,
}

impl Refusals {
    /// Records that the messages up to this number were accepted.
    fn accept(&mut self, number: u64) {
        if !self.unwanted.is_empty() {
            self.unwanted.retain(|unwanted| *unwanted > number);
        }
    }

    /// Records the acknowledgement of the message with this number. Returns
    /// whether it is a refusal whose outcome may be taken, and whether it is a
    /// refusal at all.
    fn acknowledge(&mut self, number: u64, words: &[u8]) -> (bool, bool) {
        // The usual encoding of success.
        let outcome = if words == b"{}" { Ok(Ok(())) } else { decode_ack(words) };
        let is_unwanted = !self.unwanted.is_empty() && self.unwanted.remove(&number);
        let refused = match outcome {
            Ok(Ok(())) => return (false, false),
            Ok(Err(text)) => Acknowledged::Answer(Err(text)),
            Err(source) => Acknowledged::Garbage(source),
        };
        if !is_unwanted {
            self.refused.insert(number, refused);
        }
        (!is_unwanted, true)
    }
}

impl Acks {
    /// Creates the channel of a sink that is about to be started.
    pub(super) fn new(pull: Arc<dyn Pull>, receipt: Receipt, has_counts: bool, tally: Arc<Tally>) -> Self {
        let reading = Reading {
            // A report counts from the sink's start on.
            peers: if receipt == Receipt::Report { SpeakerFilter::hearing_all() } else { SpeakerFilter::default() },
            ..Reading::default()
        };
        let zero = AtomicU64::default;
        Self {
            pull,
            reading: DeadlineLock::new(reading),
            refusals_to_tell: Mutex::default(),
            surplus: zero(),
            sent: zero(),
            acked: zero(),
            told: zero(),
            receipt,
            has_counts,
            tally,
            refusals: zero(),
            tasks: Tasks { wakers: Mutex::default(), first: AtomicU64::new(u64::MAX) },
            armer: OnceLock::new(),
        }
    }

    /// Forgets what has arrived before the sink's start was answered: it is of
    /// an earlier sink at this address.
    pub(super) fn begin(&self) {
        // The idle reader may hold it.
        let Some(mut reading) = self.reading.lock(deadline_after(EXIT_GRACE)) else { return };
        let _ = self.read_pending(&mut reading);
        reading.peers.begin();
        reading.report = Collected::default();
    }

    /// Lets tasks wait for acknowledgements, which the idle reader watches.
    pub(super) fn enable_tasks(&self, watch: &Watch) {
        let _ = self.armer.set(watch.armer());
    }

    /// Has `waker` woken when the message with this number is acknowledged, or
    /// never will be.
    pub(super) fn register_task(&self, number: u64, waker: &Waker) {
        self.tasks.add(number, waker);
        if let Some(armer) = self.armer.get() {
            armer.arm();
        }
        // It may have been acknowledged meanwhile.
        self.tasks.wake_up_to(self.known());
    }

    /// Takes the refusal of the message with this number.
    pub(super) fn refused(&self, number: u64) -> Option<Acknowledged> {
        let refused = lock(&self.refusals_to_tell).refused.remove(&number)?;
        self.refusals.fetch_sub(1, Ordering::SeqCst);
        Some(refused)
    }

    /// Records that the messages up to this number were collected, or read.
    pub(crate) fn reached(&self, number: u64) {
        let known = self.acked.fetch_max(number, Ordering::SeqCst);
        self.tally.collected(number.saturating_sub(known), 0);
    }

    /// Returns the number of messages known to be collected, or read.
    pub(crate) fn known(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Takes back messages that were read, but are not known to be processed.
    pub(crate) fn takes_back(&self, messages: u64) {
        self.tally.takes_back(messages);
    }

    /// Records a report. A report of more messages than were sent is capped,
    /// and no report takes anything back.
    fn note(&self, reading: &mut Reading) {
        let report = match Collected::decode(&reading.buffer) {
            Ok(report) => report,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "not a report");
                self.surplus.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        self.reached(report.collected.min(self.sent.load(Ordering::Acquire)));
        let refused = report.refused.saturating_sub(reading.report.refused);
        self.tally.collected(0, refused);
        self.tally.refused_silently(refused);
        if report.collected > reading.report.collected {
            reading.report = report;
        }
    }

    /// Records an acknowledgement, or a number of them.
    fn acknowledge(&self, acknowledgement: &[u8]) {
        let acked = self.acked.load(Ordering::SeqCst);
        let unacknowledged = self.sent.load(Ordering::Acquire).saturating_sub(acked);
        let count = AckCount::decode(acknowledgement).filter(|_| self.has_counts);
        // No message is acknowledged before it was sent.
        let known = count.map_or(1, |AckCount(count)| u64::from(count)).min(unacknowledged);
        if known == 0 || count.is_some_and(|AckCount(count)| u64::from(count) > known) {
            self.surplus.fetch_add(1, Ordering::Relaxed);
        }
        if known == 0 {
            return;
        }
        let mut refusals = lock(&self.refusals_to_tell);
        let (is_asked_for, is_refusal) = match count {
            Some(_) => {
                refusals.accept(acked + known);
                (false, false)
            }
            None => refusals.acknowledge(acked + 1, acknowledgement),
        };
        drop(refusals);
        if is_asked_for {
            self.refusals.fetch_add(1, Ordering::SeqCst);
        }
        // Before its sender learns of it, and asks for the counts.
        self.tally.collected(known, u64::from(is_refusal));
        self.acked.store(acked + known, Ordering::SeqCst);
        self.tasks.wake_up_to(acked + known);
        self.reading.look_again();
    }

    /// Handles the next event; returns whether it is an acknowledgement of the
    /// sink.
    pub(crate) fn receive(
        &self,
        reading: &mut Reading,
        deadline: Instant,
    ) -> std::result::Result<bool, TransportError> {
        let received = self.pull.receive(&mut reading.buffer, Some(deadline));
        if let Err(error) = &received
            && !matches!(error, TransportError::Timeout)
        {
            self.tasks.wake_up_to(u64::MAX);
        }
        match received? {
            PullEvent::Message(connection) if reading.peers.said(connection) => {
                match self.receipt {
                    Receipt::Report => self.note(reading),
                    Receipt::Ack => {
                        self.acknowledge(&reading.buffer);
                        trim(&mut reading.buffer);
                    }
                    Receipt::Read => {
                        self.surplus.fetch_add(1, Ordering::Relaxed);
                    }
                }
                return Ok(true);
            }
            PullEvent::Message(_) => {}
            PullEvent::Connected(connection) => reading.peers.came(connection),
            PullEvent::Disconnected(connection) => {
                reading.peers.left(connection);
                self.tasks.wake_up_to(u64::MAX);
            }
        }
        Ok(false)
    }

    /// Reads what has arrived, without waiting; `None` if there may be more.
    fn read_pending(&self, reading: &mut Reading) -> Option<Tended> {
        reading.peers.reset_strangers();
        let mut whole = false;
        for _ in 0..LOOK_LIMIT {
            if reading.peers.is_plugin_silent() {
                return Some(Tended::Idle);
            }
            match self.receive(reading, Instant::now()) {
                Ok(is_ack) => whole |= is_ack,
                Err(TransportError::Timeout) => return Some(if whole { Tended::Idle } else { Tended::Piece }),
                Err(_) => return Some(Tended::Over),
            }
        }
        None
    }

    /// Drops the acknowledgements that have arrived while no message was
    /// unacknowledged. Returns how many were dropped since the last call, or
    /// `None` if not all could be read by the deadline.
    pub(super) fn drop_stray(&self, deadline: Instant) -> Option<u64> {
        // The idle reader may be about to read one: sent meanwhile, the message
        // would count as acknowledged by it.
        let mut reading = self.reading.lock(deadline)?;
        while self.read_pending(&mut reading).is_none() {
            if Instant::now() >= deadline {
                return None;
            }
        }
        let is_usual = self.surplus.load(Ordering::Relaxed) == 0;
        Some(if is_usual { 0 } else { self.surplus.swap(0, Ordering::Relaxed) })
    }
}

impl Watched for Acks {
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.pull.readiness()
    }

    /// A sender reads the acknowledgements itself.
    fn uses(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn has_waiting_task(&self) -> bool {
        !self.tasks.is_empty()
    }

    fn tend(&self) -> Tended {
        let reading = match self.armer.get().filter(|_| self.has_waiting_task()) {
            Some(armer) => self.reading.try_lock_or_wake(&Waker::from(armer.clone())),
            None => self.reading.try_lock(),
        };
        let Some(mut reading) = reading else { return Tended::InUse };
        // The rest of a flood is read at the next check.
        self.read_pending(&mut reading).unwrap_or(Tended::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_messages_that_were_accepted() {
        let mut refusals = Refusals::default();
        refusals.unwanted.extend([1, 3, 5]);
        refusals.accept(4);
        assert_eq!(refusals.unwanted, HashSet::from([5]));
        assert_eq!(refusals.acknowledge(5, br#"{"error":"no"}"#), (false, true));
        assert_eq!(refusals.acknowledge(6, br#"{"error":"no"}"#), (true, true));
        assert_eq!(refusals.acknowledge(7, b"{}"), (false, false));
        assert!(refusals.unwanted.is_empty() && refusals.refused.keys().eq([&6]));
    }
}
