//! The connections of a push socket: which one is next, and what each has room
//! for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::sp::{Connection, Event, Limits, Protocol};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Deadline, Merge, Result};
use ekuiper_transport_ipc::wait::Closing;

use crate::dial::Dialer;
use crate::flusher::Posted;
use crate::link::{Link, Written};
use crate::outbox::{Gone, MAX_GATHERED, Outbox};
use crate::spin::Spinner;

/// Minimum pause after which a message is not batched: messages further apart
/// are few, and batching would only delay them.
const PAUSE: Duration = Duration::from_micros(25);

/// The links of a socket, for closing while another thread has the peers.
#[derive(Debug, Default)]
pub(crate) struct Links {
    all: Mutex<Vec<Arc<Link>>>,
    /// The number of links so far.
    made: AtomicU64,
}

impl Links {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        lock(&self.all)
    }

    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn add(&self, link: &Arc<Link>, closing: &Closing) {
        let mut links = self.lock();
        self.made.fetch_add(1, Ordering::Relaxed);
        links.push(link.clone());
        if closing.check().is_err() {
            // `close` may have shut down the links already.
            link.shutdown();
        }
    }

    fn remove(&self, link: &Link) {
        link.shutdown();
        self.lock().retain(|other| other.id != link.id);
    }
}

/// The conditions under which a message is sent.
pub(crate) struct Terms<'a> {
    pub(crate) closing: &'a Closing,
    pub(crate) stall: Duration,
    pub(crate) deadline: Deadline,
    pub(crate) posted: &'a Posted,
    /// Whether the message may be batched.
    pub(crate) may_wait: bool,
    /// Adds a message that may be batched to the last one, if possible.
    pub(crate) merge: Option<Merge>,
}

#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) dialer: Option<Dialer>,
    pub(crate) slots: Vec<Slot>,
    /// The slot that is offered the next message.
    turn: usize,
    /// Maximum time to busy-poll for room in a connection.
    spin: Duration,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) link: Arc<Link>,
    pub(crate) connection: Connection,
    gone: bool,
    outbox: Outbox,
    spinner: Spinner,
    /// The instant at which a posted message was last written.
    left_at: Instant,
}

impl Peers {
    /// Creates the state without connections; a listening socket has no
    /// dialler.
    pub(crate) fn new(dialer: Option<Dialer>, spin: Duration) -> Self {
        Self { dialer, slots: Vec::new(), turn: 0, spin }
    }

    pub(crate) fn any_is_ready(&self) -> bool {
        self.slots.iter().any(|slot| slot.connection.is_ready())
    }

    /// Offers the message to each ready peer, beginning with the one whose turn
    /// it is; returns whether one took it.
    ///
    /// # Errors
    /// The peer went away in the middle of the message, or the socket was
    /// closed then.
    pub(crate) fn offer(&mut self, body: &[u8], terms: &Terms<'_>, links: &Links) -> Result<bool> {
        let count = self.slots.len();
        for _ in 0..count {
            let slot = match &mut self.slots[..] {
                // The usual case, without turns.
                [only] => only,
                slots => {
                    if self.turn >= count {
                        self.turn = 0;
                    }
                    self.turn += 1;
                    &mut slots[self.turn - 1]
                }
            };
            match slot.offer(body, terms, count == 1) {
                Ok(Written::All) => return Ok(true),
                Ok(Written::Nothing) => {}
                Ok(Written::Gone) => slot.gone = true,
                Err(error) => {
                    slot.gone = true;
                    self.drop_gone(links);
                    return Err(error);
                }
            }
        }
        self.drop_gone(links);
        Ok(false)
    }

    /// Writes posted messages as far as that does not block; returns whether
    /// nothing is left.
    ///
    /// # Errors
    /// [`Gone`] when some were lost with their peer; nothing is left then.
    pub(crate) fn write_posted(&mut self, posted: &Posted) -> Result<bool, Gone> {
        let (mut all, mut lost) = (true, Ok(()));
        for slot in &mut self.slots {
            match slot.write_posted() {
                Ok(is_empty) => all &= is_empty,
                Err(Gone) => (slot.gone, lost) = (true, Err(Gone)),
            }
        }
        if all {
            posted.end();
            lost?;
        }
        Ok(all)
    }

    /// Dials, if this socket dials, and reads peers' headers, without blocking.
    pub(crate) fn refresh(&mut self, limits: &Limits, closing: &Closing, links: &Links) {
        let now = Instant::now();
        self.slots.iter_mut().for_each(|slot| slot.read(now));
        self.drop_gone(links);
        if let Some(dialer) = &mut self.dialer {
            if self.slots.is_empty() {
                if let Some(link) = dialer.attempt(Protocol::Push) {
                    // If the connection ends before its header, do not dial
                    // again at once.
                    dialer.postpone(now);
                    let connection = Connection::new(Protocol::Push, limits.clone(), now);
                    self.admit(link, connection, closing, links);
                    // The header may have arrived already.
                    self.slots.iter_mut().for_each(|slot| slot.read(now));
                }
            } else if self.slots.iter().any(|slot| slot.connection.is_ready()) {
                dialer.succeeded();
            }
        }
    }

    pub(crate) fn admit(&mut self, link: Link, connection: Connection, closing: &Closing, links: &Links) {
        let link = Arc::new(link);
        links.add(&link, closing);
        let (left_at, spinner) = (Instant::now(), Spinner::new(self.spin));
        self.slots.push(Slot { link, connection, gone: false, outbox: Outbox::default(), spinner, left_at });
    }

    fn drop_gone(&mut self, links: &Links) {
        self.slots.retain(|slot| {
            if slot.gone {
                links.remove(&slot.link);
            }
            !slot.gone
        });
    }
}

impl Slot {
    /// Offers the message to this peer; `is_alone`: it is the socket's only
    /// one.
    fn offer(&mut self, body: &[u8], terms: &Terms<'_>, is_alone: bool) -> Result<Written> {
        if self.gone || !self.connection.is_ready() || self.link.is_unfinished() {
            return Ok(Written::Nothing);
        }
        // The flusher has one clock per socket: with several peers, no message
        // is batched.
        if terms.may_wait && is_alone && body.len() <= MAX_GATHERED {
            return self.post(body, terms);
        }
        if !self.outbox.is_empty() {
            // Messages that were posted before are written first.
            match self.write_posted() {
                Ok(true) if is_alone => terms.posted.end(),
                Ok(true) => {}
                Ok(false) => return Ok(Written::Nothing),
                Err(Gone) => return Ok(Written::Gone),
            }
        }
        self.link.write(&[], body, terms.closing, terms.stall, terms.deadline, &mut self.spinner)
    }

    fn post(&mut self, body: &[u8], terms: &Terms<'_>) -> Result<Written> {
        if self.outbox.is_empty() {
            let now = Instant::now();
            if now.saturating_duration_since(self.left_at) >= PAUSE {
                self.left_at = now;
                return self.link.write(&[], body, terms.closing, terms.stall, terms.deadline, &mut self.spinner);
            }
            self.outbox.put(body);
            terms.posted.begin(now);
            return Ok(Written::All);
        }
        if let (Some(merge), Some(last)) = (terms.merge, self.outbox.last_body())
            && merge(last, body)
        {
            return Ok(Written::All);
        }
        if !self.outbox.has_room(body.len()) {
            match self.write_posted() {
                Ok(true) => {}
                Ok(false) if self.outbox.has_room(body.len()) => {}
                Ok(false) => return Ok(Written::Nothing),
                Err(Gone) => return Ok(Written::Gone),
            }
            // The oldest message has only just been posted.
            terms.posted.begin(self.left_at);
        }
        self.outbox.put(body);
        Ok(Written::All)
    }

    /// Writes posted messages; returns whether nothing is left.
    fn write_posted(&mut self) -> Result<bool, Gone> {
        if self.outbox.is_empty() || self.gone || self.link.is_unfinished() {
            return Ok(self.outbox.is_empty() || self.gone);
        }
        let all = self.outbox.write_posted(&self.link)?;
        self.left_at = Instant::now();
        Ok(all)
    }

    /// Reads the peer's header; anything after it violates the protocol.
    fn read(&mut self, now: Instant) {
        if self.gone {
            return;
        }
        self.link.woken();
        match self.link.read(self.connection.space()) {
            Ok(Some(count)) => self.connection.filled(count, now),
            Ok(None) => {}
            Err(_) => self.gone = true,
        }
        while !self.gone && self.connection.has_buffered() {
            match self.connection.next() {
                Ok(Some(Event::Ready)) => {}
                // The rest of the header, or of anything else that the peer
                // sends.
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => self.gone = true,
            }
        }
        self.gone |= self.connection.is_ready() && self.connection.has_buffered();
        self.gone |= self.connection.check_time(now).is_err();
    }
}
