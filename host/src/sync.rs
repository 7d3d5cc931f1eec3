//! The one way to lock a mutex of this crate. Where a wait is held under a lock,
//! the lock is a [`DeadlineLock`](ekuiper_transport_ipc::lock::DeadlineLock).

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, whatever has panicked under it: what it protects is whole
/// after every statement.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
