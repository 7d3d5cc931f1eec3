//! The receiving end of a source's data channel, for one process of its
//! plugin.
//!
//! A source that nobody reads waits, as long as it can. One on an official SDK
//! cannot: in Python it gives up after a second without progress, in Go it
//! drops what it could not send by then. So for those the idle reader reads what
//! nobody has read for [`STALL`], into a backlog that readers are given first:
//! twice what the kernel keeps for the source, so that this can go on, and then
//! it is held up again. When
//! the backlog is full, the source is overrun: no more is read, and the reader
//! is told after what was kept.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Deadline, Pull, PullEvent, Result, TransportError};
use rustix::net::sockopt::socket_send_buffer_size;

use super::backlog::{Backlog, Bounds};
use crate::channel::idle_reader::{LOOK_LIMIT, Tended, Watched};
use crate::channel::speaker::SpeakerFilter;
use crate::plugin::running::Running;
use crate::process::EXIT_GRACE;
use crate::sync::lock;

/// How often it is looked whether somebody still receives.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// For how long a source on an official SDK may be held up: half of what it
/// takes.
const STALL: Duration = Duration::from_millis(500);

/// How soon the idle reader looks again when somebody was just reading.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// For how long the idle reader reads on before the source is held up again.
/// libnng hands messages over one by one: that none is there means little.
const SPELL: Duration = Duration::from_millis(100);

/// What the shortest message takes of the kernel's buffer, in bytes.
const LEAST: usize = 768;

pub(crate) struct SourceConnection {
    pub(crate) running: Arc<Running>,
    pull: Arc<dyn Pull>,
    reading: Mutex<Reading>,
    /// The source has connected.
    connected: AtomicBool,
    /// How much is kept of a source that cannot wait, or is being started.
    bounds: Bounds,
    /// It is on an official SDK.
    cannot_wait: bool,
    /// Its start is not answered yet: it is read, or its plugin might never
    /// come to the answer.
    is_starting: AtomicBool,
    /// Called when that was not enough.
    on_overrun: Box<dyn Fn() + Send + Sync>,
    /// Its source is started again, at another connection.
    is_replaced: AtomicBool,
}

#[derive(Default)]
struct Reading {
    /// Read before anybody asked for it.
    backlog: Backlog,
    /// Since when the source may be waiting for a reader.
    unread_since: Option<Instant>,
    /// The idle reader reads on.
    spell: Option<Spell>,
    /// The backlog is full: the first of what comes after it is lost.
    overrun: Option<Overrun>,
    peers: SpeakerFilter,
    over: bool,
}

/// What the idle reader has read at a time.
struct Spell {
    until: Instant,
    messages: usize,
    bytes: usize,
}

impl Spell {
    fn begin(now: Instant) -> Self {
        Self { until: now + SPELL, messages: 0, bytes: 0 }
    }

    /// Whether all that the kernel may have kept is read: the source goes on.
    fn is_enough(&self) -> bool {
        let enough = 2 * send_buffer();
        self.bytes >= enough || self.messages >= enough / LEAST
    }
}

/// How much the kernel keeps for a source that has set nothing else, in bytes.
fn send_buffer() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let size = UnixDatagram::unbound().ok().and_then(|socket| socket_send_buffer_size(&socket).ok());
        size.unwrap_or(208 << 10)
    })
}

/// How much was kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overrun {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What a reader gets.
pub(crate) enum Received {
    Message,
    /// No more will come.
    End,
    /// The source had to be ended.
    Overrun(Overrun),
}

impl Reading {
    /// Takes note of what has come; whether it is a message of the source's.
    fn note(&mut self, event: PullEvent) -> bool {
        match event {
            PullEvent::Message(connection) if self.peers.said(connection) => return true,
            PullEvent::Message(connection) => {
                tracing::debug!(?connection, "a message that is not the source's was dropped");
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

impl SourceConnection {
    /// Listens for the source. `on_overrun` is called, from the idle reader's
    /// thread, when it has been overrun.
    pub(crate) fn listen(
        running: &Arc<Running>,
        address: &Address,
        on_overrun: impl Fn() + Send + Sync + 'static,
    ) -> Result<Arc<Self>> {
        let options = &running.site.options;
        let pull = running.scope.pull(address)?;
        Ok(Arc::new(Self {
            running: running.clone(),
            pull,
            reading: Mutex::default(),
            connected: AtomicBool::new(false),
            bounds: options.source_queue,
            cannot_wait: running.uses_official_sdk(),
            is_starting: AtomicBool::new(true),
            on_overrun: Box::new(on_overrun),
            is_replaced: AtomicBool::new(false),
        }))
    }

    /// The source's start is answered. Whether the idle reader is still to watch
    /// it.
    pub(crate) fn has_started(&self) -> bool {
        self.is_starting.store(false, Ordering::SeqCst);
        self.cannot_wait
    }

    /// The next message, in `buffer`, or why there is none.
    ///
    /// # Errors
    /// The transport's, [`TransportError::Timeout`] for one.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<Received> {
        let mut reading = lock(&self.reading);
        if let Some(message) = reading.backlog.pop() {
            *buffer = message;
            return Ok(Received::Message);
        }
        if let Some(overrun) = reading.overrun {
            return Ok(Received::Overrun(overrun));
        }
        let received = self.await_message(&mut reading, buffer, deadline)?;
        Ok(if received { Received::Message } else { Received::End })
    }

    /// The next message from the socket; false when no more will come.
    fn await_message(&self, reading: &mut Reading, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<bool> {
        while !reading.over {
            match self.await_event(reading, buffer, deadline) {
                Ok(event) => {
                    if self.note(reading, event) {
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

    fn await_event(&self, reading: &mut Reading, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent> {
        if self.cannot_wait {
            let now = Instant::now();
            match self.pull.receive(buffer, Some(now)) {
                // All is read: the source does not wait.
                Err(TransportError::Timeout) => (reading.unread_since, reading.spell) = (None, None),
                received => return received,
            }
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Err(TransportError::Timeout);
            }
        }
        self.pull.receive(buffer, deadline)
    }

    fn note(&self, reading: &mut Reading, event: PullEvent) -> bool {
        if matches!(event, PullEvent::Connected(_)) {
            self.connected.store(true, Ordering::SeqCst);
        }
        reading.note(event)
    }

    /// Reads what nobody has read, as long as there is something, and until it
    /// is enough for now.
    fn spill(&self, reading: &mut Reading, mut spell: Spell) -> Tended {
        let mut buffer = Vec::new();
        reading.peers.listen_anew();
        while !reading.over {
            if reading.peers.has_heard_the_plugin() {
                return Tended::Later(Instant::now() + NEXT_LOOK);
            }
            match self.pull.receive(&mut buffer, Some(Instant::now())) {
                Ok(event) => {
                    if !self.note(reading, event) {
                        continue;
                    }
                    spell.messages += 1;
                    spell.bytes += buffer.len();
                    reading.backlog.push(std::mem::take(&mut buffer));
                    if reading.backlog.is_full(self.bounds) {
                        let (messages, bytes) = reading.backlog.size();
                        reading.overrun = Some(Overrun { messages, bytes });
                        return Tended::Over;
                    }
                    if spell.is_enough() {
                        let now = Instant::now();
                        reading.unread_since = Some(now);
                        return Tended::Later(now + STALL);
                    }
                }
                Err(TransportError::Timeout) => {
                    // Or it is a piece of one: the rest is read when it comes.
                    let whole = spell.messages > 0;
                    reading.spell = Some(spell);
                    return if whole { Tended::Idle } else { Tended::Piece };
                }
                Err(_) => return Tended::Over,
            }
        }
        Tended::Over
    }

    /// Reads what is there, as far as it is kept: the source waits then.
    fn read_ahead(&self, reading: &mut Reading) -> Tended {
        let mut buffer = Vec::new();
        let mut whole = false;
        reading.peers.listen_anew();
        for _ in 0..LOOK_LIMIT {
            if reading.backlog.is_full(self.bounds) || reading.peers.has_heard_the_plugin() {
                return Tended::Later(Instant::now() + NEXT_LOOK);
            }
            match self.pull.receive(&mut buffer, Some(Instant::now())) {
                Ok(event) => {
                    if self.note(reading, event) {
                        whole = true;
                        reading.backlog.push(std::mem::take(&mut buffer));
                    }
                }
                Err(TransportError::Timeout) => return if whole { Tended::Idle } else { Tended::Piece },
                Err(_) => return Tended::Over,
            }
        }
        Tended::Idle
    }

    /// Reads what the process, which has ended, has sent, and closes the
    /// socket: its address is free then.
    pub(crate) fn retire(&self) {
        let mut reading = self.stop_waiting();
        let mut buffer = Vec::new();
        reading.peers.listen_anew();
        while !reading.over && reading.overrun.is_none() && !reading.peers.has_heard_the_plugin() {
            match self.pull.receive(&mut buffer, Some(Instant::now())) {
                Ok(event) => {
                    if reading.note(event) {
                        reading.backlog.push(std::mem::take(&mut buffer));
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

    /// Drops what was kept, and what still comes, until the source has closed
    /// its connection, or the deadline; whether it has. One that never was has
    /// ended.
    pub(crate) fn has_ended(&self, deadline: Instant) -> bool {
        let mut buffer = Vec::new();
        loop {
            let connected = self.connected.load(Ordering::SeqCst);
            let patience = Some(if connected { deadline } else { Instant::now() });
            let mut reading = lock(&self.reading);
            reading.backlog.clear();
            let received = self.await_message(&mut reading, &mut buffer, patience);
            drop(reading);
            match received {
                Ok(false) => return true,
                Ok(true) if Instant::now() < deadline => {}
                Ok(true) => return false,
                Err(_) if self.connected.load(Ordering::SeqCst) && Instant::now() < deadline => {}
                Err(_) => return !self.connected.load(Ordering::SeqCst),
            }
        }
    }

    /// Ends every wait: its address is free then.
    pub(crate) fn close(&self) {
        self.pull.close();
    }

    /// Its source is started again, at another one.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::SeqCst)
    }

    pub(crate) fn replace(&self) {
        self.is_replaced.store(true, Ordering::SeqCst);
    }
}

impl Watched for SourceConnection {
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.pull.readiness()
    }

    fn uses(&self) -> u64 {
        0
    }

    fn tend(&self) -> Tended {
        let mut reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::WouldBlock) => return Tended::Later(Instant::now() + NEXT_LOOK),
            Err(TryLockError::Poisoned(_)) => return Tended::Over,
        };
        if reading.over || reading.overrun.is_some() {
            return Tended::Over;
        }
        if self.is_starting.load(Ordering::SeqCst) {
            return self.read_ahead(&mut reading);
        }
        if !self.cannot_wait {
            return Tended::Over;
        }
        let now = Instant::now();
        let spell = match reading.spell.take() {
            Some(spell) if now < spell.until => spell,
            former => {
                if former.is_some_and(|former| former.messages > 0) {
                    reading.unread_since = None;
                }
                // Something is there: whoever receives has his time for it.
                let due = *reading.unread_since.get_or_insert(now) + STALL;
                if now < due {
                    return Tended::Later(due);
                }
                Spell::begin(now)
            }
        };
        let tended = self.spill(&mut reading, spell);
        let is_overrun = reading.overrun.is_some();
        drop(reading);
        if is_overrun {
            (self.on_overrun)();
        }
        tended
    }
}
