//! The news that a peer has connected to a listener: from libnng's threads,
//! which count connections, to the watcher thread.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ekuiper_core::sync::{lock, wait_while};

/// Whether a peer has connected since the watcher last looked.
static ARRIVED: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

/// Reports that a peer has connected to any listener.
pub(crate) fn report() {
    *lock(&ARRIVED) = true;
    CHANGED.notify_one();
}

/// Waits for a report since the previous call, for at most `timeout`.
pub(crate) fn wait(timeout: Duration) {
    *wait_while(&CHANGED, lock(&ARRIVED), timeout, |arrived| !*arrived) = false;
}
