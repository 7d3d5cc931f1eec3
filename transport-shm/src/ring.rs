//! The two ends of a ring: the sender's and the receiver's.
//!
//! Each end keeps its own index to itself and only publishes it. The other
//! side's index is read once per operation, and must have moved forward by no
//! more than the ring holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use crate::memory::{CAPACITY, Memory, RingWords};

/// A ring that was full is full until so much of it is free, and a message up
/// to this length is written in one piece: otherwise each read of a slow
/// receiver would wake the sender for a few bytes.
const ROOM: u32 = CAPACITY / 4;

/// Length of the pieces that long messages are copied in. Each is published, so
/// that the other side copies one while this side copies the next.
const PIECE: usize = 32 << 10;

/// The peer has set an index that it cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadIndex;

/// An index that the peer publishes.
#[derive(Debug, Default)]
struct PeerIndex {
    /// The furthest that was seen.
    seen: AtomicU32,
}

impl PeerIndex {
    /// The furthest that was seen: the peer's may be further by now.
    fn seen(&self) -> u32 {
        self.seen.load(Ordering::Acquire)
    }

    /// Reads the index once.
    fn read(&self, word: &AtomicU32) -> Result<u32, BadIndex> {
        // In this order: another thread may see a later one meanwhile.
        let mut seen = self.seen.load(Ordering::Acquire);
        let found = word.load(Ordering::Acquire);
        if found.wrapping_sub(seen) > CAPACITY {
            return Err(BadIndex);
        }
        while (found.wrapping_sub(seen) as i32) > 0 {
            match self.seen.compare_exchange_weak(seen, found, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(later) => seen = later,
            }
        }
        Ok(found)
    }
}

/// The end that bytes are written to.
#[derive(Debug)]
pub(crate) struct Sender {
    memory: Arc<Memory>,
    ring: usize,
    tail: AtomicU32,
    head: PeerIndex,
    /// Whether the latest attempt has found no room.
    is_full: AtomicBool,
}

impl Sender {
    pub(crate) fn new(memory: Arc<Memory>, ring: usize) -> Self {
        Self { memory, ring, tail: AtomicU32::new(0), head: PeerIndex::default(), is_full: AtomicBool::new(false) }
    }

    pub(crate) fn words(&self) -> &RingWords {
        &self.memory.words().rings[self.ring]
    }

    /// Writes as much of both pieces as there is room for; a short message
    /// whole or not at all. `None`: there is no room. One thread at a time.
    pub(crate) fn write(&self, head: &[u8], tail: &[u8]) -> Result<Option<usize>, BadIndex> {
        let own = self.tail.load(Ordering::Relaxed);
        let length = head.len() + tail.len();
        let free_after = |read: u32| CAPACITY.checked_sub(own.wrapping_sub(read));
        // The peer's index is in another processor's cache: it is read only if
        // what was seen of it leaves no room for everything.
        let seen = free_after(self.head.seen()).filter(|free| length <= *free as usize);
        let free = match seen.filter(|_| !self.is_full.load(Ordering::Relaxed)) {
            Some(free) => free,
            None => free_after(self.head.read(&self.words().head.0)?).ok_or(BadIndex)?,
        };
        let wanted = length.min(ROOM as usize) as u32;
        if free < ROOM && (free < wanted || self.is_full.load(Ordering::Relaxed)) {
            self.is_full.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        if self.is_full.load(Ordering::Relaxed) {
            self.is_full.store(false, Ordering::Relaxed);
        }
        let of_head = head.len().min(free as usize);
        let of_tail = tail.len().min(free as usize - of_head);
        self.memory.write(self.ring, own, &head[..of_head]);
        let mut own = own.wrapping_add(of_head as u32);
        let (first, rest) = tail[..of_tail].split_at(of_tail.min(PIECE));
        if !first.is_empty() {
            self.memory.write(self.ring, own, first);
            own = own.wrapping_add(first.len() as u32);
        }
        self.publish(own);
        for piece in rest.chunks(PIECE) {
            self.memory.write(self.ring, own, piece);
            own = own.wrapping_add(piece.len() as u32);
            self.publish(own);
        }
        Ok(Some(of_head + of_tail))
    }

    #[inline]
    fn publish(&self, own: u32) {
        // In this order: whoever sees the published index sees this one too.
        self.tail.store(own, Ordering::Release);
        self.words().tail.0.store(own, Ordering::Release);
    }

    /// Whether an attempt does not find the ring full: it succeeds, or fails.
    pub(crate) fn has_room(&self) -> bool {
        let Ok(read) = self.head.read(&self.words().head.0) else { return true };
        let used = self.tail.load(Ordering::Acquire).wrapping_sub(read);
        CAPACITY.checked_sub(used).is_none_or(|free| free >= ROOM)
    }

    /// Number of bytes that the peer has not read.
    pub(crate) fn unread(&self) -> usize {
        let read = self.words().head.0.load(Ordering::Acquire);
        self.tail.load(Ordering::Acquire).wrapping_sub(read).min(CAPACITY) as usize
    }
}

/// The end that bytes are read from.
#[derive(Debug)]
pub(crate) struct Receiver {
    memory: Arc<Memory>,
    ring: usize,
    head: AtomicU32,
    tail: PeerIndex,
}

impl Receiver {
    pub(crate) fn new(memory: Arc<Memory>, ring: usize) -> Self {
        Self { memory, ring, head: AtomicU32::new(0), tail: PeerIndex::default() }
    }

    pub(crate) fn words(&self) -> &RingWords {
        &self.memory.words().rings[self.ring]
    }

    fn available(&self) -> Result<u32, BadIndex> {
        let written = self.tail.read(&self.words().tail.0)?;
        let available = written.wrapping_sub(self.head.load(Ordering::Relaxed));
        if available > CAPACITY { Err(BadIndex) } else { Ok(available) }
    }

    /// Copies what is there, as much as fits; returns how much. One thread at a
    /// time.
    pub(crate) fn read(&self, space: &mut [u8]) -> Result<usize, BadIndex> {
        let count = space.len().min(self.available()? as usize);
        for piece in space[..count].chunks_mut(PIECE) {
            let own = self.head.load(Ordering::Relaxed);
            self.memory.read(self.ring, own, piece);
            let own = own.wrapping_add(piece.len() as u32);
            self.head.store(own, Ordering::Relaxed);
            self.words().head.0.store(own, Ordering::Release);
        }
        Ok(count)
    }

    /// Whether a read finds something, or fails.
    pub(crate) fn has_bytes(&self) -> bool {
        self.available() != Ok(0)
    }
}

/// Whether the other side waits; called after an index was published. Returns
/// how it wants to be woken, once.
#[inline]
pub(crate) fn take_waiting(word: &AtomicU32) -> u32 {
    // The index before, the word after: the other side does it the other way
    // around, so one of the two sees the other's.
    fence(Ordering::SeqCst);
    if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::SeqCst) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Sender, Receiver, Arc<Memory>) {
        let memory = Arc::new(Memory::create().unwrap().0);
        (Sender::new(memory.clone(), 1), Receiver::new(memory.clone(), 1), memory)
    }

    #[test]
    fn bytes_arrive_in_order_over_many_rounds() {
        let (sender, receiver, _memory) = ends();
        let (mut sent, mut received) = (0u64, 0u64);
        let mut space = [0; 700];
        // Twice around the indices' own range would take long: they start just
        // before its end.
        for end in [&sender.tail, &receiver.head] {
            end.store(u32::MAX - 1000, Ordering::Relaxed);
        }
        for index in [&sender.head.seen, &receiver.tail.seen] {
            index.store(u32::MAX - 1000, Ordering::Relaxed);
        }
        let words = sender.words();
        words.tail.0.store(u32::MAX - 1000, Ordering::Relaxed);
        words.head.0.store(u32::MAX - 1000, Ordering::Relaxed);
        while sent < 3 * u64::from(CAPACITY) {
            let bytes: Vec<u8> = (sent..sent + 997).map(|at| at as u8).collect();
            if let Some(count) = sender.write(&bytes[..9], &bytes[9..]).unwrap() {
                assert_eq!(count, 997);
                sent += 997;
            }
            let count = receiver.read(&mut space).unwrap();
            for byte in &space[..count] {
                assert_eq!(*byte, received as u8);
                received += 1;
            }
        }
        assert!(received > 0 && sender.unread() as u64 == sent - received);
    }

    #[test]
    fn a_short_message_is_written_whole_and_a_long_one_in_pieces() {
        let (sender, receiver, _memory) = ends();
        let long = vec![7; 3 * CAPACITY as usize];
        assert_eq!(sender.write(b"head", &long), Ok(Some(CAPACITY as usize)));
        assert_eq!(sender.write(b"head", b"tail"), Ok(None));
        receiver.read(&mut vec![0; ROOM as usize - 1]).unwrap();
        assert!(!sender.has_room());
        assert_eq!(sender.write(b"head", b"tail"), Ok(None), "still full");
        receiver.read(&mut [0; 1]).unwrap();
        assert!(sender.has_room());
        assert_eq!(sender.write(b"head", b"tail"), Ok(Some(8)));
        assert_eq!(sender.write(b"head", b"tail"), Ok(Some(8)), "no longer full");
        assert_eq!(sender.write(&long, &[]), Ok(None), "only a part of it");
        receiver.read(&mut [0; 100]).unwrap();
        assert_eq!(sender.write(&long, &[]), Ok(Some(ROOM as usize + 84)));
    }

    #[test]
    fn an_index_that_jumps_is_refused() {
        let set = |word: &crate::memory::Word, to: u32| word.0.store(to, Ordering::SeqCst);
        for wrong in [CAPACITY + 1, u32::MAX, 1 << 31] {
            let (sender, receiver, _memory) = ends();
            set(&receiver.words().tail, wrong);
            assert_eq!(receiver.read(&mut [0; 8]), Err(BadIndex), "{wrong}");
            assert!(receiver.has_bytes(), "{wrong}");
            set(&sender.words().head, wrong);
            assert_eq!(sender.write(b"x", b"y"), Ok(Some(2)), "{wrong}, which was not needed");
            assert_eq!(sender.write(b"x", &[0; CAPACITY as usize]), Err(BadIndex), "{wrong}");
            assert!(sender.has_room() && sender.unread() <= CAPACITY as usize, "{wrong}");
        }
        // Beyond what was written, and back.
        let (sender, receiver, _memory) = ends();
        assert_eq!(sender.write(b"four", b""), Ok(Some(4)));
        set(&sender.words().head, 5);
        assert_eq!(sender.write(b"x", &[0; CAPACITY as usize]), Err(BadIndex));
        assert!(receiver.has_bytes());
        set(&sender.words().tail, 3);
        assert_eq!(receiver.read(&mut [0; 8]), Err(BadIndex), "what was there is gone");
    }
}
