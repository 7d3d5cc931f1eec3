//! The fate of each message of a round of one-way channels.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ekuiper_core::sync::lock;

use super::body::Stamp;

/// The record that all threads of a round share.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Messages that must not arrive: their sender was told that nothing was
    /// sent.
    refused: Mutex<HashSet<Stamp>>,
    /// Messages that must arrive: they were accepted, and a later flush
    /// succeeded.
    secured: Mutex<HashSet<Stamp>>,
    received: Mutex<HashSet<Stamp>>,
    /// Number of connections at sockets that receive until the end.
    pub(super) open: AtomicUsize,
    /// Whether all senders have ended.
    pub(super) all_sent: AtomicBool,
    sockets: AtomicUsize,
}

impl Ledger {
    /// Returns the number of a new sending socket.
    pub(super) fn new_socket(&self) -> u32 {
        self.sockets.fetch_add(1, Ordering::SeqCst) as u32
    }

    pub(super) fn refuse(&self, stamp: Stamp) {
        lock(&self.refused).insert(stamp);
    }

    pub(super) fn secure(&self, stamps: &[Stamp]) {
        lock(&self.secured).extend(stamps);
    }

    pub(super) fn receive(&self, stamp: Stamp) {
        assert!(lock(&self.received).insert(stamp), "{stamp:?} came twice");
    }

    pub(super) fn has_received(&self, stamp: Stamp) -> bool {
        lock(&self.received).contains(&stamp)
    }

    /// Messages that must arrive and have not.
    pub(super) fn missing(&self) -> Vec<Stamp> {
        lock(&self.secured).difference(&lock(&self.received)).copied().collect()
    }

    /// Messages that have arrived and must not.
    pub(super) fn unwanted(&self) -> Vec<Stamp> {
        lock(&self.refused).intersection(&lock(&self.received)).copied().collect()
    }
}
