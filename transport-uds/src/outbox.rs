//! The batch of posted frames of one connection.

use ekuiper_core::sp::{FRAME_HEADER, frame_header};
use rustix::io::Errno;

use crate::link::Link;

/// Maximum size of a batch: beyond it, a write gets no cheaper per message, and
/// the caches no warmer.
const CAPACITY: usize = 64 << 10;

/// Maximum length of a body that is batched. A longer one costs more to copy
/// than to write.
pub(crate) const MAX_GATHERED: usize = 16 << 10;

/// Frames that were accepted and not yet written. If the kernel takes only a
/// part, the rest stays, even if it begins in the middle of a frame.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// The number of bytes that were written already.
    sent: usize,
    /// Where the last frame begins.
    last: usize,
}

/// The peer is gone, and the frames that were not written are lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether there is room for one more body of this length.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.bytes.len() - self.sent + FRAME_HEADER + length <= CAPACITY
    }

    /// Appends a frame. There must be [room](Self::has_room).
    pub(crate) fn put(&mut self, body: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(CAPACITY);
        }
        if self.bytes.len() + FRAME_HEADER + body.len() > CAPACITY {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(&frame_header(body.len()));
        self.bytes.extend_from_slice(body);
    }

    /// The body of the last frame, if nothing of that was written.
    pub(crate) fn last_body(&mut self) -> Option<&mut [u8]> {
        if self.last < self.sent { None } else { self.bytes.get_mut(self.last + FRAME_HEADER..) }
    }

    /// Writes as much as the connection takes without blocking; returns whether
    /// that was everything.
    ///
    /// # Errors
    /// [`Gone`] when the peer is gone.
    pub(crate) fn write_posted(&mut self, link: &Link) -> Result<bool, Gone> {
        while self.sent < self.bytes.len() {
            let rest = &self.bytes[self.sent..];
            match link.send(rest, &[]) {
                Ok(count) => {
                    let is_part = count < rest.len();
                    self.sent += count;
                    if is_part {
                        return Ok(false);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(_) => {
                    self.clear();
                    return Err(Gone);
                }
            }
        }
        self.clear();
        Ok(true)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.sent, self.last) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_frame_that_is_not_begun_can_be_changed() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.last_body(), None);
        outbox.put(b"first");
        assert_eq!(outbox.last_body(), Some(&mut b"first"[..].to_vec()[..]));
        outbox.put(b"second");
        // The first was written, and nothing of the second.
        outbox.sent = FRAME_HEADER + 5;
        outbox.last_body().unwrap().copy_from_slice(b"SECOND");
        assert!(outbox.bytes.ends_with(b"SECOND"));
        // The kernel has the beginning of its header.
        outbox.sent += 1;
        assert_eq!(outbox.last_body(), None);
        // What was written is removed to make room.
        let long = [7; MAX_GATHERED];
        while outbox.bytes.len() + FRAME_HEADER + long.len() <= CAPACITY {
            outbox.put(&long);
        }
        outbox.put(&long);
        assert_eq!(outbox.sent, 0);
        assert_eq!(outbox.last_body().map(|body| body.len()), Some(long.len()));
        outbox.clear();
        assert_eq!(outbox.last_body(), None);
    }
}
