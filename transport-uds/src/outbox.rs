//! Frames that were posted on one connection and wait for company.

use ekuiper_core::sp::{FRAME_HEADER, frame_header};
use rustix::io::Errno;

use crate::link::Link;

/// How much is gathered at most: with more, a write gets no cheaper by the
/// message, and the caches no warmer.
const CAPACITY: usize = 64 << 10;

/// The longest body that waits for company. A longer one costs more to copy
/// than to write.
pub(crate) const MAX_GATHERED: usize = 16 << 10;

/// What has been accepted and not been written yet. Where the kernel takes a
/// part of it, the rest stays, whatever frame that ends in.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// How many of them are out.
    sent: usize,
}

/// The peer is gone, and with it what was not written.
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

    /// Puts a frame behind the others. There must be [room](Self::has_room).
    pub(crate) fn put(&mut self, body: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(CAPACITY);
        }
        if self.bytes.len() + FRAME_HEADER + body.len() > CAPACITY {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(&frame_header(body.len()));
        self.bytes.extend_from_slice(body);
    }

    /// Writes what the connection takes without waiting; whether that was all.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) fn let_go(&mut self, link: &Link) -> Result<bool, Gone> {
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
        self.sent = 0;
    }
}
