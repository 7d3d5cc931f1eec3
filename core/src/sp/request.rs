//! The requester's side of request/reply: request ids, and matching of replies.

use std::time::{Duration, Instant};

use crate::instant::later;

/// Assigns ids to requests and finds the reply to the latest one.
///
/// An id has its highest bit set and is one more than the previous one; a reply
/// with any other id is dropped.
#[derive(Debug)]
pub struct Requester {
    last: u32,
    retry: Option<Duration>,
    outstanding: Option<Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    id: u32,
    resend_at: Option<Instant>,
}

const ID_BIT: u32 = 0x8000_0000;

impl Requester {
    /// Creates a requester whose first id follows `seed`: a random number, so
    /// that two processes on one channel use different ids.
    pub fn new(seed: u32, retry: Option<Duration>) -> Self {
        Self { last: seed, retry, outstanding: None }
    }

    /// Begins a request, which cancels the previous one; returns the four bytes
    /// that precede its body.
    pub fn begin(&mut self, now: Instant) -> [u8; 4] {
        self.last = self.last.wrapping_add(1);
        let id = self.last | ID_BIT;
        self.outstanding = Some(Outstanding { id, resend_at: self.retry.map(|after| later(now, after)) });
        id.to_be_bytes()
    }

    /// Whether a request is in flight.
    pub fn is_waiting(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Cancels the request in flight: its reply, if it arrives, is dropped.
    pub fn cancel(&mut self) {
        self.outstanding = None;
    }

    /// Returns the body of the reply to the request in flight, which is then
    /// done; `None` for any other message, which must be dropped.
    pub fn accept<'a>(&mut self, message: &'a [u8]) -> Option<&'a [u8]> {
        let (id, body) = message.split_first_chunk::<4>()?;
        (self.outstanding.as_ref()?.id == u32::from_be_bytes(*id)).then(|| {
            self.outstanding = None;
            body
        })
    }

    /// The instant at which the request must be sent again.
    pub fn resend_at(&self) -> Option<Instant> {
        self.outstanding.as_ref()?.resend_at
    }

    /// Records that the request in flight is sent again, and returns its id,
    /// which stays the same; `None` when no request is in flight or repeating
    /// is off.
    pub fn resend(&mut self, now: Instant) -> Option<[u8; 4]> {
        let after = self.retry?;
        let outstanding = self.outstanding.as_mut()?;
        outstanding.resend_at = Some(later(now, after));
        Some(outstanding.id.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: [u8; 4], body: &[u8]) -> Vec<u8> {
        [&id, body].concat()
    }

    #[test]
    fn ids_count_up_with_the_high_bit_set() {
        let mut requester = Requester::new(u32::MAX - 1, None);
        let ids: Vec<_> = (0..3).map(|_| u32::from_be_bytes(requester.begin(Instant::now()))).collect();
        assert_eq!(ids, [0xffff_ffff, 0x8000_0000, 0x8000_0001]);
    }

    #[test]
    fn only_the_outstanding_reply_counts_and_only_once() {
        let mut requester = Requester::new(7, None);
        let first = requester.begin(Instant::now());
        let second = requester.begin(Instant::now());
        assert_eq!(requester.accept(&reply(first, b"late")), None);
        assert_eq!(requester.accept(b"\x80\0"), None);
        assert_eq!(requester.accept(&reply(second, b"yes")), Some(&b"yes"[..]));
        assert_eq!(requester.accept(&reply(second, b"again")), None);
        assert!(!requester.is_waiting());
    }

    #[test]
    fn a_repeated_request_keeps_its_id() {
        let now = Instant::now();
        let pause = Duration::from_millis(400);
        let mut requester = Requester::new(7, Some(pause));
        let id = requester.begin(now);
        assert_eq!(requester.resend_at(), Some(now + pause));
        assert_eq!(requester.resend(now + pause), Some(id));
        assert_eq!(requester.resend_at(), Some(now + pause * 2));
        requester.cancel();
        assert_eq!(requester.resend(now), None);
    }
}
