//! The state that a socket's callers and its task share: connections, received
//! messages, and messages to send.
//!
//! Callers wait here for changes made by the task, and wake it when there is
//! something to send. Everything is under one lock, which no thread holds while
//! it waits for anything else.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ekuiper_core::address::Address;
use ekuiper_core::sync::{lock, wait};
use ekuiper_core::transport::{Backlog, ConnectionId, Deadline, Result, TransportError};
use ekuiper_transport_ipc::platform::Flag;
use ekuiper_transport_ipc::receiving::Incoming;
use ekuiper_transport_ipc::wait::{Closing, earlier, has_passed, io_error};
use tokio::sync::Notify;

use crate::peer::Peer;
use crate::words::{self, ID, Role, WINDOW, Word};

/// Maximum wait of a closed socket until its peers have received what was sent.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Maximum number of stored connections that began and ended while no thread
/// received, without a message: they must not cost unbounded memory.
const MAX_VISITS: usize = 128;

/// The state shared by a socket's callers and its task.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) role: Role,
    max_message: usize,
    pub(crate) closing: Closing,
    state: Mutex<HubState>,
    changed: Condvar,
    /// Set while there is something to receive.
    news: Flag,
    /// Wakes the task.
    task: Notify,
}

/// The state under the lock.
#[derive(Debug)]
pub(crate) struct HubState {
    pub(crate) peers: Vec<Peer>,
    /// The index in `peers` of the peer that is served next.
    turn: usize,
    /// Frames to send, and the connection of each.
    outbox: Vec<(ConnectionId, Bytes)>,
    /// The number of peers so far.
    made: u64,
    /// Whether a connection is wanted: a dialler then dials.
    is_wanted: bool,
    /// Whether the task has ended.
    is_over: bool,
    /// Whether the flag is set.
    is_flagged: bool,
}

impl Hub {
    pub(crate) fn new(role: Role, max_message: usize, address: &Address) -> Result<Self> {
        let state = HubState {
            peers: Vec::new(),
            turn: 0,
            outbox: Vec::new(),
            made: 0,
            is_wanted: true,
            is_over: false,
            is_flagged: false,
        };
        Ok(Self {
            role,
            max_message,
            closing: Closing::new(address)?,
            state: Mutex::new(state),
            changed: Condvar::new(),
            news: Flag::new().map_err(|source| io_error("create a socket for", address, source))?,
            task: Notify::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HubState> {
        lock(&self.state)
    }

    /// A descriptor that polls readable while there may be something to
    /// receive.
    pub(crate) fn readiness(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Waits for a change of the state.
    ///
    /// # Errors
    /// [`TransportError::Timeout`] when the deadline passes first.
    pub(crate) fn wait<'a>(
        &self,
        state: MutexGuard<'a, HubState>,
        deadline: Deadline,
    ) -> Result<MutexGuard<'a, HubState>> {
        match deadline {
            None => Ok(wait(&self.changed, state, None)),
            Some(_) if has_passed(deadline) => Err(TransportError::Timeout),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                Ok(wait(&self.changed, state, Some(left)))
            }
        }
    }

    /// Makes a dialler dial, if there is no peer.
    fn want(&self, state: &mut HubState) {
        if state.live().next().is_none() && !std::mem::replace(&mut state.is_wanted, true) {
            self.task.notify_one();
        }
    }

    /// Waits for a peer.
    pub(crate) fn connect(&self, deadline: Deadline) -> Result<ConnectionId> {
        let mut state = self.lock();
        loop {
            self.closing.check()?;
            if let Some(peer) = state.live().next() {
                return Ok(peer.id);
            }
            self.want(&mut state);
            state = self.wait(state, deadline)?;
        }
    }

    /// Sends a frame to the peer that `pick` selects. After a long frame, waits
    /// until the peer has received it: if the deadline passes meanwhile, the
    /// frame is in flight.
    pub(crate) fn send(
        &self,
        frame: Bytes,
        deadline: Deadline,
        mut pick: impl FnMut(&mut HubState) -> Result<Option<usize>>,
    ) -> Result<()> {
        let length = words::data_length(&frame);
        let mut state = self.lock();
        let peer = loop {
            self.closing.check()?;
            if let Some(at) = pick(&mut state)? {
                break &mut state.peers[at];
            }
            self.want(&mut state);
            state = self.wait(state, deadline)?;
        };
        let (id, number) = (peer.id, peer.sends(length));
        state.outbox.push((id, frame));
        self.task.notify_one();
        if length as u64 <= WINDOW.bytes {
            return Ok(());
        }
        self.await_passing(state, id, number, deadline)
    }

    /// Waits until a peer has received a message, which stays in flight even if
    /// the deadline passes.
    fn await_passing(
        &self,
        mut state: MutexGuard<'_, HubState>,
        id: ConnectionId,
        number: u64,
        deadline: Deadline,
    ) -> Result<()> {
        loop {
            self.closing.check()?;
            match state.peer(id).filter(|peer| !peer.is_gone) {
                None => return Err(TransportError::Disconnected),
                Some(peer) if peer.has_passed(number) => return Ok(()),
                Some(_) => {}
            }
            state = match self.wait(state, deadline) {
                Ok(state) => state,
                Err(_) => return Ok(()),
            };
        }
    }

    /// Waits until the peers have received everything that was sent to them.
    pub(crate) fn flush(&self, deadline: Deadline) -> Result<()> {
        let mut state = self.lock();
        loop {
            self.closing.check()?;
            if state.live().all(Peer::has_passed_all) {
                return Ok(());
            }
            state = self.wait(state, deadline)?;
        }
    }

    /// Reports what the peers have not received yet, according to their own
    /// reports.
    pub(crate) fn backlog(&self) -> Backlog {
        let state = self.lock();
        Backlog { connections: state.made, unread: Some(state.live().map(Peer::under_way).sum()) }
    }

    /// Receives the next message or event; `read` decodes a message.
    pub(crate) fn receive<T>(
        &self,
        deadline: Deadline,
        mut read: impl FnMut(&mut Peer, &[u8]) -> T,
    ) -> Result<Incoming<T>> {
        let mut state = self.lock();
        loop {
            self.closing.check()?;
            match state.next() {
                Some(Incoming::Message(id, at)) => {
                    let peer = &mut state.peers[at];
                    let message = peer.take().unwrap_or_default();
                    let outcome = read(peer, &message);
                    if peer.is_to_be_told() {
                        self.task.notify_one();
                    }
                    return Ok(Incoming::Message(id, outcome));
                }
                Some(Incoming::Connected(id)) => return Ok(Incoming::Connected(id)),
                Some(Incoming::Disconnected(id)) => return Ok(Incoming::Disconnected(id)),
                None => {}
            }
            if std::mem::take(&mut state.is_flagged) {
                self.news.lower();
            }
            if self.closing.is_finishing() {
                // Data in flight on a connection is received before its end.
                if state.live().next().is_none() || has_passed(self.closing.finish_by()) {
                    return Err(TransportError::Closed);
                }
            } else {
                self.want(&mut state);
            }
            state = match self.wait(state, earlier(deadline, self.closing.finish_by())) {
                Ok(state) => state,
                Err(TransportError::Timeout) if !has_passed(deadline) => self.lock(),
                Err(error) => return Err(error),
            };
        }
    }

    /// Takes messages of `id` until `accept` returns something for one.
    pub(crate) fn take_from<T>(
        &self,
        state: &mut HubState,
        id: ConnectionId,
        mut accept: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let peer = state.peers.iter_mut().find(|peer| peer.id == id)?;
        let mut found = None;
        while found.is_none()
            && let Some(message) = peer.take()
        {
            found = accept(&message);
        }
        if peer.is_to_be_told() {
            self.task.notify_one();
        }
        found
    }

    /// Ends every wait once everything that has arrived is received.
    pub(crate) fn finish(&self) {
        // Under the lock, so that a thread that is about to wait sees it.
        let _state = self.lock();
        self.closing.finish();
        self.changed.notify_all();
    }

    /// Ends every wait; returns false if the hub was already closed.
    pub(crate) fn close(&self) -> bool {
        // Under the lock, so that no message is accepted afterwards.
        let _state = self.lock();
        let first = self.closing.close();
        self.news.raise();
        self.changed.notify_all();
        self.task.notify_one();
        first
    }

    /// Waits until the task has said goodbye to the peers, or `deadline`.
    pub(crate) fn await_end(&self, deadline: Instant) {
        let mut state = self.lock();
        while !state.is_over {
            state = match self.wait(state, Some(deadline)) {
                Ok(state) => state,
                Err(_) => return,
            };
        }
    }
}

/// The methods of the task.
impl Hub {
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.check().is_err()
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().is_wanted
    }

    /// Waits until a caller has something to do for the task.
    pub(crate) async fn called(&self) {
        self.task.notified().await;
    }

    /// Records a new peer.
    pub(crate) fn joined(&self, id: ConnectionId) {
        let mut state = self.lock();
        state.peers.push(Peer::new(id));
        state.made += 1;
        self.tell(state);
    }

    /// Handles a peer's frame; false when the peer must be disconnected.
    pub(crate) fn heard(&self, id: ConnectionId, frame: Bytes) -> bool {
        let Some(word) = Word::read(frame) else { return false };
        let mut state = self.lock();
        let Some(peer) = state.peers.iter_mut().find(|peer| peer.id == id) else { return false };
        let is_fine = match word {
            Word::Data(message) => self.admits(&message) && peer.arrived(message),
            Word::Taken(count) => peer.passes(count),
            Word::Bye => false,
        };
        self.tell(state);
        is_fine
    }

    /// Whether a message is valid for a socket of this role.
    fn admits(&self, message: &[u8]) -> bool {
        let has_id = message.len() >= ID && message[0] & 0x80 != 0;
        match self.role {
            Role::Push => false,
            Role::Pull => message.len() <= self.max_message,
            Role::Request => has_id && message.len() - ID <= self.max_message,
            // The receiver is told its length.
            Role::Reply => has_id,
        }
    }

    /// Records that a peer has disconnected.
    pub(crate) fn left(&self, id: ConnectionId) {
        let mut state = self.lock();
        // A caller that still wants a connection will ask again.
        state.is_wanted = false;
        if let Some(at) = state.peers.iter().position(|peer| peer.id == id) {
            let visits = state.peers.iter().filter(|peer| peer.is_gone && !peer.is_announced).count();
            let peer = &mut state.peers[at];
            peer.is_gone = true;
            let tells_of_it = match self.role {
                Role::Pull | Role::Reply => peer.is_announced || peer.has_mail() || visits < MAX_VISITS,
                Role::Push | Role::Request => peer.has_mail(),
            };
            if !tells_of_it {
                state.remove(at);
            }
        }
        self.tell(state);
    }

    /// Takes the frames to send now. With `all`, peers are also told again what
    /// they know already.
    pub(crate) fn outgoing(&self, all: bool) -> Vec<(ConnectionId, Bytes)> {
        let mut state = self.lock();
        let mut frames = Vec::new();
        for peer in state.peers.iter_mut().filter(|peer| !peer.is_gone) {
            if let Some(count) = peer.tell().or_else(|| all.then(|| peer.told())) {
                frames.push((peer.id, words::taken(count)));
            }
        }
        frames.append(&mut state.outbox);
        frames
    }

    /// Records the end of the task, and of all connections.
    pub(crate) fn is_over(&self) {
        let mut state = self.lock();
        state.is_over = true;
        self.tell(state);
    }

    fn tell(&self, mut state: MutexGuard<'_, HubState>) {
        let receives = matches!(self.role, Role::Pull | Role::Reply);
        if receives && !state.is_flagged && state.has_news() {
            state.is_flagged = true;
            self.news.raise();
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl HubState {
    /// The connected peers.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| !peer.is_gone)
    }

    pub(crate) fn peer(&self, id: ConnectionId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    /// Returns the next peer in turn that has room for a message.
    pub(crate) fn next_with_room(&mut self) -> Option<usize> {
        let at = self.in_turn().find(|at| self.peers[*at].has_room())?;
        self.turn = at + 1;
        Some(at)
    }

    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (count, first) = (self.peers.len(), self.turn);
        (0..count).map(move |step| (first + step) % count)
    }

    fn has_news(&self) -> bool {
        self.peers.iter().any(|peer| !peer.is_announced || peer.has_mail() || peer.is_gone)
    }

    /// Returns the next event; for a message, its connection and that peer's
    /// index.
    fn next(&mut self) -> Option<Incoming<usize>> {
        if let Some(newcomer) = self.peers.iter_mut().find(|peer| !peer.is_announced) {
            newcomer.is_announced = true;
            return Some(Incoming::Connected(newcomer.id));
        }
        let at = self.in_turn().find(|at| self.peers[*at].has_mail() || self.peers[*at].is_gone)?;
        let id = self.peers[at].id;
        if self.peers[at].has_mail() {
            self.turn = at + 1;
            return Some(Incoming::Message(id, at));
        }
        self.remove(at);
        Some(Incoming::Disconnected(id))
    }

    fn remove(&mut self, at: usize) {
        self.peers.remove(at);
        if self.turn > at {
            self.turn -= 1;
        }
    }

    /// Removes peers whose connections have ended.
    pub(crate) fn forget_the_gone(&mut self) {
        self.peers.retain(|peer| !peer.is_gone);
        self.turn = 0;
    }
}
