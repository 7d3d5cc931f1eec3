//! Receiving from several connections: one thread at a time, and what it gets.

use std::sync::{Mutex, MutexGuard, TryLockError};

use ekuiper_core::transport::{ConnectionId, PullEvent, ReplyEvent, Result, Ticket, TransportError};

use crate::wait::Closing;

/// A lock that admits one receiver at a time. A second one is refused, not kept
/// waiting: it could only take the first one's messages away.
#[derive(Debug, Default)]
pub struct ReceiverLock<T = ()>(Mutex<T>);

impl<T> ReceiverLock<T> {
    /// Creates the lock of what only the receiver needs.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Admits the caller as the receiver.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] while another thread receives,
    /// [`TransportError::Closed`] when the socket was closed meanwhile.
    #[inline]
    pub fn enter(&self, closing: &Closing) -> Result<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(value) => Ok(value),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                closing.check()?;
                Err(another_receives())
            }
        }
    }
}

/// The error of a second receiver.
#[cold]
pub fn another_receives() -> TransportError {
    TransportError::Misuse("another thread is receiving on this socket")
}

/// What a socket with several connections receives: a message, or a
/// connection's begin or end.
#[derive(Debug)]
pub enum Incoming<T> {
    /// A message of this connection.
    Message(ConnectionId, T),
    /// A peer connected.
    Connected(ConnectionId),
    /// A peer disconnected.
    Disconnected(ConnectionId),
}

/// A request that was received by a socket that replies.
#[derive(Debug)]
pub enum Asked {
    /// A request, whose body was received.
    Request(Ticket),
    /// A request longer than the limit, with its length in bytes.
    Oversized(Ticket, u64),
}

impl From<Incoming<()>> for PullEvent {
    #[inline]
    fn from(incoming: Incoming<()>) -> Self {
        match incoming {
            Incoming::Message(connection, ()) => Self::Message(connection),
            Incoming::Connected(connection) => Self::Connected(connection),
            Incoming::Disconnected(connection) => Self::Disconnected(connection),
        }
    }
}

impl From<Incoming<Asked>> for ReplyEvent {
    #[inline]
    fn from(incoming: Incoming<Asked>) -> Self {
        match incoming {
            Incoming::Message(_, Asked::Request(ticket)) => Self::Request(ticket),
            Incoming::Message(_, Asked::Oversized(ticket, length)) => Self::Oversized(ticket, length),
            Incoming::Connected(connection) => Self::Connected(connection),
            Incoming::Disconnected(connection) => Self::Disconnected(connection),
        }
    }
}

/// Fails if a message is longer than the limit.
///
/// # Errors
/// [`TransportError::TooLong`] when it is.
#[inline]
pub fn check_length(body: &[u8], max: usize) -> Result<()> {
    if body.len() > max {
        return Err(TransportError::TooLong { length: body.len() as u64, max: max as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_core::address::Address;

    #[test]
    fn a_second_receiver_is_refused_and_after_closing_told_so() {
        let closing = Closing::new(&Address::new("/tmp/nowhere.ipc").unwrap()).unwrap();
        let lock = ReceiverLock::new(1);
        let held = lock.enter(&closing).unwrap();
        assert!(matches!(lock.enter(&closing), Err(TransportError::Misuse(_))));
        closing.close();
        assert!(matches!(lock.enter(&closing), Err(TransportError::Closed)));
        drop(held);
        assert_eq!(*lock.enter(&closing).unwrap(), 1);
    }
}
