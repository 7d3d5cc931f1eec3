//! The shortages of descriptors of the host, which is this process: all its
//! plugins have them at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many shortages have begun or ended.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// A shortage begins, or ends.
pub(crate) fn change() {
    CHANGES.fetch_add(1, Ordering::SeqCst);
}

/// How many shortages have begun or ended.
pub(crate) fn changes() -> u64 {
    CHANGES.load(Ordering::SeqCst)
}

/// Whether the host is short of descriptors now.
pub(crate) fn is_short() -> bool {
    !changes().is_multiple_of(2)
}
