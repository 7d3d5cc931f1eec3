//! The receiving end of a source's data channel, for one process of its
//! plugin.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Deadline, Endpoint, Pull, PullEvent, Result, TransportError};

use crate::dependents::Dependent;
use crate::peers::Peers;
use crate::process::EXIT_GRACE;
use crate::running::Running;
use crate::site::lock;

/// How often it is looked whether somebody still receives.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Inlet {
    pub(crate) running: Arc<Running>,
    pull: Box<dyn Pull>,
    reading: Mutex<Reading>,
    /// The source has connected.
    connected: AtomicBool,
}

#[derive(Default)]
struct Reading {
    /// Read before the socket was closed, for whoever receives.
    backlog: VecDeque<Vec<u8>>,
    peers: Peers,
    over: bool,
}

impl Reading {
    /// Takes note of what has come; whether it is a message of the source's.
    fn note(&mut self, event: PullEvent) -> bool {
        match event {
            PullEvent::Message(connection) if self.peers.said(connection) => return true,
            PullEvent::Message(connection) => {
                tracing::debug!(?connection, "a message to a source's channel that is not the source's was dropped");
            }
            PullEvent::Connected(connection) => self.peers.came(connection),
            PullEvent::Disconnected(connection) => {
                self.peers.left(connection);
                self.over = self.peers.is_over();
            }
        }
        false
    }
}

impl Inlet {
    pub(crate) fn listen(running: &Arc<Running>, address: &Address) -> Result<Arc<Self>> {
        let options = running.site.options.transport();
        let pull = running.site.transport.pull(&Endpoint::Listen(address.clone()), &options)?;
        let inlet = Arc::new(Self {
            running: running.clone(),
            pull,
            reading: Mutex::default(),
            connected: AtomicBool::new(false),
        });
        running.depends(&(inlet.clone() as Arc<dyn Dependent>));
        Ok(inlet)
    }

    /// The next message, in `buffer`; false when no more will come.
    ///
    /// # Errors
    /// The transport's, [`TransportError::Timeout`] for one.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<bool> {
        let mut reading = lock(&self.reading);
        if let Some(message) = reading.backlog.pop_front() {
            *buffer = message;
            return Ok(true);
        }
        while !reading.over {
            match self.pull.receive(buffer, deadline) {
                Ok(event) => {
                    if matches!(event, PullEvent::Connected(_)) {
                        self.connected.store(true, Ordering::SeqCst);
                    }
                    if reading.note(event) {
                        return Ok(true);
                    }
                    if reading.peers.has_heard_the_plugin() && deadline.is_some_and(|end| Instant::now() >= end) {
                        return Err(TransportError::Timeout);
                    }
                }
                Err(TransportError::Closed) => reading.over = true,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Reads what the process, which has ended, has sent, and closes the
    /// socket: its address is free then.
    pub(crate) fn retire(&self) {
        let mut reading = self.stop_waiting();
        let mut buffer = Vec::new();
        reading.peers.listen_anew();
        while !reading.over && !reading.peers.has_heard_the_plugin() {
            match self.pull.receive(&mut buffer, Some(Instant::now())) {
                Ok(event) => {
                    if reading.note(event) {
                        reading.backlog.push_back(std::mem::take(&mut buffer));
                    }
                }
                Err(_) => break,
            }
        }
        reading.over = true;
        self.pull.close();
    }

    /// Whoever receives sees the end of the source's connection at once. Only
    /// a stranger's connection may keep it waiting: not for long.
    fn stop_waiting(&self) -> MutexGuard<'_, Reading> {
        let give_up = Instant::now() + EXIT_GRACE;
        while Instant::now() < give_up {
            match self.reading.try_lock() {
                Ok(reading) => return reading,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            }
        }
        self.pull.close();
        lock(&self.reading)
    }

    /// Drops what still comes until the source has closed its connection, or
    /// the deadline; whether it has. One that never was has ended.
    pub(crate) fn has_ended(&self, deadline: Instant) -> bool {
        let mut buffer = Vec::new();
        loop {
            let connected = self.connected.load(Ordering::SeqCst);
            match self.receive(&mut buffer, Some(if connected { deadline } else { Instant::now() })) {
                Ok(false) => return true,
                Ok(true) if Instant::now() < deadline => {}
                Ok(true) => return false,
                Err(_) if self.connected.load(Ordering::SeqCst) && Instant::now() < deadline => {}
                Err(_) => return !self.connected.load(Ordering::SeqCst),
            }
        }
    }
}

impl Dependent for Inlet {
    /// What a connection still holds is delivered, its end then follows. If
    /// there is none, whoever waits is waiting in vain.
    fn process_ended(&self) {
        if !self.connected.load(Ordering::SeqCst) {
            match self.reading.try_lock() {
                // Nobody has looked yet.
                Ok(reading) => {
                    drop(reading);
                    self.retire();
                }
                Err(_) => self.pull.close(),
            }
        }
    }

    fn close(&self) {
        self.pull.close();
    }
}
