//! The channel on which a sink acknowledges messages, or reports how many it has
//! collected.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::message::{Collected, decode_ack};
use ekuiper_core::transport::{Pull, PullEvent, TransportError};
use ekuiper_transport_ipc::lock::DeadlineLock;

use super::tally::Tally;
use crate::channel::idle_reader::{LOOK_LIMIT, Tended, Watched};
use crate::channel::speaker::SpeakerFilter;
use crate::sync::lock;

/// How it is known that a message was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// The sink acknowledges it.
    Ack,
    /// The plugin reports how many were.
    Report,
    /// It is not, only that the plugin's process has read it.
    Read,
}

/// What became of a message.
pub(crate) enum Acknowledged {
    /// The sink's answer: its reason when it did not take the message.
    Answer(std::result::Result<(), String>),
    /// None that can be read.
    Garbage(ekuiper_core::Error),
    /// The connection ended.
    Lost,
    /// None in time.
    Timeout(TransportError),
}

/// The channel on which a sink acknowledges, or reports what it has collected.
pub(crate) struct Acks {
    pub(super) pull: Arc<dyn Pull>,
    /// Whoever waits for an acknowledgement has it, and reads for all.
    pub(super) reading: DeadlineLock<Reading>,
    pub(super) refusals_to_tell: Mutex<Refusals>,
    /// How many came that no message was waiting for.
    pub(super) surplus: AtomicU64,
    /// How many messages were sent.
    pub(super) sent: AtomicU64,
    /// How many of them were acknowledged, collected, or read, as far as that
    /// is known; grows under `reading`.
    pub(super) acked: AtomicU64,
    /// How many of the others have failed for whoever sent them.
    pub(super) told: AtomicU64,
    pub(super) receipt: Receipt,
    pub(super) tally: Arc<Tally>,
    /// How many of those were not taken and nobody has asked for.
    pub(super) refusals: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Reading {
    buffer: Vec<u8>,
    pub(crate) peers: SpeakerFilter,
    /// The latest report.
    report: Collected,
}

/// What is to be told of messages that were not taken.
#[derive(Default)]
pub(super) struct Refusals {
    /// The messages that were not taken, by number, until somebody asks.
    pub(super) refused: HashMap<u64, Acknowledged>,
    /// Those nobody will ask for.
    pub(super) unwanted: HashSet<u64>,
}

impl Refusals {
    /// Takes note of the acknowledgement of the message with this number.
    /// Whether it is a refusal that somebody may ask for, and whether it is one
    /// at all.
    fn acknowledge(&mut self, number: u64, words: &[u8]) -> (bool, bool) {
        // As plugins mostly say it.
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
    /// The end of a sink that is about to be started.
    pub(super) fn new(pull: Arc<dyn Pull>, receipt: Receipt, tally: Arc<Tally>) -> Self {
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
            tally,
            refusals: zero(),
        }
    }

    /// Why the message with this number was not taken.
    pub(super) fn refused(&self, number: u64) -> Option<Acknowledged> {
        let refused = lock(&self.refusals_to_tell).refused.remove(&number)?;
        self.refusals.fetch_sub(1, Ordering::SeqCst);
        Some(refused)
    }

    /// This many messages were collected, or read.
    pub(crate) fn reached(&self, number: u64) {
        let known = self.acked.fetch_max(number, Ordering::SeqCst);
        self.tally.delivered(number.saturating_sub(known), 0);
    }

    /// How many messages were collected, or read.
    pub(crate) fn known(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// So many messages were read, and are not known to have been dealt with.
    pub(crate) fn takes_back(&self, messages: u64) {
        self.tally.takes_back(messages);
    }

    /// Takes note of a report. One that claims more than was sent is believed
    /// as far as that goes, and none takes anything back.
    fn note(&self, reading: &mut Reading) {
        let report = match Collected::decode(&reading.buffer) {
            Ok(report) => report,
            Err(error) => {
                tracing::debug!(%error, "not a report");
                self.surplus.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        self.reached(report.collected.min(self.sent.load(Ordering::Acquire)));
        let refused = report.refused.saturating_sub(reading.report.refused);
        self.tally.delivered(0, refused);
        self.tally.refused_silently(refused);
        if report.collected > reading.report.collected {
            reading.report = report;
        }
    }

    /// Takes what comes next; whether it is an acknowledgement of the sink's.
    pub(crate) fn receive(
        &self,
        reading: &mut Reading,
        deadline: Instant,
    ) -> std::result::Result<bool, TransportError> {
        match self.pull.receive(&mut reading.buffer, Some(deadline))? {
            PullEvent::Message(connection) if reading.peers.said(connection) => {
                if self.receipt == Receipt::Report {
                    self.note(reading);
                    return Ok(true);
                }
                let acked = self.acked.load(Ordering::SeqCst);
                if self.receipt == Receipt::Ack && acked < self.sent.load(Ordering::Acquire) {
                    let (is_asked_for, is_refusal) =
                        lock(&self.refusals_to_tell).acknowledge(acked + 1, &reading.buffer);
                    if is_asked_for {
                        self.refusals.fetch_add(1, Ordering::SeqCst);
                    }
                    self.acked.store(acked + 1, Ordering::SeqCst);
                    self.reading.look_again();
                    self.tally.delivered(1, u64::from(is_refusal));
                } else {
                    self.surplus.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(true);
            }
            PullEvent::Message(_) => {}
            PullEvent::Connected(connection) => reading.peers.came(connection),
            PullEvent::Disconnected(connection) => reading.peers.left(connection),
        }
        Ok(false)
    }
}

impl Watched for Acks {
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.pull.readiness()
    }

    /// Whoever sends reads the acks.
    fn uses(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn tend(&self) -> Tended {
        let Some(mut reading) = self.reading.try_lock() else { return Tended::InUse };
        reading.peers.listen_anew();
        let mut whole = false;
        // Whoever floods it is read on at the next look.
        for _ in 0..LOOK_LIMIT {
            if reading.peers.has_heard_the_plugin() {
                break;
            }
            match self.receive(&mut reading, Instant::now()) {
                Ok(is_ack) => whole |= is_ack,
                Err(TransportError::Timeout) => return if whole { Tended::Idle } else { Tended::Piece },
                Err(_) => return Tended::Over,
            }
        }
        Tended::Idle
    }
}
