//! The receiving end of a source's data channel, for one process of its plugin.
//!
//! A source that is not read blocks. A source on an official SDK cannot: in
//! Python it gives up after a second without progress, in Go it drops what it
//! could not send by then. For those, the idle reader moves what was not read
//! for [`STALL`] into a backlog, which readers get first: twice the size of the
//! kernel's buffer, so that the source can continue, and then it is blocked
//! again. When the backlog is full, the source is overrun: no more is read, and
//! the reader gets the error after the backlog.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::task::Waker;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Deadline, Pull, PullEvent, Result, TransportError};
use ekuiper_transport_ipc::wait::deadline_after;
use rustix::net::sockopt::socket_send_buffer_size;

use super::backlog::{Backlog, Bounds};
use crate::channel::idle_reader::{Armer, LOOK_LIMIT, Tended, Watch, Watched};
use crate::channel::speaker::SpeakerFilter;
use crate::health::vitals::Vitals;
use crate::plugin::running::Running;
use crate::process::EXIT_GRACE;
use crate::sync::{lock, wake_tasks};

/// Interval of the check whether a reader still receives.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Maximum time for which a source on an official SDK may be blocked: half of
/// what it tolerates.
const STALL: Duration = Duration::from_millis(500);

/// Time until the idle reader checks again after finding a reader active.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// Duration of one run of the idle reader, after which the source is blocked
/// again. libnng passes messages on one by one, so an empty socket means
/// little.
const SPELL: Duration = Duration::from_millis(100);

/// Minimum size of a message in the kernel's buffer, in bytes.
const LEAST: usize = 768;

pub(crate) struct SourceConnection {
    pub(crate) running: Arc<Running>,
    pull: Arc<dyn Pull>,
    reading: Mutex<Reading>,
    /// The source has connected.
    connected: AtomicBool,
    /// Limits of the backlog of a source that cannot block, or is being
    /// started.
    bounds: Bounds,
    /// The source is on an official SDK, and gives up or drops tuples when it is
    /// blocked.
    cannot_wait: bool,
    /// The source's start is not answered yet: the source is read meanwhile, or
    /// its plugin might never answer.
    is_starting: AtomicBool,
    /// Called when the backlog overflows.
    on_overrun: Box<dyn Fn() + Send + Sync>,
    /// The source is restarted with another connection.
    is_replaced: AtomicBool,
    /// The task that waits for a message.
    task: Mutex<Option<Waker>>,
    /// Has the idle reader wake the task at the next message.
    armer: OnceLock<Arc<Armer>>,
    /// Whether the source has ended with its process, once that is known.
    ends_with_process: OnceLock<bool>,
    /// A thread finds that out, or has done so.
    has_end_check: AtomicBool,
}

struct Reading {
    /// Messages read before a reader asked for them.
    backlog: Backlog,
    /// Since when the source may be blocked.
    unread_since: Option<Instant>,
    /// The current run of the idle reader.
    spell: Option<Spell>,
    /// The backlog is full: the next message is lost.
    overrun: Option<Overrun>,
    peers: SpeakerFilter,
    over: bool,
}

/// One run of the idle reader.
struct Spell {
    until: Instant,
    messages: usize,
    bytes: usize,
}

impl Spell {
    fn begin(now: Instant) -> Self {
        Self { until: now + SPELL, messages: 0, bytes: 0 }
    }

    /// Returns whether everything in the kernel's buffer has been read, so that
    /// the source continues.
    fn is_enough(&self) -> bool {
        let enough = 2 * send_buffer();
        self.bytes >= enough || self.messages >= enough / LEAST
    }
}

/// Returns the kernel's default buffer of a source's socket, in bytes.
fn send_buffer() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let size = UnixDatagram::unbound().ok().and_then(|socket| socket_send_buffer_size(&socket).ok());
        size.unwrap_or(208 << 10)
    })
}

/// Size of the backlog at an overrun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overrun {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// How long a reader waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Deadline(Deadline),
    /// Not at all, not even for a lock: a task at this time, which has
    /// [registered](SourceConnection::register_task) or will try again.
    Task(Instant),
}

impl Until {
    pub(crate) fn deadline(self) -> Deadline {
        match self {
            Self::Deadline(deadline) => deadline,
            Self::Task(now) => Some(now),
        }
    }
}

/// What a reader receives.
pub(crate) enum Received {
    Message,
    /// The end: no more messages will arrive.
    End,
    /// The overrun that ended the source.
    Overrun(Overrun),
}

impl Reading {
    fn new(vitals: &Arc<Vitals>) -> Self {
        let (unread_since, spell, overrun, peers, over) = Default::default();
        Self { backlog: Backlog::new(vitals), unread_since, spell, overrun, peers, over }
    }

    /// Handles an event; returns whether it is a message of the source.
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
    /// thread, when the backlog overflows.
    pub(crate) fn listen(
        running: &Arc<Running>,
        address: &Address,
        vitals: &Arc<Vitals>,
        on_overrun: impl Fn() + Send + Sync + 'static,
    ) -> Result<Arc<Self>> {
        let options = &running.site.options;
        let pull = running.scope.pull(address)?;
        Ok(Arc::new(Self {
            running: running.clone(),
            pull,
            reading: Mutex::new(Reading::new(vitals)),
            connected: AtomicBool::new(false),
            bounds: options.source_queue,
            cannot_wait: running.uses_official_sdk(),
            is_starting: AtomicBool::new(true),
            on_overrun: Box::new(on_overrun),
            is_replaced: AtomicBool::new(false),
            task: Mutex::default(),
            armer: OnceLock::new(),
            ends_with_process: OnceLock::new(),
            has_end_check: AtomicBool::new(false),
        }))
    }

    /// Lets a task wait for the source, which the idle reader watches.
    pub(crate) fn enable_tasks(&self, watch: &Watch) {
        let _ = self.armer.set(watch.armer());
    }

    /// Has `waker` woken when there is something to receive.
    pub(crate) fn register_task(&self, waker: &Waker) {
        let former = lock(&self.task).replace(waker.clone());
        // Its drop may run anything, so not under the lock.
        drop(former);
        if let Some(armer) = self.armer.get() {
            armer.arm();
        }
    }

    /// Returns whether the end was received.
    pub(crate) fn is_over(&self) -> bool {
        self.is_replaced() || self.try_read().is_some_and(|reading| reading.over)
    }

    /// Returns what is read, unless another thread reads.
    fn try_read(&self) -> Option<MutexGuard<'_, Reading>> {
        match self.reading.try_lock() {
            Ok(reading) => Some(reading),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Returns whether the source has ended with its process, if that was
    /// [found out](Self::check_end).
    pub(crate) fn ends_with_process(&self) -> Option<bool> {
        self.ends_with_process.get().copied()
    }

    /// Claims the [check](Self::check_end) whether the process is ending: true
    /// for the first caller, which has a thread do it.
    pub(crate) fn begin_end_check(&self) -> bool {
        !self.is_replaced() && !self.has_end_check.swap(true, Ordering::SeqCst)
    }

    /// Finds out whether the process is ending; may block.
    pub(crate) fn check_end(&self) {
        let is_ending = self.running.is_ending(None).unwrap_or(false);
        let _ = self.ends_with_process.set(is_ending);
    }

    /// Records that the source's start is answered.
    pub(crate) fn mark_started(&self) {
        self.is_starting.store(false, Ordering::SeqCst);
    }

    /// Receives the next message into `buffer`, or returns why there is none.
    ///
    /// # Errors
    /// The transport's, for example [`TransportError::Timeout`].
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>, until: Until) -> Result<Received> {
        let mut reading = match until {
            Until::Deadline(_) => lock(&self.reading),
            // Who reads for a short time wakes the task afterwards.
            Until::Task(_) => self.try_read().ok_or(TransportError::Timeout)?,
        };
        if let Some(message) = reading.backlog.pop() {
            *buffer = message;
            return Ok(Received::Message);
        }
        if let Some(overrun) = reading.overrun {
            return Ok(Received::Overrun(overrun));
        }
        let received = self.await_message(&mut reading, buffer, until.deadline())?;
        Ok(if received { Received::Message } else { Received::End })
    }

    /// Receives the next message from the socket; returns false when no more
    /// will arrive.
    fn await_message(&self, reading: &mut Reading, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<bool> {
        while !reading.over {
            match self.await_event(reading, buffer, deadline) {
                Ok(event) => {
                    if self.note(reading, event) {
                        return Ok(true);
                    }
                    if reading.peers.is_plugin_silent() && deadline.is_some_and(|end| Instant::now() >= end) {
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
                // Everything is read, so the source is not blocked.
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

    /// Reads what a source must not be left with.
    fn read_unread(&self) -> Tended {
        let Some(mut reading) = self.try_read() else { return Tended::Later(deadline_after(NEXT_LOOK)) };
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
                // There is something to read, and the reader has its time for
                // it.
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

    /// Moves unread messages to the backlog, while there are any and the run is
    /// not over.
    fn spill(&self, reading: &mut Reading, mut spell: Spell) -> Tended {
        let mut buffer = Vec::new();
        reading.peers.reset_strangers();
        while !reading.over {
            // It may be full of what was read during the start.
            if reading.backlog.is_full(self.bounds) {
                let (messages, bytes) = reading.backlog.size();
                reading.overrun = Some(Overrun { messages, bytes });
                return Tended::Over;
            }
            if reading.peers.is_plugin_silent() {
                return Tended::Later(deadline_after(NEXT_LOOK));
            }
            match self.pull.receive(&mut buffer, Some(Instant::now())) {
                Ok(event) => {
                    if !self.note(reading, event) {
                        continue;
                    }
                    spell.messages += 1;
                    spell.bytes += buffer.len();
                    reading.backlog.push(std::mem::take(&mut buffer));
                    if spell.is_enough() && !reading.backlog.is_full(self.bounds) {
                        let now = Instant::now();
                        reading.unread_since = Some(now);
                        return Tended::Later(now + STALL);
                    }
                }
                Err(TransportError::Timeout) => {
                    // It may also be a partial message: the rest is read when
                    // it arrives.
                    let whole = spell.messages > 0;
                    reading.spell = Some(spell);
                    return if whole { Tended::Idle } else { Tended::Piece };
                }
                Err(_) => return Tended::Over,
            }
        }
        Tended::Over
    }

    /// Moves pending messages to the backlog until it is full, when the source
    /// blocks.
    fn read_ahead(&self, reading: &mut Reading) -> Tended {
        let mut buffer = Vec::new();
        let mut whole = false;
        reading.peers.reset_strangers();
        for _ in 0..LOOK_LIMIT {
            if reading.backlog.is_full(self.bounds) || reading.peers.is_plugin_silent() {
                return Tended::Later(deadline_after(NEXT_LOOK));
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

    /// Reads what a process that has ended has sent, and closes the socket,
    /// whose address is free then.
    pub(crate) fn retire(&self) {
        let mut reading = self.stop_waiting();
        let mut buffer = Vec::new();
        reading.peers.reset_strangers();
        while !reading.over && reading.overrun.is_none() && !reading.peers.is_plugin_silent() {
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

    /// Stops the current receiver, which sees the end of the source's
    /// connection at once. Only a stranger's connection may keep it waiting,
    /// for a short time.
    fn stop_waiting(&self) -> MutexGuard<'_, Reading> {
        let give_up = deadline_after(EXIT_GRACE);
        while Instant::now() < give_up {
            match self.try_read() {
                Some(reading) => return reading,
                None => std::thread::sleep(LOCK_PAUSE),
            }
        }
        self.pull.close();
        lock(&self.reading)
    }

    /// Drops the backlog and everything that still arrives, until the source
    /// has closed its connection, or the deadline. Returns whether the
    /// connection is closed; one that never existed is.
    pub(crate) fn discard_until_end(&self, deadline: Instant) -> bool {
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

    /// Ends every wait; the address is free then.
    pub(crate) fn close(&self) {
        self.pull.close();
    }

    /// Returns whether the source is restarted with another connection.
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

    /// Reads only for a source that is being started, or that cannot be blocked
    /// for long, and wakes the task, which reads by itself: afterwards, since it
    /// does not wait for this.
    fn tend(&self) -> Tended {
        let tended = self.read_unread();
        let task = lock(&self.task).take();
        wake_tasks(task);
        tended
    }
}
