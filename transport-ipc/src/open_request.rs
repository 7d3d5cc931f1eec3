//! Which request of a connection can be answered: its latest, once.

use std::sync::atomic::{AtomicU64, Ordering};

use ekuiper_core::transport::{ConnectionId, RequestId, Result, Ticket, TransportError};

/// The number of requests that a socket has received, which makes the tickets
/// distinct.
#[derive(Debug, Default)]
pub struct Tickets(AtomicU64);

/// The request of one connection that can be answered. Its methods may be
/// called by several threads at once.
#[derive(Debug, Default)]
pub struct OpenRequest {
    /// Twice the serial of the latest request, and one more once its right to
    /// be answered is taken.
    latest: AtomicU64,
}

impl Tickets {
    /// Creates the ticket of a request, which supersedes its connection's
    /// earlier one.
    #[inline]
    pub fn issue(&self, open: &OpenRequest, connection: ConnectionId, request: RequestId) -> Ticket {
        let serial = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        open.latest.store(serial << 1, Ordering::Release);
        Ticket { connection, serial, request }
    }
}

impl OpenRequest {
    /// Takes the right to answer. Must be called before the answer is sent: the
    /// connection's next request may arrive before that call returns.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] when the request was answered or superseded.
    #[inline]
    pub fn take(&self, ticket: &Ticket) -> Result<()> {
        let (open, taken) = (ticket.serial << 1, ticket.serial << 1 | 1);
        match self.latest.compare_exchange(open, taken, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(_) => Err(TransportError::Misuse("the request was already answered, or superseded by a later one")),
        }
    }

    /// Returns the right to answer after nothing was sent, unless a later
    /// request has arrived meanwhile.
    pub fn give_back(&self, ticket: &Ticket) {
        let (open, taken) = (ticket.serial << 1, ticket.serial << 1 | 1);
        let _ = self.latest.compare_exchange(taken, open, Ordering::AcqRel, Ordering::Acquire);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Arrive(usize),
        Take(usize),
        GiveBack(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3usize).prop_map(Step::Arrive),
            any::<usize>().prop_map(Step::Take),
            any::<usize>().prop_map(Step::GiveBack),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// In any order of requests, answers and answers that fail: only the
        /// latest request of a connection can be answered, and once.
        #[test]
        fn only_the_latest_request_of_a_connection_is_answered_and_once(steps in steps()) {
            let (tickets, open) = (Tickets::default(), [(); 3].map(|()| OpenRequest::default()));
            let mut issued: Vec<Ticket> = Vec::new();
            let mut latest = [None; 3];
            let mut taken = HashSet::new();
            for step in steps {
                match step {
                    Step::Arrive(at) => {
                        let ticket = tickets.issue(&open[at], ConnectionId(at as u64), RequestId::default());
                        prop_assert!(issued.iter().all(|other| other.serial != ticket.serial));
                        latest[at] = Some(ticket.serial);
                        issued.push(ticket);
                    }
                    Step::Take(which) if !issued.is_empty() => {
                        let ticket = &issued[which % issued.len()];
                        let at = ticket.connection.0 as usize;
                        let may = latest[at] == Some(ticket.serial) && !taken.contains(&ticket.serial);
                        prop_assert_eq!(open[at].take(ticket).is_ok(), may);
                        if may {
                            taken.insert(ticket.serial);
                        }
                    }
                    Step::GiveBack(which) if !issued.is_empty() => {
                        let ticket = &issued[which % issued.len()];
                        // Only who has the right gives it back.
                        if taken.remove(&ticket.serial) {
                            open[ticket.connection.0 as usize].give_back(ticket);
                        }
                    }
                    Step::Take(_) | Step::GiveBack(_) => {}
                }
            }
        }
    }
}
