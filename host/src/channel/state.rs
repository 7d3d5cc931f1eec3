//! What a channel knows of its peer and of the command that is in flight.

use std::collections::HashMap;
use std::task::Waker;
use std::time::Instant;

use ekuiper_core::exchange::{HostEnd, NotReady};
use ekuiper_core::message::Hello;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::ConnectionId;

use super::Failure;

#[derive(Default)]
pub(super) struct State {
    pub(super) end: HostEnd,
    pub(super) buffer: Vec<u8>,
    /// When the last peer disconnected.
    pub(super) lost_at: Option<Instant>,
    /// Number of connections.
    pub(super) connections: usize,
    /// Number of consecutive events that were not the peer's.
    pub(super) strangers: usize,
    pub(super) rivals: Throttle,
    pub(super) garbages: Throttle,
    /// First bytes of the first stranger, for the error.
    pub(super) garbage: Option<Vec<u8>>,
    /// What the connected processes have announced of themselves.
    pub(super) hellos: HashMap<ConnectionId, Hello>,
    /// A posted command, which no caller waits for.
    pub(super) posted: Option<Posted>,
    /// Number of posted commands so far.
    posts: u64,
    /// Tasks to be woken by the next event.
    pub(super) tasks: Vec<Waker>,
}

/// A command whose answer no caller waits for.
pub(super) struct Posted {
    number: PostNumber,
    pub(super) tell: Tell,
    /// The command, if it may have to be sent again: a plugin on an official
    /// SDK may send a keepalive that crosses it.
    pub(super) command: Option<Vec<u8>>,
}

/// Number of a posted command on its channel.
pub(crate) type PostNumber = u64;

/// Callback that takes the answer in the buffer, or the failure.
pub(super) type Tell = Box<dyn FnOnce(Result<&mut Vec<u8>, Failure>) + Send>;

impl State {
    pub(super) fn new(end: HostEnd) -> Self {
        Self { end, ..Self::default() }
    }

    /// Returns whether there is nothing of the peer to read: connections are
    /// read in turn, and the others have had several turns since its last event.
    /// Thus a flood of strangers does not keep a caller beyond its deadline.
    pub(super) fn is_peer_silent(&self) -> bool {
        self.strangers > 16 + 2 * self.connections
    }

    /// Counts an event as the peer's or a stranger's.
    pub(super) fn count(&mut self, connection: ConnectionId) {
        self.strangers = if self.end.peer() == Some(connection) { 0 } else { self.strangers.saturating_add(1) };
    }

    /// Records that a command was posted; returns its number.
    pub(super) fn mark_posted(&mut self, tell: Tell, command: Option<Vec<u8>>) -> PostNumber {
        self.posts += 1;
        self.posted = Some(Posted { number: self.posts, tell, command });
        self.posts
    }

    /// Returns whether a posted command is in flight: this one, or any.
    pub(super) fn has_posted(&self, number: Option<PostNumber>) -> bool {
        self.posted.as_ref().is_some_and(|posted| number.is_none_or(|number| number == posted.number))
    }

    /// Passes the answer of a posted command, or its failure, to its sender.
    pub(super) fn tell(&mut self, outcome: Result<(), Failure>) {
        if let Some(posted) = self.posted.take() {
            (posted.tell)(outcome.map(|()| &mut self.buffer));
        }
    }

    /// Returns why no command can be sent.
    pub(super) fn not_ready(&self) -> NotReady {
        if self.end.peer().is_none() { NotReady::NoPeer } else { NotReady::Busy }
    }
}
