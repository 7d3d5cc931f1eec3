//! Messages that columns borrow, and their memory once they do not.

use std::sync::{Arc, Mutex};

use arrow_buffer::Buffer;
use bytes::Bytes;

use crate::buffer::{KEEP, trim};
use crate::sync::lock;

/// Maximum number of buffers that wait for a message.
const SPARE: usize = 2;

/// Length below which a message is copied: cheaper than sharing it.
const SHARED_FROM: usize = 4 << 10;

/// Buffers of messages whose columns are in use, or were: decoded columns borrow
/// a message's memory, and when the last of them is dropped, the next message
/// takes it. A few buffers at most wait for that.
#[derive(Clone, Debug, Default)]
pub struct MessageMemory(Arc<Mutex<Vec<Vec<u8>>>>);

impl MessageMemory {
    /// Shares a message with the columns that are decoded from it, and leaves
    /// another buffer in its place. A message that is short, or much shorter
    /// than its buffer, is copied, so that columns never keep much more memory
    /// than they have.
    pub fn share(&self, message: &mut Vec<u8>) -> Buffer {
        if message.len() < SHARED_FROM.max(message.capacity() / 2) {
            return Buffer::from(message.as_slice());
        }
        let spare = lock(&self.0).pop();
        // The next message is likely as long; what is not used yet takes no memory.
        let spare = spare.unwrap_or_else(|| Vec::with_capacity(message.len().min(KEEP)));
        let message = std::mem::replace(message, spare);
        Buffer::from(Bytes::from_owner(SharedMessage { message, memory: self.clone() }))
    }
}

/// A message that columns borrow.
struct SharedMessage {
    message: Vec<u8>,
    memory: MessageMemory,
}

impl AsRef<[u8]> for SharedMessage {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

impl Drop for SharedMessage {
    fn drop(&mut self) {
        trim(&mut self.message);
        let mut spare = lock(&self.memory.0);
        if spare.len() < SPARE && self.message.capacity() <= KEEP {
            spare.push(std::mem::take(&mut self.message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_no_column_borrows_it() {
        let memory = MessageMemory::default();
        let mut message = vec![1; 100_000];
        let place = message.as_ptr();
        let shared = memory.share(&mut message);
        assert!(shared.as_ptr() == place && message.as_ptr() != place, "it was copied");
        let part = shared.slice(5);
        drop(shared);
        let mut other = vec![2; 100_000];
        drop(memory.share(&mut other));
        assert_eq!(part[0], 1, "a column borrows it");
        drop(part);
        let mut third = vec![3; 100_000];
        let _third = memory.share(&mut third);
        assert_eq!(third.as_ptr(), place);
    }

    #[test]
    fn few_buffers_wait_and_none_is_long() {
        let memory = MessageMemory::default();
        let shared: Vec<_> = (0..10).map(|_| memory.share(&mut vec![1; 100_000])).collect();
        drop(shared);
        drop(memory.share(&mut vec![1; 2 * KEEP]));
        let spare = memory.0.lock().unwrap();
        assert!(spare.len() == SPARE && spare.iter().all(|buffer| buffer.capacity() <= KEEP));
    }

    #[test]
    fn a_message_in_a_long_buffer_is_copied() {
        let memory = MessageMemory::default();
        let mut message = Vec::with_capacity(1 << 20);
        message.resize(10_000, 7);
        let place = message.as_ptr();
        let shared = memory.share(&mut message);
        assert!(shared.len() == 10_000 && shared.as_ptr() != place && message.as_ptr() == place);
    }
}
