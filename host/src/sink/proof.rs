//! What a plugin that reports nothing is known to have processed.

use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of messages that a plugin on an official SDK has read and not
/// processed: in Go one just read, those in the socket's queue (mangos,
/// `protocol/xpull`: 128), and one in `Collect`. In Python fewer.
const MAX_HELD: u64 = 130;

/// Evidence for a plugin that does not report what it has collected: the
/// messages its process had read when it became idle, once it has answered the
/// following stop. It may have been busy with something else since, or have
/// ended meanwhile.
#[derive(Default)]
pub(crate) struct Proof {
    /// Number of messages that had been sent when the wait before the stop was
    /// over.
    pub(super) awaited: AtomicU64,
    /// Number of messages known to be processed, or written off.
    settled: AtomicU64,
}

impl Proof {
    /// Records that the plugin has answered the stop, and is alive.
    pub(super) fn stopped(&self) {
        self.settled.fetch_max(self.awaited.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Returns how many of the `read` messages may not have been processed; 0
    /// in a second call.
    pub(super) fn write_off(&self, read: u64) -> u64 {
        read.saturating_sub(self.settled.swap(read, Ordering::SeqCst)).min(MAX_HELD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_proven_is_written_off_once() {
        let proof = Proof::default();
        proof.awaited.store(10, Ordering::SeqCst);
        // The stop was not answered.
        assert_eq!([proof.write_off(10), proof.write_off(10)], [10, 0]);
        proof.awaited.store(20, Ordering::SeqCst);
        proof.stopped();
        assert_eq!([proof.write_off(20), proof.write_off(1000)], [0, MAX_HELD]);
    }
}
