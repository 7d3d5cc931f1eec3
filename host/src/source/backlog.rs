//! Messages read from a source before its reader asked for them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::health::vitals::Vitals;

/// Limits of the messages kept for a reader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Messages in order.
pub(crate) struct Backlog {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Counts what is in it.
    vitals: Arc<Vitals>,
}

impl Backlog {
    pub(crate) fn new(vitals: &Arc<Vitals>) -> Self {
        Self { messages: VecDeque::new(), bytes: 0, vitals: vitals.clone() }
    }

    pub(crate) fn push(&mut self, message: Vec<u8>) {
        self.vitals.queued();
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.pop_front()?;
        self.vitals.unqueued(1);
        self.bytes -= message.len();
        if self.messages.is_empty() {
            // A large buffer may never be needed again.
            self.messages = VecDeque::new();
        }
        Some(message)
    }

    pub(crate) fn clear(&mut self) {
        self.vitals.unqueued(self.messages.len() as u64);
        (self.messages, self.bytes) = (VecDeque::new(), 0);
    }

    /// Returns the number of messages, and their size in bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.messages.len(), self.bytes)
    }

    /// Returns whether a limit is reached.
    pub(crate) fn is_full(&self, bounds: Bounds) -> bool {
        self.messages.len() >= bounds.messages || self.bytes >= bounds.bytes
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::vitals::Place;
    use ekuiper_core::message::{Meta, SymbolKind};

    #[test]
    fn order_is_kept_and_both_bounds_hold() {
        let bounds = Bounds { messages: 3, bytes: 10 };
        let place = Place { kind: SymbolKind::Source, name: "s".into(), meta: Meta::default() };
        let vitals = Arc::new(Vitals::of_source(place, 0));
        let mut backlog = Backlog::new(&vitals);
        for length in 1..=3 {
            assert!(!backlog.is_full(bounds));
            backlog.push(vec![0; length]);
        }
        assert!(backlog.is_full(bounds), "by number");
        assert_eq!((backlog.size(), vitals.health(0).queue), ((3, 6), Some(3)));
        for length in 1..=3 {
            assert_eq!(backlog.pop().unwrap().len(), length);
        }
        assert_eq!((backlog.pop(), backlog.size()), (None, (0, 0)));
        backlog.push(vec![0; 10]);
        assert!(backlog.is_full(bounds), "by bytes");
        backlog.clear();
        assert_eq!(backlog.size(), (0, 0));
        backlog.push(vec![]);
        drop(backlog);
        assert_eq!(vitals.health(0).queue, Some(0));
    }
}
