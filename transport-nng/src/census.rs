//! The connections that libnng's threads report for a socket.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::sync::{lock, wait, wait_while};
use nng::{Listener, Pipe, PipeEvent};

use crate::arrivals;

/// The set of a socket's connections, maintained by libnng's threads.
#[derive(Debug)]
pub(crate) struct Census {
    /// Whether the socket listens: its watcher is then told of each new
    /// connection.
    listens: bool,
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Count {
    present: HashMap<Pipe, Present>,
    /// The number of connections so far that spoke our protocol.
    accepted: u64,
    /// When the latest of them ended, until that is [taken](Census::take_departure).
    departed: Option<Instant>,
    /// Whether waits have ended for good.
    closed: bool,
}

#[derive(Debug)]
struct Present {
    /// The listener that accepted the connection.
    listener: Option<Listener>,
    /// Whether it spoke our protocol: the probes of `listen` never do.
    joined: bool,
}

impl Census {
    pub(crate) fn new(listens: bool) -> Self {
        Self { listens, count: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        lock(&self.count)
    }

    /// Handles libnng's event about a connection; called on libnng's thread.
    pub(crate) fn notify(&self, pipe: Pipe, event: PipeEvent) {
        let mut count = self.lock();
        match event {
            PipeEvent::AddPre => {
                count.present.insert(pipe, Present { listener: pipe.listener(), joined: false });
            }
            PipeEvent::AddPost => {
                count.accepted += 1;
                count.present.get_mut(&pipe).into_iter().for_each(|present| present.joined = true);
            }
            PipeEvent::RemovePost if count.present.remove(&pipe).is_some_and(|present| present.joined) => {
                count.departed = Some(Instant::now());
            }
            _ => {}
        }
        drop(count);
        self.changed.notify_all();
        if self.listens && event == PipeEvent::AddPost {
            arrivals::report();
        }
    }

    /// Whether the socket listens.
    pub(crate) fn listens(&self) -> bool {
        self.listens
    }

    /// The number of connections of a listening socket that speak our protocol;
    /// 0 for a socket that dials.
    pub(crate) fn joined(&self) -> usize {
        if self.listens { self.lock().present.values().filter(|present| present.joined).count() } else { 0 }
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// Whether a connection that spoke our protocol has ended since the previous
    /// call, and none for `pause`.
    pub(crate) fn take_departure(&self, pause: Duration) -> bool {
        self.lock().departed.take_if(|departed| departed.elapsed() >= pause).is_some()
    }

    /// Waits until there is no connection.
    pub(crate) fn wait_for_departure(&self) {
        let mut count = self.lock();
        while !count.present.is_empty() && !count.closed {
            count = wait(&self.changed, count, None);
        }
    }

    /// Waits for `pause`, or until closing.
    pub(crate) fn rest(&self, pause: Duration) {
        drop(wait_while(&self.changed, self.lock(), pause, |count| !count.closed));
    }

    pub(crate) fn has_connections_of(&self, listener: Listener) -> bool {
        self.lock().present.values().any(|present| present.listener == Some(listener))
    }

    /// Ends every wait. An action of [`Census::unless_closed`] has finished
    /// before this returns, or never runs.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Runs `act` while the socket is open; `None` when it may be closed.
    pub(crate) fn unless_closed<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let count = self.lock();
        (!count.closed).then(act)
    }
}
