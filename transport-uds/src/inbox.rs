//! Receiving from many connections in turn.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::sp::{Connection, Event, Limits, Protocol};
use ekuiper_core::sync::{lock, try_lock};
use ekuiper_core::transport::{ConnectionId, Deadline, Endpoint, Options, Result, TransportError};
use rustix::event::{PollFd, PollFlags};

use rustix::io::Errno;

use crate::acceptor::Newcomer;
use crate::dial::Dialer;
use crate::link::Link;
use crate::listen::Listener;
use crate::spin::{MAX_LOOK, Spinner, up_to};
use crate::stream::Medium;
use ekuiper_transport_ipc::platform::{Interest, PEER_CLOSED, Poller};
use ekuiper_transport_ipc::receiving::{Incoming, another_receives};
use ekuiper_transport_ipc::wait::{Closing, earlier, has_passed, io_error, timeout, wait_for};

/// Maximum time for a peer's header, in total (libnng's value).
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits of a peer of a socket with these options.
pub(crate) fn limits(options: &Options, max_message: u64, skip_up_to: u64) -> Limits {
    Limits { max_message, skip_up_to, header_timeout: HEADER_TIMEOUT, stall_timeout: options.stall_timeout }
}

/// The receiving side of a socket: its connections, and how they are made.
#[derive(Debug)]
pub(crate) struct Inbox {
    address: Address,
    own: Protocol,
    limits: Limits,
    closing: Closing,
    /// The closing signal, the listener and every connection.
    poller: Poller,
    /// The connections; locked by the thread that receives, and for a moment by
    /// one that asks for the readiness descriptor.
    reader: Mutex<(Reader, Spinner)>,
    /// Whether the thread that has the reader receives.
    is_receiving: AtomicBool,
    /// The links, for closing while another thread has the reader.
    links: Mutex<Links>,
    listener: Option<Listener>,
    max_connections: usize,
    /// Maximum memory of all connections together, in bytes, while some have
    /// not sent a whole message.
    budget: usize,
    /// Whether connections may be in memory: the readiness descriptor then
    /// reports them only if it is told to.
    is_in_memory: bool,
    /// Whether the readiness descriptor may be waited for.
    is_awaited: AtomicBool,
    /// Whether the connections must be reported once the reader is free.
    is_report_due: AtomicBool,
}

#[derive(Debug, Default)]
struct Links {
    all: Vec<Arc<Link>>,
    /// Whether peers are asked to close their connections.
    is_leaving: bool,
}

#[derive(Debug, Default)]
struct Reader {
    /// The dialler; absent in a listening socket.
    dialer: Option<Dialer>,
    slots: Vec<Slot>,
    /// The slot that is served next.
    turn: usize,
}

#[derive(Debug)]
struct Slot {
    link: Arc<Link>,
    connection: Connection,
    /// Whether the connection must still be reported.
    is_new: bool,
    /// Whether there may be bytes to read.
    readable: bool,
    /// Whether the peer has sent a whole message.
    has_spoken: bool,
    /// Whether the connection has ended; the slot is removed once its messages
    /// are delivered.
    ended: bool,
    /// Whether the readiness descriptor reports the connection although its
    /// socket is not readable.
    is_reported: bool,
}

/// An item that arrived completely.
pub(crate) enum Content<'a> {
    /// A message, or the words of one whose body is long; and the length of all
    /// of it.
    Message(&'a [u8], usize),
    /// The first bytes and the length of a skipped message.
    Oversized(&'a [u8], u64),
}

/// The pattern's decision about an item.
pub(crate) enum Verdict<T> {
    /// Deliver the item, without its first bytes.
    Deliver(T, usize),
    /// Report an event without a body.
    Tell(T),
    Drop,
    Close,
}

/// The result of one round.
enum Served<T> {
    Incoming(Incoming<T>),
    /// No complete item, but a connection has more to read.
    More,
    Nothing,
}

/// Number of rounds for a message that has arrived in pieces when the deadline
/// has passed already: more than the kernel's buffer holds.
const LATE_ROUNDS: usize = 16;

/// Memory that each connection may have in addition to long messages: twice the
/// read size.
const SPARE: usize = 128 << 10;

const CLOSING: u64 = 0;
const LISTENER: u64 = u64::MAX;

impl Inbox {
    pub(crate) fn new(
        own: Protocol,
        endpoint: &Endpoint,
        options: &Options,
        max_message: u64,
        skip_up_to: u64,
        medium: &'static dyn Medium,
    ) -> Result<Self> {
        let address = endpoint.address().clone();
        let fail = |error: io::Error| io_error("create a socket for", &address, error);
        let refused = |errno: Errno| fail(errno.into());
        let poller = Poller::new().map_err(fail)?;
        let closing = Closing::new(&address)?;
        poller.add(&closing, CLOSING, Interest::Input).map_err(refused)?;
        let mut reader = Reader::default();
        let mut listener = None;
        let limits = limits(options, max_message, skip_up_to);
        let spinner = Spinner::new(options.spin);
        match endpoint {
            Endpoint::Listen(address) => {
                let bound = Listener::bind(address, own, limits.clone(), options, medium)?;
                poller.add(&bound, LISTENER, Interest::Input).map_err(refused)?;
                listener = Some(bound);
            }
            Endpoint::Dial(address) => reader.dialer = Some(Dialer::new(address, options, medium)),
        }
        let (is_receiving, reader) = (AtomicBool::new(false), Mutex::new((reader, spinner)));
        let max_connections = options.max_connections;
        let budget = options.max_message.saturating_mul(2).saturating_add(max_connections.saturating_mul(SPARE));
        let links = Mutex::default();
        let is_in_memory = medium.is_in_memory();
        let (is_awaited, is_report_due) = Default::default();
        Ok(Self {
            own,
            limits,
            closing,
            poller,
            is_receiving,
            reader,
            links,
            listener,
            address,
            max_connections,
            budget,
            is_in_memory,
            is_awaited,
            is_report_due,
        })
    }

    pub(crate) fn closing(&self) -> &Closing {
        &self.closing
    }

    pub(crate) fn readiness(&self) -> BorrowedFd<'_> {
        if self.is_in_memory {
            // Before the connections are asked, under the reader's lock: whoever
            // takes back what they were asked sees that this is awaited.
            self.is_awaited.store(true, Ordering::Relaxed);
            self.is_report_due.store(true, Ordering::Relaxed);
            // Bells of earlier messages are not for this wait.
            self.report_if_due(|slot| slot.link.woken());
        }
        self.poller.as_fd()
    }

    /// Duplicates a connection's descriptor.
    pub(crate) fn duplicate(&self, connection: ConnectionId) -> Option<OwnedFd> {
        let links = lock(&self.links);
        let link = links.all.iter().find(|link| link.id == connection)?;
        link.as_fd().try_clone_to_owned().ok()
    }

    /// Stops listening, if this socket listens.
    pub(crate) fn stop_listening(&self) {
        self.listener.iter().for_each(Listener::remove_file);
    }

    /// Asks all peers, including those that are accepted later, to close their
    /// connections, and waits for that.
    pub(crate) fn hand_over(&self, deadline: Deadline) {
        self.stop_listening();
        let mut links = lock(&self.links);
        links.is_leaving = true;
        let links = links.all.clone();
        links.iter().for_each(|link| link.send_no_more());
        for link in links {
            let mut closed = [PollFd::new(&link, PEER_CLOSED)];
            if wait_for(&mut closed, deadline).is_err() {
                tracing::debug!(connection = link.id.0, "the peer has not closed its connection in time");
            }
        }
    }

    /// Ends every wait once everything that has arrived is received.
    pub(crate) fn finish(&self) {
        self.closing.finish();
    }

    /// Ends every wait and every connection, and removes the socket file.
    pub(crate) fn close(&self) {
        if self.closing.close() {
            if let Some(listener) = &self.listener {
                listener.close();
            }
            for link in lock(&self.links).all.drain(..) {
                link.shutdown();
            }
        }
    }

    /// Receives the next item that `judge` delivers, into `buffer`, or the next
    /// connection event.
    pub(crate) fn receive<T>(
        &self,
        buffer: &mut Vec<u8>,
        deadline: Deadline,
        judge: impl FnMut(&Arc<Link>, Content<'_>) -> Verdict<T>,
    ) -> Result<Incoming<T>> {
        let mut guard = self.enter()?;
        let (reader, spinner) = &mut *guard;
        let received = self.receive_with(reader, spinner, buffer, deadline, judge);
        self.is_receiving.store(false, Ordering::Relaxed);
        drop(guard);
        if self.is_in_memory {
            self.report_if_due(|_| ());
        }
        received
    }

    /// Admits the caller as the receiver, as
    /// [`ReceiverLock`](ekuiper_transport_ipc::receiving::ReceiverLock) does,
    /// with one lock for both.
    #[inline]
    fn enter(&self) -> Result<MutexGuard<'_, (Reader, Spinner)>> {
        loop {
            if let Some(reader) = try_lock(&self.reader) {
                self.is_receiving.store(true, Ordering::Relaxed);
                return Ok(reader);
            }
            self.closing.check()?;
            if self.is_receiving.load(Ordering::Relaxed) {
                return Err(another_receives());
            }
            // A thread that asks for the readiness descriptor returns it soon.
            std::thread::yield_now();
        }
    }

    /// Makes the readiness descriptor report each connection in memory that has
    /// something, or will have, if that is due. A receiver that has the reader
    /// does it when it returns the reader.
    #[inline]
    fn report_if_due(&self, prepare: impl Fn(&Slot)) {
        loop {
            // Either this thread sees that a report is due, or the thread that
            // has asked for it finds the reader free: each makes its own change
            // visible before it looks at the other one's.
            fence(Ordering::SeqCst);
            if !self.is_report_due.load(Ordering::Relaxed) {
                return;
            }
            let Some(mut guard) = try_lock(&self.reader) else { return };
            self.is_report_due.store(false, Ordering::Relaxed);
            self.report(&mut guard.0.slots, &prepare);
        }
    }

    #[cold]
    fn report(&self, slots: &mut [Slot], prepare: &impl Fn(&Slot)) {
        for slot in slots {
            prepare(slot);
            let has_something = slot.readable || slot.link.poll_flags(PollFlags::IN).is_empty();
            self.mark_reported(slot, has_something && !slot.link.is_socket());
        }
    }

    /// Makes the readiness descriptor report a connection, or no longer.
    fn mark_reported(&self, slot: &mut Slot, is_reported: bool) {
        if slot.is_reported != is_reported {
            // A socket that nothing is written to is always writable.
            let interest = if is_reported { Interest::InputOrRoom } else { Interest::Input };
            if self.poller.arm(&slot.link, slot.link.id.0, interest).is_ok() {
                slot.is_reported = is_reported;
            }
        }
    }

    fn receive_with<T>(
        &self,
        reader: &mut Reader,
        spinner: &mut Spinner,
        buffer: &mut Vec<u8>,
        deadline: Deadline,
        mut judge: impl FnMut(&Arc<Link>, Content<'_>) -> Verdict<T>,
    ) -> Result<Incoming<T>> {
        let mut waited = false;
        let mut rounds = LATE_ROUNDS;
        let (mut deadline, mut is_last, mut is_attempt) = (deadline, false, false);
        loop {
            self.closing.check()?;
            if self.has_newcomers() {
                self.accept(reader);
            }
            // With several peers, check which others have sent before serving
            // one again; a single peer is read until it has nothing.
            if !waited && reader.slots.len() > 1 {
                self.watch(reader, Some(Instant::now()))?;
            }
            match self.serve(reader, buffer, &mut judge) {
                Served::Incoming(Incoming::Disconnected(id)) => {
                    // The connection may have ended because the socket was
                    // closed.
                    self.closing.check()?;
                    return Ok(Incoming::Disconnected(id));
                }
                Served::Incoming(incoming) => return Ok(incoming),
                Served::More if has_passed(deadline) && rounds == 0 => return Err(TransportError::Timeout),
                Served::More => {
                    rounds -= usize::from(has_passed(deadline));
                    waited = false;
                    continue;
                }
                Served::Nothing => {}
            }
            if !is_last && self.closing.is_finishing() {
                // One last attempt to receive everything that arrived before.
                (is_last, waited, rounds, deadline) = (true, false, LATE_ROUNDS, Some(Instant::now()));
            }
            if waited && (is_attempt || has_passed(deadline)) {
                return Err(if is_last { TransportError::Closed } else { TransportError::Timeout });
            }
            is_attempt = self.wait(reader, spinner, deadline)?;
            waited = true;
        }
    }

    /// Waits until there may be something to receive, at most until `deadline`.
    /// Returns whether that had passed before.
    fn wait(&self, reader: &mut Reader, spinner: &mut Spinner, deadline: Deadline) -> Result<bool> {
        let now = spinner.now_or(deadline);
        let is_attempt = deadline.is_some_and(|deadline| now >= deadline);
        if let [slot] = &mut reader.slots[..]
            && slot.connection.is_ready()
        {
            if let Some(dialer) = &mut reader.dialer {
                dialer.succeeded();
            }
            // Reading is cheaper than asking whether there is something to
            // read.
            if is_attempt && slot.connection.deadline().is_none() {
                slot.readable = true;
                return Ok(true);
            }
            if !is_attempt {
                // A bell would only delay the peer, unless a thread waits for it.
                if !self.is_awaited.load(Ordering::Relaxed) {
                    slot.link.withdraw();
                }
                let in_memory = !slot.link.is_socket();
                let look = || match slot.link.read(up_to(MAX_LOOK, slot.connection.space())) {
                    Ok(None) if !self.has_newcomers() && !self.closing.ends_waits() => None,
                    looked => Some(looked),
                };
                if let Some((looked, now)) = spinner.spin(now, in_memory, look) {
                    slot.learn(looked, MAX_LOOK, || now);
                    return Ok(false);
                }
            }
        }
        if is_attempt {
            self.watch(reader, deadline)?;
        } else {
            spinner.sleep(deadline, || self.watch(reader, deadline))?;
        }
        Ok(is_attempt)
    }

    /// Serves the first connection from `turn` on that has something.
    fn serve<T>(
        &self,
        reader: &mut Reader,
        buffer: &mut Vec<u8>,
        judge: &mut impl FnMut(&Arc<Link>, Content<'_>) -> Verdict<T>,
    ) -> Served<T> {
        let Reader { slots, turn, .. } = reader;
        let mut more = false;
        for _ in 0..slots.len() {
            if *turn >= slots.len() {
                *turn = 0;
            }
            let slot = &mut slots[*turn];
            if let Some(incoming) = slot.next(buffer, judge) {
                *turn += 1;
                return Served::Incoming(incoming);
            }
            if slots.len() > 1 && slots[*turn].connection.memory() > SPARE {
                self.keep_within_budget(slots);
            }
            let slot = &mut slots[*turn];
            if slot.ended {
                // The next slot has moved to this position.
                let slot = slots.remove(*turn);
                self.forget(&slot.link);
                if slot.connection.is_ready() {
                    return Served::Incoming(Incoming::Disconnected(slot.link.id));
                }
                continue;
            }
            more |= slot.readable;
            *turn += 1;
        }
        if more { Served::More } else { Served::Nothing }
    }

    /// Blocks in the kernel until there may be something to receive, at most
    /// until `deadline`; dials meanwhile.
    fn watch(&self, reader: &mut Reader, deadline: Deadline) -> Result<()> {
        let mut until = deadline;
        until = earlier(until, self.connect(reader));
        for slot in &mut reader.slots {
            until = earlier(until, slot.connection.deadline());
            if !slot.readable && slot.link.poll_flags(PollFlags::IN).is_empty() {
                slot.readable = true;
                until = Some(Instant::now());
            }
        }
        let waited = self.poller.wait(timeout(until).as_ref(), |id| match id {
            // Checked before the next message is received.
            CLOSING | LISTENER => {}
            id => {
                if let Some(slot) = reader.slots.iter_mut().find(|slot| slot.link.id.0 == id) {
                    slot.link.woken();
                    slot.readable = true;
                    self.mark_reported(slot, false);
                    // A thread that waits for the descriptor may have missed
                    // what made it readable.
                    self.is_report_due.fetch_or(self.is_awaited.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        });
        waited.map_err(|errno| io_error("wait for", &self.address, errno.into()))?;
        let now = Instant::now();
        for slot in &mut reader.slots {
            // A peer that has just sent something is read before it is judged.
            if !slot.readable
                && let Err(reason) = slot.connection.check_time(now)
            {
                slot.end(&reason);
            }
        }
        self.closing.check()
    }

    /// Dials, if this socket dials. Returns the instant of the next call.
    fn connect(&self, reader: &mut Reader) -> Deadline {
        let dialer = reader.dialer.as_mut()?;
        if reader.slots.is_empty() {
            let link = dialer.attempt(self.own);
            if link.is_some() {
                // If the connection ends before its header, do not dial again
                // at once.
                dialer.postpone(Instant::now());
            }
            let next = dialer.next;
            match link {
                Some(link) => {
                    let connection = Connection::new(self.own, self.limits.clone(), Instant::now());
                    self.admit(reader, link, connection);
                }
                None => return next,
            }
        } else if reader.slots.iter().all(|slot| slot.connection.is_ready()) {
            dialer.succeeded();
        }
        None
    }

    fn has_newcomers(&self) -> bool {
        self.listener.as_ref().is_some_and(Listener::has_newcomers)
    }

    fn accept(&self, reader: &mut Reader) {
        while let Some(Newcomer { link, connection }) = self.listener.as_ref().and_then(Listener::accept) {
            if reader.slots.len() >= self.max_connections && !self.make_room(&mut reader.slots) {
                tracing::debug!(connection = link.id.0, "connection closed: too many connections");
                continue;
            }
            self.admit(reader, link, connection);
        }
    }

    /// Closes the oldest connection that has not sent a whole message, if there
    /// are too many; returns whether there is room for another connection.
    fn make_room(&self, slots: &mut [Slot]) -> bool {
        if slots.iter().filter(|slot| !slot.ended).count() < self.max_connections {
            return true;
        }
        let silent = slots.iter_mut().find(|slot| !slot.has_spoken && !slot.ended);
        silent.map(|slot| slot.end(&"too many connections")).is_some()
    }

    /// Closes connections that have not sent a whole message, those with the
    /// most memory first, until the rest are within the budget.
    fn keep_within_budget(&self, slots: &mut [Slot]) {
        let live = |slot: &Slot| !slot.ended;
        while slots.iter().filter(|slot| live(slot)).map(|slot| slot.connection.memory()).sum::<usize>() > self.budget {
            let silent = slots.iter_mut().filter(|slot| live(slot) && !slot.has_spoken);
            let Some(slot) = silent.max_by_key(|slot| slot.connection.memory()) else { return };
            slot.end(&"the beginnings of messages take too much memory");
        }
    }

    fn admit(&self, reader: &mut Reader, link: Link, connection: Connection) {
        if self.poller.add(&link, link.id.0, Interest::Input).is_err() {
            return;
        }
        let link = Arc::new(link);
        let mut links = lock(&self.links);
        links.all.push(link.clone());
        if links.is_leaving {
            link.send_no_more();
        }
        if self.closing.check().is_err() {
            // `close` may have shut down the links already.
            link.shutdown();
        }
        drop(links);
        // A thread that waits for the descriptor has asked for the others only.
        self.is_report_due.fetch_or(self.is_awaited.load(Ordering::Relaxed), Ordering::Relaxed);
        let is_new = connection.is_ready();
        let (has_spoken, ended, is_reported) = (false, false, false);
        reader.slots.push(Slot { link, connection, is_new, readable: true, has_spoken, ended, is_reported });
    }

    fn forget(&self, link: &Arc<Link>) {
        self.poller.remove(link);
        link.shutdown();
        lock(&self.links).all.retain(|other| other.id != link.id);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl Slot {
    /// Returns this connection's next item. Reads at most once, since other
    /// connections want their turn and the caller has a deadline.
    fn next<T>(
        &mut self,
        buffer: &mut Vec<u8>,
        judge: &mut impl FnMut(&Arc<Link>, Content<'_>) -> Verdict<T>,
    ) -> Option<Incoming<T>> {
        if std::mem::take(&mut self.is_new) {
            return Some(Incoming::Connected(self.link.id));
        }
        let mut may_read = true;
        loop {
            let verdict = match self.connection.next() {
                Ok(Some(Event::Ready)) => return Some(Incoming::Connected(self.link.id)),
                Ok(Some(Event::Message(message))) => judge(&self.link, Content::Message(message, message.len())),
                Ok(Some(Event::Long(words, body))) => {
                    judge(&self.link, Content::Message(words, words.len() + body.len()))
                }
                Ok(Some(Event::Oversized(head, length))) => judge(&self.link, Content::Oversized(head, length)),
                Ok(None) if self.readable && !self.ended && may_read => {
                    may_read = false;
                    self.read();
                    continue;
                }
                Ok(None) => return None,
                Err(reason) => {
                    self.end(&reason);
                    return None;
                }
            };
            match verdict {
                Verdict::Deliver(value, skip) => {
                    self.has_spoken = true;
                    self.connection.take(skip, buffer);
                    return Some(Incoming::Message(self.link.id, value));
                }
                Verdict::Tell(value) => return Some(Incoming::Message(self.link.id, value)),
                Verdict::Drop => {}
                Verdict::Close => {
                    self.end(&"it breaks the protocol");
                    return None;
                }
            }
        }
    }

    /// Reads once.
    fn read(&mut self) {
        let read = self.link.read(self.connection.space());
        self.learn(read, usize::MAX, Instant::now);
    }

    /// Notes what a read of at most so many bytes into the connection's space
    /// has returned.
    fn learn(&mut self, read: Result<Option<usize>>, most: usize, now: impl FnOnce() -> Instant) {
        match read {
            Ok(Some(count)) => {
                // A short read has taken everything that was there.
                self.readable = count == up_to(most, self.connection.space()).len();
                self.connection.filled(count, now());
            }
            Ok(None) => self.readable = false,
            Err(_) => {
                self.readable = false;
                self.ended = true;
            }
        }
    }

    /// Ends the connection. Complete messages have been delivered; the rest
    /// never will be.
    fn end(&mut self, reason: &dyn std::fmt::Display) {
        tracing::debug!(connection = self.link.id.0, %reason, "connection closed");
        self.readable = false;
        self.ended = true;
        self.link.shutdown();
    }
}
