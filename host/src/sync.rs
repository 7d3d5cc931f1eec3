//! The only way to lock a mutex in this crate. A lock that is held during a
//! wait is a [`DeadlineLock`](ekuiper_transport_ipc::lock::DeadlineLock).

pub(crate) use ekuiper_core::sync::{lock, wait, wait_while};
