//! PUSH: sends to each peer in turn that takes something.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::sp::{Connection, Event, Protocol};
use ekuiper_core::transport::{Deadline, Endpoint, Options, Push, Result, TransportError};
use rustix::event::{PollFd, PollFlags};

use crate::acceptor::Newcomer;
use crate::dial::Dialer;
use crate::inbox::limits;
use crate::link::{Link, Written};
use crate::listen::Listener;
use ekuiper_transport_ipc::gate::Gate;
use ekuiper_transport_ipc::wait::{Closing, earlier, has_passed, wait_for};

/// How long `flush` first waits before it asks again; it doubles up to
/// [`MAX_FLUSH_PAUSE`]. The kernel does not report the event.
const FIRST_FLUSH_PAUSE: Duration = Duration::from_micros(100);
const MAX_FLUSH_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct UdsPush {
    options: Options,
    closing: Closing,
    listener: Option<Listener>,
    peers: Gate<Peers>,
    /// For the closing, while somebody else has the peers.
    links: Mutex<Vec<Arc<Link>>>,
}

#[derive(Debug, Default)]
struct Peers {
    /// Absent where connections are accepted.
    dialer: Option<Dialer>,
    slots: Vec<Slot>,
    /// Whose turn it is.
    turn: usize,
}

#[derive(Debug)]
struct Slot {
    link: Arc<Link>,
    connection: Connection,
    gone: bool,
}

impl UdsPush {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        let closing = Closing::new(endpoint.address())?;
        let mut peers = Peers::default();
        let mut listener = None;
        match endpoint {
            Endpoint::Listen(address) => {
                listener = Some(Listener::bind(address, Protocol::Push, limits(options, 0, 0))?);
            }
            Endpoint::Dial(address) => peers.dialer = Some(Dialer::new(address)),
        }
        let links = Mutex::default();
        Ok(Self { options: options.clone(), closing, listener, peers: Gate::new(peers), links })
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the message to each ready peer, from the one whose turn it is;
    /// whether one took it.
    fn offer(&self, peers: &mut Peers, body: &[u8], deadline: Deadline) -> Result<bool> {
        let count = peers.slots.len();
        for step in 0..count {
            let index = (peers.turn + step) % count;
            let slot = &mut peers.slots[index];
            if slot.gone || !slot.connection.is_ready() {
                continue;
            }
            match slot.link.write(&[], body, &self.closing, self.options.stall_timeout, deadline) {
                Ok(Written::All) => {
                    peers.turn = (index + 1) % count;
                    return Ok(true);
                }
                Ok(Written::Nothing) => {}
                Ok(Written::Gone) => slot.gone = true,
                Err(error) => {
                    slot.gone = true;
                    self.drop_gone(peers);
                    return Err(error);
                }
            }
        }
        self.drop_gone(peers);
        Ok(false)
    }

    /// Dials or accepts, and reads peers' headers, without waiting.
    fn refresh(&self, peers: &mut Peers) {
        let now = Instant::now();
        peers.slots.iter_mut().for_each(|slot| slot.read(now));
        self.drop_gone(peers);
        if let Some(dialer) = &mut peers.dialer {
            if peers.slots.is_empty() {
                if let Some(link) = dialer.attempt(Protocol::Push) {
                    // Should it end before its header, not again at once.
                    dialer.postpone(now);
                    let connection = Connection::new(Protocol::Push, limits(&self.options, 0, 0), now);
                    self.admit(peers, link, connection);
                }
            } else if peers.slots.iter().any(|slot| slot.connection.is_ready()) {
                dialer.succeeded();
            }
        }
        self.accept(peers);
        peers.slots.iter_mut().for_each(|slot| slot.read(now));
    }

    fn accept(&self, peers: &mut Peers) {
        while let Some(Newcomer { link, connection }) = self.listener.as_ref().and_then(Listener::accept) {
            self.admit(peers, link, connection);
        }
    }

    fn admit(&self, peers: &mut Peers, link: Link, connection: Connection) {
        let link = Arc::new(link);
        let mut links = self.links();
        links.push(link.clone());
        if self.closing.check().is_err() {
            // The closing may have gone through the links already.
            link.shutdown();
        }
        drop(links);
        peers.slots.push(Slot { link, connection, gone: false });
    }

    fn drop_gone(&self, peers: &mut Peers) {
        peers.slots.retain(|slot| {
            if slot.gone {
                slot.link.shutdown();
                self.links().retain(|link| link.id != slot.link.id);
            }
            !slot.gone
        });
    }

    /// Waits until a ready peer has `interest`, a peer comes or goes, or it is
    /// time to dial.
    fn wait(&self, peers: &mut Peers, deadline: Deadline, interest: PollFlags) -> Result<()> {
        let mut until = deadline;
        for slot in &peers.slots {
            until = earlier(until, slot.connection.deadline());
        }
        if peers.slots.is_empty() {
            until = earlier(until, peers.dialer.as_ref().and_then(|dialer| dialer.next));
        }
        let mut fds = vec![PollFd::new(&self.closing, PollFlags::IN)];
        if let Some(listener) = &self.listener {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        for slot in &peers.slots {
            let write = if slot.connection.is_ready() { interest } else { PollFlags::empty() };
            fds.push(PollFd::new(&slot.link, PollFlags::IN | PollFlags::RDHUP | write));
        }
        let waited = wait_for(&mut fds, until);
        drop(fds);
        self.closing.check()?;
        self.refresh(peers);
        match waited {
            Err(TransportError::Timeout) if has_passed(deadline) => Err(TransportError::Timeout),
            _ => Ok(()),
        }
    }
}

impl Push for UdsPush {
    fn connect(&self, deadline: Deadline) -> Result<()> {
        let mut peers = self.peers.enter(&self.closing, deadline)?;
        self.refresh(&mut peers);
        while !peers.slots.iter().any(|slot| slot.connection.is_ready()) {
            self.wait(&mut peers, deadline, PollFlags::empty())?;
        }
        Ok(())
    }

    fn send(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        if body.len() > self.options.max_message {
            return Err(TransportError::TooLong { length: body.len() as u64, max: self.options.max_message as u64 });
        }
        let mut peers = self.peers.enter(&self.closing, deadline)?;
        // Who has come gets its share, also while the others take everything.
        self.accept(&mut peers);
        if self.offer(&mut peers, body, deadline)? {
            return Ok(());
        }
        // A peer may have come meanwhile.
        self.refresh(&mut peers);
        while !self.offer(&mut peers, body, deadline)? {
            self.wait(&mut peers, deadline, PollFlags::OUT)?;
        }
        Ok(())
    }

    fn flush(&self, deadline: Deadline) -> Result<()> {
        let mut pause = FIRST_FLUSH_PAUSE;
        loop {
            self.closing.check()?;
            let links = self.links().clone();
            if links.iter().all(|link| link.is_drained()) {
                return Ok(());
            }
            if has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            let until = earlier(deadline, Some(Instant::now() + pause));
            let _ = wait_for(&mut [PollFd::new(&self.closing, PollFlags::IN)], until);
            pause = (pause * 2).min(MAX_FLUSH_PAUSE);
        }
    }

    fn close(&self) {
        if self.closing.close() {
            if let Some(listener) = &self.listener {
                listener.close();
            }
            for link in self.links().drain(..) {
                link.shutdown();
            }
        }
        self.peers.wake_all();
    }
}

impl Drop for UdsPush {
    fn drop(&mut self) {
        self.close();
    }
}

impl Slot {
    /// Reads the peer's header; anything after it breaks the protocol.
    fn read(&mut self, now: Instant) {
        if self.gone {
            return;
        }
        match self.link.read(self.connection.space()) {
            Ok(Some(count)) => self.connection.filled(count, now),
            Ok(None) => {}
            Err(_) => self.gone = true,
        }
        while !self.gone && self.connection.has_buffered() {
            match self.connection.next() {
                Ok(Some(Event::Ready)) => {}
                // The rest of the header, or of whatever else it sends.
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => self.gone = true,
            }
        }
        self.gone |= self.connection.is_ready() && self.connection.has_buffered();
        self.gone |= self.connection.check_time(now).is_err();
    }
}
