//! The only way to lock a mutex in this crate. A lock that is held during a
//! wait is a [`DeadlineLock`](ekuiper_transport_ipc::lock::DeadlineLock).

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, ignoring poison: the data is consistent after every
/// statement.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
