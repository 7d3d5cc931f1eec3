//! The state of one connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ekuiper_core::transport::ConnectionId;
use ekuiper_transport_ipc::open_request::OpenRequest;

use crate::words::{Count, WINDOW};

/// Returns a connection id that is new in this process.
pub(crate) fn next_connection() -> ConnectionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Received messages, and the amount in flight in both directions.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    /// Whether the connection was reported.
    pub(crate) is_announced: bool,
    /// Whether the connection has ended; the peer is kept until its messages
    /// are taken.
    pub(crate) is_gone: bool,
    pub(crate) open: OpenRequest,
    /// Received messages that were not taken yet.
    inbox: VecDeque<Bytes>,
    received: Count,
    taken: Count,
    /// The part of `taken` that the peer has been told, or is being told.
    told: Count,
    sent: Count,
    /// The part of `sent` that the peer has reported as taken.
    passed: Count,
}

impl Peer {
    pub(crate) fn new(id: ConnectionId) -> Self {
        let nothing = Count::default();
        Self {
            id,
            is_announced: false,
            is_gone: false,
            open: OpenRequest::default(),
            inbox: VecDeque::new(),
            received: nothing,
            taken: nothing,
            told: nothing,
            sent: nothing,
            passed: nothing,
        }
    }

    pub(crate) fn has_mail(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Stores a message until it is taken; false when it exceeds the window.
    pub(crate) fn arrived(&mut self, message: Bytes) -> bool {
        if !self.received.since(self.told).leaves_room() {
            return false;
        }
        self.received.add(message.len());
        self.inbox.push_back(message);
        true
    }

    /// Takes the oldest message.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        let message = self.inbox.pop_front()?;
        self.taken.add(message.len());
        Some(message)
    }

    /// Whether the peer should be told soon what was taken: when no message is
    /// left, since it may wait for that, and before it runs out of room.
    pub(crate) fn is_to_be_told(&self) -> bool {
        let untold = self.taken.since(self.told);
        untold.messages > 0
            && (self.inbox.is_empty() || untold.messages >= WINDOW.messages / 4 || untold.bytes >= WINDOW.bytes / 4)
    }

    /// Returns what to tell the peer about taken messages, if anything is new.
    pub(crate) fn tell(&mut self) -> Option<Count> {
        let is_news = self.told != self.taken;
        self.told = self.taken;
        is_news.then_some(self.taken)
    }

    /// Returns what the peer was told, to repeat it.
    pub(crate) fn told(&self) -> Count {
        self.told
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.is_gone && self.sent.since(self.passed).leaves_room()
    }

    /// Records a message that is sent to the peer; returns the number of
    /// messages.
    pub(crate) fn sends(&mut self, length: usize) -> u64 {
        self.sent.add(length);
        self.sent.messages
    }

    /// Records the peer's report of taken messages; false when it is
    /// impossible.
    pub(crate) fn passes(&mut self, count: Count) -> bool {
        let is_possible = count.since(self.sent) == Count::default() && self.passed.since(count) == Count::default();
        if is_possible {
            self.passed = count;
        }
        is_possible
    }

    /// Whether the peer has taken the first `messages` messages.
    pub(crate) fn has_passed(&self, messages: u64) -> bool {
        self.passed.messages >= messages
    }

    /// The number of messages that the peer has not reported as taken.
    pub(crate) fn under_way(&self) -> u64 {
        self.sent.since(self.passed).messages
    }

    pub(crate) fn has_passed_all(&self) -> bool {
        self.passed == self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Bytes {
        vec![0; length].into()
    }

    #[test]
    fn who_sends_more_than_the_window_is_found_out() {
        let mut peer = Peer::new(ConnectionId(1));
        for _ in 0..WINDOW.messages {
            assert!(peer.arrived(message(1)));
        }
        assert!(!peer.arrived(message(1)));
        peer.take().unwrap();
        // The peer does not know yet.
        assert!(!peer.arrived(message(1)));
        assert_eq!(peer.tell(), Some(Count { messages: 1, bytes: 1 }));
        assert!(peer.arrived(message(1)));
        assert!(!peer.arrived(message(0)));
    }

    #[test]
    fn a_peer_is_told_when_nothing_is_left_and_before_it_must_wait() {
        let mut peer = Peer::new(ConnectionId(1));
        assert_eq!(peer.tell(), None);
        for _ in 0..WINDOW.messages {
            assert!(peer.arrived(message(1)));
        }
        let mut said = 0;
        while peer.take().is_some() {
            if peer.is_to_be_told() {
                peer.tell().unwrap();
                said += 1;
            }
        }
        assert_eq!(said, 4);
        assert!(peer.arrived(message(1)));
        peer.take().unwrap();
        assert!(peer.is_to_be_told());
    }

    #[test]
    fn who_claims_to_have_taken_what_was_not_sent_lies() {
        let mut peer = Peer::new(ConnectionId(1));
        assert_eq!(peer.sends(10), 1);
        assert!(!peer.passes(Count { messages: 2, bytes: 10 }));
        assert!(!peer.passes(Count { messages: 1, bytes: 11 }));
        assert!(!peer.has_passed(1));
        assert!(peer.passes(Count { messages: 1, bytes: 10 }));
        assert!(peer.has_passed(1) && peer.has_passed_all());
        // A peer cannot return messages either.
        assert!(!peer.passes(Count { messages: 0, bytes: 0 }));
    }
}
