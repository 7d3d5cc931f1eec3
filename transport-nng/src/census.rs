//! Which of libnng's connections a socket has, whoever they are.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nng::{Listener, Pipe, PipeEvent};

use crate::watch;

/// Filled by libnng's threads.
#[derive(Debug)]
pub(crate) struct Census {
    /// Whoever keeps the listener is told of those who come.
    listens: bool,
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Count {
    /// The connections, and which listener accepted each.
    present: HashMap<Pipe, Option<Listener>>,
    /// How many have ever come that spoke our protocol.
    accepted: u64,
    /// Nobody waits any more.
    closed: bool,
}

impl Census {
    pub(crate) fn new(listens: bool) -> Self {
        Self { listens, count: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What libnng tells of a connection, on a thread of its own.
    pub(crate) fn notify(&self, pipe: Pipe, event: PipeEvent) {
        let mut count = self.lock();
        match event {
            PipeEvent::AddPre => drop(count.present.insert(pipe, pipe.listener())),
            PipeEvent::AddPost => count.accepted += 1,
            PipeEvent::RemovePost => drop(count.present.remove(&pipe)),
            _ => {}
        }
        drop(count);
        self.changed.notify_all();
        if self.listens && event == PipeEvent::AddPost {
            watch::ask();
        }
    }

    /// Whether a listening socket has so many connections.
    pub(crate) fn is_full(&self, max_connections: usize) -> bool {
        self.listens && self.lock().present.len() >= max_connections
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// Waits until there is no connection.
    pub(crate) fn wait_for_departure(&self) {
        let mut count = self.lock();
        while !count.present.is_empty() && !count.closed {
            count = self.changed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for `pause`, or the closing.
    pub(crate) fn rest(&self, pause: Duration) {
        let count = self.lock();
        let _ = self.changed.wait_timeout_while(count, pause, |count| !count.closed);
    }

    pub(crate) fn has_connections_of(&self, listener: Listener) -> bool {
        self.lock().present.values().any(|of| *of == Some(listener))
    }

    /// Ends every wait. What is done by [`Census::unless_closed`] is done
    /// before this returns, or never.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Does `act` with the socket still open; `None` when it may not be.
    pub(crate) fn unless_closed<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let count = self.lock();
        (!count.closed).then(act)
    }
}
