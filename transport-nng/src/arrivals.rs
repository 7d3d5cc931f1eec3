//! The news that a peer has connected to a listener: from libnng's threads,
//! which count connections, to the watcher thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Whether a peer has connected since the watcher last looked.
static ARRIVED: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

/// Reports that a peer has connected to any listener.
pub(crate) fn report() {
    *ARRIVED.lock().unwrap_or_else(PoisonError::into_inner) = true;
    CHANGED.notify_one();
}

/// Waits for a report since the previous call, for at most `timeout`.
pub(crate) fn wait(timeout: Duration) {
    let arrived = ARRIVED.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = CHANGED.wait_timeout_while(arrived, timeout, |arrived| !*arrived);
    let (mut arrived, _) = waited.unwrap_or_else(PoisonError::into_inner);
    *arrived = false;
}
