//! What became of each message of a round of one-way channels.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::body::Stamp;

/// Shared by all threads of a round.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Not to arrive: its sender was told that nothing of it was sent.
    refused: Mutex<HashSet<Stamp>>,
    /// To arrive: it was taken, and a flush after that was successful.
    secured: Mutex<HashSet<Stamp>>,
    received: Mutex<HashSet<Stamp>>,
    /// Connections at sockets that receive until the end.
    pub(super) open: AtomicUsize,
    /// Nobody sends any more.
    pub(super) all_sent: AtomicBool,
    sockets: AtomicUsize,
}

impl Ledger {
    /// The number of a new sending socket.
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

    /// Messages that have not arrived and must.
    pub(super) fn missing(&self) -> Vec<Stamp> {
        lock(&self.secured).difference(&lock(&self.received)).copied().collect()
    }

    /// Messages that have arrived and must not.
    pub(super) fn unwanted(&self) -> Vec<Stamp> {
        lock(&self.refused).intersection(&lock(&self.received)).copied().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
