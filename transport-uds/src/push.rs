//! PUSH: sends each message to the next peer in turn that has room.

use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::sp::Protocol;
use ekuiper_core::transport::{Backlog, Deadline, Endpoint, Merge, Options, Push, Result, TransportError};
use rustix::event::{PollFd, PollFlags};

use crate::acceptor::Newcomer;
use crate::dial::Dialer;
use crate::flusher::{self, Posted, Poster};
use crate::inbox::limits;
use crate::listen::Listener;
use crate::outbox::Gone;
use crate::peers::{Links, Peers, Terms};
use crate::stream::Medium;
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::platform::PEER_CLOSED;
use ekuiper_transport_ipc::receiving::check_length;
use ekuiper_transport_ipc::wait::{Closing, deadline_after, earlier, has_passed, wait_for};

/// First pause of `flush` between two checks; it doubles up to
/// [`MAX_FLUSH_PAUSE`]. The kernel does not report the event.
const FIRST_FLUSH_PAUSE: Duration = Duration::from_micros(100);
const MAX_FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// Maximum wait of `close` for a thread that is sending: the thread leaves as
/// soon as it sees the closing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct UdsPush(Arc<Socket>);

/// The part of the socket that the flusher also uses.
#[derive(Debug)]
struct Socket {
    options: Options,
    closing: Closing,
    listener: Option<Listener>,
    peers: DeadlineLock<Peers>,
    links: Links,
    posted: Posted,
    own: Weak<Socket>,
}

impl UdsPush {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options, medium: &'static dyn Medium) -> Result<Self> {
        let closing = Closing::new(endpoint.address())?;
        let (mut dialer, mut listener) = (None, None);
        match endpoint {
            Endpoint::Listen(address) => {
                listener = Some(Listener::bind(address, Protocol::Push, limits(options, 0, 0), options, medium)?);
            }
            Endpoint::Dial(address) => dialer = Some(Dialer::new(address, options, medium)),
        }
        Ok(Self(Arc::new_cyclic(|own| Socket {
            options: options.clone(),
            closing,
            listener,
            peers: DeadlineLock::new(Peers::new(dialer, options.spin)),
            links: Links::default(),
            posted: Posted::default(),
            own: own.clone(),
        })))
    }
}

impl Socket {
    /// Dials or accepts, and reads peers' headers, without blocking.
    fn refresh(&self, peers: &mut Peers) {
        peers.refresh(&limits(&self.options, 0, 0), &self.closing, &self.links);
        self.accept(peers);
    }

    fn has_newcomers(&self) -> bool {
        self.listener.as_ref().is_some_and(Listener::has_newcomers)
    }

    fn accept(&self, peers: &mut Peers) {
        while let Some(Newcomer { link, connection }) = self.listener.as_ref().and_then(Listener::accept) {
            // PUSH peers send nothing after their header: the oldest ones stay.
            if peers.slots.len() >= self.options.max_connections {
                tracing::debug!(connection = link.id.0, "connection closed: too many connections");
                continue;
            }
            peers.admit(link, connection, &self.closing, &self.links);
        }
    }

    /// Waits until a ready peer has `interest`, a peer connects or disconnects,
    /// or it is time to dial.
    fn wait(&self, peers: &mut Peers, deadline: Deadline, interest: PollFlags) -> Result<()> {
        let mut until = deadline;
        for slot in &peers.slots {
            until = earlier(until, slot.connection.deadline());
        }
        if peers.slots.is_empty() {
            until = earlier(until, peers.dialer.as_ref().map(Dialer::next_attempt));
        }
        let closing = PollFd::new(&self.closing, PollFlags::IN);
        let mut of_slots = peers.slots.iter().map(|slot| {
            let write = if slot.connection.is_ready() { interest } else { PollFlags::empty() };
            let flags = slot.link.poll_flags(PollFlags::IN | PEER_CLOSED | write);
            if flags.is_empty() {
                until = Some(Instant::now());
            }
            PollFd::new(&slot.link, flags)
        });
        let (waited, only_room) = match (&self.listener, of_slots.len()) {
            // The usual case, without an allocation.
            (None, 1) => {
                let mut fds = [closing, of_slots.next().expect("there is one")];
                let waited = wait_for(&mut fds, until);
                (waited, fds[1].revents() == PollFlags::OUT)
            }
            (listener, _) => {
                let mut fds = vec![closing];
                fds.extend(listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
                fds.extend(of_slots);
                (wait_for(&mut fds, until), false)
            }
        };
        self.closing.check()?;
        if !only_room {
            self.refresh(peers);
        }
        match waited {
            Err(TransportError::Timeout) if has_passed(deadline) => Err(TransportError::Timeout),
            _ => Ok(()),
        }
    }

    fn terms(&self, deadline: Deadline, may_wait: bool, merge: Option<Merge>) -> Terms<'_> {
        let (closing, stall, posted) = (&self.closing, self.options.stall_timeout, &self.posted);
        Terms { closing, stall, deadline, posted, may_wait, merge }
    }

    fn send(&self, body: &[u8], terms: &Terms<'_>) -> Result<()> {
        let mut peers = self.peers.lock_open(&self.closing, terms.deadline)?;
        self.send_to(&mut peers, body, terms)
    }

    fn send_to(&self, peers: &mut Peers, body: &[u8], terms: &Terms<'_>) -> Result<()> {
        check_length(body, self.options.max_message)?;
        // A new peer gets its share, even while the others take everything.
        if self.has_newcomers() {
            self.accept(peers);
        }
        if peers.offer(body, terms, &self.links)? {
            return Ok(());
        }
        if !peers.any_is_ready() {
            // A peer may have connected meanwhile.
            self.refresh(peers);
        }
        let mut is_late = false;
        while !peers.offer(body, terms, &self.links)? {
            if is_late {
                return Err(TransportError::Timeout);
            }
            self.wait(peers, terms.deadline, PollFlags::OUT)?;
            is_late = has_passed(terms.deadline);
        }
        Ok(())
    }

    fn post(&self, body: &[u8], deadline: Deadline, merge: Option<Merge>) -> Result<()> {
        self.send(body, &self.terms(deadline, true, merge))?;
        self.watch_posted(deadline)
    }

    fn post_all(&self, bodies: &mut dyn Iterator<Item = &[u8]>, deadline: Deadline) -> Result<()> {
        let terms = self.terms(deadline, true, None);
        let mut peers = self.peers.lock_open(&self.closing, deadline)?;
        let mut posted = Ok(());
        while posted.is_ok()
            && let Some(body) = bodies.next()
        {
            posted = self.send_to(&mut peers, body, &terms);
        }
        drop(peers);
        // The first ones may be posted, though the last one is not.
        let watched = self.watch_posted(deadline);
        posted.and(watched)
    }

    /// Has the flusher watch the posted messages. Without the flusher no message
    /// is batched.
    fn watch_posted(&self, deadline: Deadline) -> Result<()> {
        if self.posted.wants_watch() && flusher::watch(self.own.clone()).is_err() {
            self.posted.refused();
            return match self.dispatch(deadline) {
                // They are accepted: the next message has them written.
                Err(TransportError::Timeout) => Ok(()),
                dispatched => dispatched,
            };
        }
        Ok(())
    }

    fn dispatch(&self, deadline: Deadline) -> Result<()> {
        self.closing.check()?;
        if self.posted.is_empty() {
            return Ok(());
        }
        let mut peers = self.peers.lock_open(&self.closing, deadline)?;
        let mut is_late = false;
        while !peers.write_posted(&self.posted).map_err(|Gone| TransportError::Disconnected)? {
            if is_late {
                return Err(TransportError::Timeout);
            }
            self.wait(&mut peers, deadline, PollFlags::OUT)?;
            is_late = has_passed(deadline);
        }
        Ok(())
    }

    fn close(&self) {
        if self.closing.close() {
            if let Some(listener) = &self.listener {
                listener.close();
            }
            self.links.lock().iter().for_each(|link| link.wake());
            self.peers.look_again();
            // Posted messages are written before the connections end, as far as
            // they fit.
            if !self.posted.is_empty()
                && let Some(mut peers) = self.peers.lock(deadline_after(CLOSE_PATIENCE))
            {
                let _ = peers.write_posted(&self.posted);
            }
            for link in self.links.lock().drain(..) {
                link.shutdown();
            }
        }
        self.peers.look_again();
    }
}

impl Poster for Socket {
    fn posted(&self) -> &Posted {
        &self.posted
    }

    fn write_posted(&self) -> bool {
        // A thread that is sending writes them first.
        let Some(mut peers) = self.peers.try_lock() else { return false };
        peers.write_posted(&self.posted).unwrap_or(true)
    }
}

impl Push for UdsPush {
    fn connect(&self, deadline: Deadline) -> Result<()> {
        let socket = &*self.0;
        let mut peers = socket.peers.lock_open(&socket.closing, deadline)?;
        socket.refresh(&mut peers);
        let mut is_late = false;
        while !peers.any_is_ready() {
            let waited = if is_late {
                Err(TransportError::Timeout)
            } else {
                socket.wait(&mut peers, deadline, PollFlags::empty())
            };
            if let Err(error) = waited {
                let dialer = peers.dialer.as_ref().filter(|_| matches!(error, TransportError::Timeout));
                return Err(dialer.map_or(error, Dialer::timeout));
            }
            is_late = has_passed(deadline);
        }
        Ok(())
    }

    fn send(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        self.0.send(body, &self.0.terms(deadline, false, None))
    }

    fn post(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        self.0.post(body, deadline, None)
    }

    fn post_merged(&self, body: &[u8], merge: Merge, deadline: Deadline) -> Result<()> {
        self.0.post(body, deadline, Some(merge))
    }

    fn post_all(&self, bodies: &mut dyn Iterator<Item = &[u8]>, deadline: Deadline) -> Result<()> {
        self.0.post_all(bodies, deadline)
    }

    fn dispatch(&self, deadline: Deadline) -> Result<()> {
        self.0.dispatch(deadline)
    }

    fn flush(&self, deadline: Deadline) -> Result<()> {
        let socket = &*self.0;
        match socket.dispatch(deadline) {
            // The lost messages had no reader left.
            Ok(()) | Err(TransportError::Disconnected) => {}
            Err(error) => return Err(error),
        }
        let mut pause = FIRST_FLUSH_PAUSE;
        loop {
            socket.closing.check()?;
            if socket.links.lock().iter().all(|link| link.is_drained()) {
                return Ok(());
            }
            if has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            let until = earlier(deadline, Some(deadline_after(pause)));
            let _ = wait_for(&mut [PollFd::new(&socket.closing, PollFlags::IN)], until);
            pause = (pause * 2).min(MAX_FLUSH_PAUSE);
        }
    }

    fn room(&self) -> Option<Arc<dyn AsFd + Send + Sync>> {
        // With several peers, any may have room.
        match &self.0.links.lock()[..] {
            [link] if link.is_socket() => Some(link.clone()),
            _ => None,
        }
    }

    fn backlog(&self) -> Backlog {
        let socket = &*self.0;
        let left: u64 =
            socket.links.lock().iter().map(|link| link.unread() as u64 + u64::from(link.is_unfinished())).sum();
        let waiting = u64::from(!socket.posted.is_empty());
        Backlog { connections: socket.links.made(), unread: Some(left + waiting) }
    }

    fn close(&self) {
        self.0.close();
    }
}

impl Drop for UdsPush {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use ekuiper_core::address::Address;
    use ekuiper_core::transport::{Pull, PullEvent};

    use super::*;

    /// A message that was posted and not written is one with the next, if they
    /// can be merged, and not with one that follows another.
    #[test]
    fn what_is_posted_after_a_message_is_merged_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::new(folder.path().join("data.ipc")).unwrap();
        let (options, soon) = (Options::default(), Some(Instant::now() + Duration::from_secs(30)));
        let pull =
            crate::pull::UdsPull::new(&Endpoint::Listen(address.clone()), &options, &crate::stream::Sockets).unwrap();
        let push = UdsPush::new(&Endpoint::Dial(address), &options, &crate::stream::Sockets).unwrap();
        push.connect(soon).unwrap();
        let merge: Merge = |last, next| {
            let is_sum = last.len() == 1 && next.len() == 1;
            if is_sum {
                last[0] += next[0];
            }
            is_sum
        };
        // Until the thread is fast enough: what was posted before a pause is
        // written.
        loop {
            push.send(b"a", soon).unwrap();
            for body in [&[1][..], &[1], &[1], b"bc", &[1], &[1]] {
                push.post_merged(body, merge, soon).unwrap();
            }
            push.dispatch(soon).unwrap();
            let mut messages = Vec::new();
            let mut ones = 0;
            while ones < 5 {
                let mut body = Vec::new();
                if let PullEvent::Message(_) = pull.receive(&mut body, soon).unwrap() {
                    ones += if body.len() == 1 && body != b"a" { body[0] } else { 0 };
                    messages.push(body);
                }
            }
            assert_eq!(messages.iter().filter(|body| body.len() == 2).count(), 1);
            if messages == [&b"a"[..], &[3], b"bc", &[2]] {
                return;
            }
        }
    }

    /// A sender whose only peer disconnects just before it writes has no peer
    /// to wait for, and no failed attempt behind it: it dials, and does not
    /// block.
    #[test]
    fn a_wait_without_a_connection_dials() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Dial(Address::new(folder.path().join("nobody")).unwrap());
        let push = UdsPush::new(&endpoint, &Options::default(), &crate::stream::Sockets).unwrap();
        let mut peers = push.0.peers.try_lock().unwrap();
        let deadline = Some(Instant::now() + Duration::from_secs(30));
        push.0.wait(&mut peers, deadline, PollFlags::OUT).unwrap();
        assert!(peers.dialer.as_ref().unwrap().next.is_some(), "nobody was dialled");
    }
}
