//! Busy-polling for the answer to a call, where that pays off.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ekuiper_transport_ipc::wait::deadline_after;

/// Maximum number of waits without busy-polling after busy-polling has not paid
/// off, as a power of two.
const MAX_SKIPS: u32 = 10;

/// Decides whether busy-polling pays off.
#[derive(Default)]
pub(super) struct Spin {
    /// Number of waits to come without busy-polling.
    skips: AtomicU32,
    /// Number of times in a row that it did not pay off.
    failures: AtomicU32,
}

impl Spin {
    /// Busy-polls until `done`, at most for this time, unless it is to be skipped.
    pub(super) fn until(&self, patience: Duration, mut done: impl FnMut() -> bool) {
        let skips = self.skips.load(Ordering::Relaxed);
        if skips > 0 {
            self.skips.store(skips - 1, Ordering::Relaxed);
            return;
        }
        let give_up = deadline_after(patience);
        loop {
            if done() {
                self.failures.store(0, Ordering::Relaxed);
                return;
            }
            if Instant::now() >= give_up {
                break;
            }
            std::hint::spin_loop();
        }
        let failures = (self.failures.load(Ordering::Relaxed) + 1).min(MAX_SKIPS);
        self.failures.store(failures, Ordering::Relaxed);
        self.skips.store(1 << failures, Ordering::Relaxed);
    }
}
