//! The shared memory of one connection: its layout, and the only code that
//! touches it.
//!
//! The peer is not trusted. It can change every byte at any time, also while it
//! is read here. So nothing in it is ever borrowed as data: its words are
//! atomic integers, and its bytes are copied, by functions that check where
//! they copy. It cannot make the memory smaller, which would be a fatal signal:
//! the memory is sealed, and a descriptor without those seals is refused.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Number of bytes that a ring holds: a power of two, so that indices may wrap
/// around. Only pages that were used take memory.
pub(crate) const CAPACITY: u32 = 128 << 10;

/// Offset of the first ring's bytes. Words and bytes have pages of their own.
const BYTES: usize = 4096;

/// Length of the memory. Not a multiple of any size of huge pages, of which
/// memory that exists may still be missing when it is used.
pub(crate) const LENGTH: usize = BYTES + 2 * CAPACITY as usize;

/// The seals without which no memory is used: its length is final.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A word that no other word shares a cache line with, nor a pair of lines that
/// processors fetch together.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Word(pub(crate) AtomicU32);

/// The words of one ring. Its indices count bytes, and wrap around.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RingWords {
    /// Number of bytes written, set by the sender.
    pub(crate) tail: Word,
    /// Number of bytes read, set by the receiver.
    pub(crate) head: Word,
    /// How the receiver wants to be woken; zero: it does not wait.
    pub(crate) receiver: Word,
    /// How the sender wants to be woken.
    pub(crate) sender: Word,
}

/// The words at the beginning of the memory. All sizes are fixed, so that
/// processes of 32 and 64 bits understand each other.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Words {
    /// The ring from the listening side, and the one from the dialling side.
    pub(crate) rings: [RingWords; 2],
    /// Whether the listening, and the dialling, side has ended the connection.
    pub(crate) ended: [Word; 2],
}

const _: () = assert!(size_of::<Words>() == 1280 && size_of::<Words>() <= BYTES);
const _: () = assert!(CAPACITY.is_power_of_two());

/// The memory, mapped until it is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to no thread. Its words are atomic; its bytes are
// only copied, and two threads that copy the same ones at once are excluded by
// the callers of `write` and `read` (one sender and one receiver of a stream).
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Memory {
    /// Creates the memory of a connection, and the descriptor for the peer.
    ///
    /// # Errors
    /// This process, or the system, lacks a resource.
    pub(crate) fn create() -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = match memfd_create("ekuiper", flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3.
            Err(Errno::INVAL) => memfd_create("ekuiper", flags),
            created => created,
        }?;
        ftruncate(&descriptor, LENGTH as u64)?;
        fcntl_add_seals(&descriptor, SEALS)?;
        Ok((Self::map(descriptor.as_fd())?, descriptor))
    }

    /// Maps the memory that a peer has sent.
    ///
    /// # Errors
    /// It is not sealed memory of the right length, or there is no room for it.
    pub(crate) fn adopt(descriptor: &OwnedFd) -> io::Result<Self> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        // What is no memory has no seals.
        let seals = fcntl_get_seals(descriptor).unwrap_or(SealFlags::empty());
        if !seals.contains(SEALS) {
            return invalid("the listener's memory is not sealed");
        }
        if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return invalid("the listener's memory is sealed against writing");
        }
        if usize::try_from(fstat(descriptor)?.st_size) != Ok(LENGTH) {
            return invalid("the listener's memory has another length");
        }
        Self::map(descriptor.as_fd())
    }

    fn map(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint makes the kernel choose an unused place: no
        // existing memory changes. The whole length exists and always will: it
        // was checked, or set here, and is sealed.
        let base = unsafe { mmap(ptr::null_mut(), LENGTH, access, MapFlags::SHARED, descriptor, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base })
    }

    /// The words.
    #[inline]
    pub(crate) fn words(&self) -> &Words {
        // SAFETY: the mapping is at least that long, a page's beginning is
        // aligned enough, and it lives as long as `self`. `Words` consists of
        // atomic integers (and padding, which is never read), for which every
        // bit pattern is valid and concurrent changes are defined. The bytes
        // that `write` and `read` use are outside it.
        unsafe { self.base.cast().as_ref() }
    }

    /// Copies `bytes`, at most [`CAPACITY`], into a ring, from an index on.
    ///
    /// # Panics
    /// They are more.
    pub(crate) fn write(&self, ring: usize, index: u32, bytes: &[u8]) {
        let (first, second) = bytes.split_at(until_wrap(index, bytes.len()));
        // Not inlined, so that the compiler knows nothing of the other side.
        #[inline(never)]
        fn copy(place: NonNull<u8>, bytes: &[u8]) {
            // SAFETY: `place` is where `self.place` has found room for as many
            // bytes, in memory that no reference exists to. The peer may write
            // there at the same time: its bytes may then be any mixture, which
            // is never read here. Threads of this process do not: only one of
            // them sends at a time.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) }
        }
        copy(self.place(ring, index, first.len()), first);
        if !second.is_empty() {
            copy(self.place(ring, index.wrapping_add(first.len() as u32), second.len()), second);
        }
    }

    /// Copies bytes, at most [`CAPACITY`], out of a ring, from an index on.
    ///
    /// # Panics
    /// They are more.
    pub(crate) fn read(&self, ring: usize, index: u32, space: &mut [u8]) {
        let (first, second) = space.split_at_mut(until_wrap(index, space.len()));
        // Not inlined: for the compiler, the copy has nothing to do with the
        // shared bytes afterwards, so it can never read these a second time.
        #[inline(never)]
        fn copy(place: NonNull<u8>, space: &mut [u8]) {
            // SAFETY: as in `write`, the other way around. If the peer writes
            // at the same time, the copy is any mixture of bytes, all of which
            // are valid; what they mean is checked after that, in the copy.
            unsafe { ptr::copy_nonoverlapping(place.as_ptr().cast_const(), space.as_mut_ptr(), space.len()) }
        }
        copy(self.place(ring, index, first.len()), first);
        if !second.is_empty() {
            copy(self.place(ring, index.wrapping_add(first.len() as u32), second.len()), second);
        }
    }

    /// The place of `length` bytes that do not wrap around.
    ///
    /// # Panics
    /// They do, or there is no such ring.
    fn place(&self, ring: usize, index: u32, length: usize) -> NonNull<u8> {
        let offset = (index % CAPACITY) as usize;
        assert!(ring < 2 && offset + length <= CAPACITY as usize, "bytes outside their ring");
        // SAFETY: below `LENGTH`, which is mapped, as was just checked.
        unsafe { self.base.add(BYTES + ring * CAPACITY as usize + offset) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nothing that borrows
        // from `self` exists any more. Failing would leave the mapping.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), LENGTH) };
    }
}

/// How many of `length` bytes from an index on are before the ring's end.
///
/// # Panics
/// They are more than a ring holds.
fn until_wrap(index: u32, length: usize) -> usize {
    assert!(length <= CAPACITY as usize, "more bytes than a ring holds");
    length.min((CAPACITY - index % CAPACITY) as usize)
}

#[cfg(test)]
mod tests {
    use std::mem::{align_of, offset_of};

    use super::*;

    /// Peers of 32 and 64 bits, of any compiler, have these offsets.
    #[test]
    fn the_layout_is_the_same_everywhere() {
        assert_eq!((size_of::<Word>(), align_of::<Word>()), (128, 128));
        let words = [
            offset_of!(RingWords, tail),
            offset_of!(RingWords, head),
            offset_of!(RingWords, receiver),
            offset_of!(RingWords, sender),
        ];
        assert_eq!((words, size_of::<RingWords>()), ([0, 128, 256, 384], 512));
        assert_eq!((offset_of!(Words, rings), offset_of!(Words, ended)), (0, 1024));
        assert_eq!((size_of::<Words>(), align_of::<Words>()), (1280, 128));
        assert_eq!((BYTES, CAPACITY, LENGTH), (4096, 131_072, 266_240));
    }

    #[test]
    fn bytes_wrap_around_and_stay_in_their_ring() {
        let (one, descriptor) = Memory::create().unwrap();
        let other = Memory::adopt(&descriptor).unwrap();
        for (ring, index) in [(0, 0), (1, 5), (0, CAPACITY - 3), (1, CAPACITY - 1), (1, u32::MAX - 4)] {
            let bytes: Vec<u8> = (0..CAPACITY as usize).map(|at| (at * 31 + ring) as u8).collect();
            one.write(1 - ring, 0, &vec![0xaa; CAPACITY as usize]);
            one.write(ring, index, &bytes);
            let mut read = vec![0; CAPACITY as usize];
            other.read(ring, index, &mut read);
            assert!(read == bytes, "ring {ring} from {index}");
            other.read(1 - ring, index, &mut read);
            assert!(read.iter().all(|byte| *byte == 0xaa), "the other ring was written");
            assert_eq!(other.words().rings[0].tail.0.load(std::sync::atomic::Ordering::SeqCst), 0);
        }
    }

    #[test]
    #[should_panic(expected = "more bytes")]
    fn more_than_a_ring_holds_is_refused() {
        let (memory, _) = Memory::create().unwrap();
        memory.read(0, 0, &mut vec![0; CAPACITY as usize + 1]);
    }

    #[test]
    fn the_length_of_what_was_made_is_final() {
        let (_memory, descriptor) = Memory::create().unwrap();
        for length in [0, LENGTH as u64 - 1, LENGTH as u64 + 1] {
            assert_eq!(ftruncate(&descriptor, length), Err(Errno::PERM));
        }
        assert_eq!(fcntl_add_seals(&descriptor, SealFlags::WRITE), Err(Errno::PERM));
    }

    #[test]
    fn what_is_not_sealed_memory_of_that_length_is_refused() {
        let made = |seals: SealFlags, length: usize| {
            let descriptor = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
            ftruncate(&descriptor, length as u64).unwrap();
            fcntl_add_seals(&descriptor, seals).unwrap();
            descriptor
        };
        assert!(Memory::adopt(&made(SEALS, LENGTH)).is_ok());
        for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            assert!(Memory::adopt(&made(SEALS.difference(missing), LENGTH)).is_err(), "without {missing:?}");
        }
        assert!(Memory::adopt(&made(SEALS | SealFlags::WRITE, LENGTH)).is_err(), "it cannot be written");
        for length in [0, LENGTH - 1, LENGTH + 1, 2 << 20] {
            assert!(Memory::adopt(&made(SEALS, length)).is_err(), "{length} bytes");
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(LENGTH as u64).unwrap();
        assert!(Memory::adopt(&file.into()).is_err(), "it is a file");
    }
}
