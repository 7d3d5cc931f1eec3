//! Message bodies that identify themselves, and reveal missing, moved or
//! foreign pieces.

use super::Rng;
use crate::pattern;

/// Maximum message length of all sockets here.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

const HEAD: usize = 24;

/// The identity of a message: its socket, its thread in that socket, and its
/// number in that thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stamp {
    pub(super) socket: u32,
    pub(super) thread: u32,
    pub(super) number: u64,
}

impl Stamp {
    fn filling(self, length: usize) -> Vec<u8> {
        pattern(length, self.number as usize * 7 + self.thread as usize * 31 + self.socket as usize)
    }

    /// Writes a message with this stamp, of `length` bytes or at least the
    /// stamp's.
    pub(super) fn write(self, length: usize, body: &mut Vec<u8>) {
        let length = length.max(HEAD);
        body.clear();
        body.extend_from_slice(&self.socket.to_le_bytes());
        body.extend_from_slice(&self.thread.to_le_bytes());
        body.extend_from_slice(&self.number.to_le_bytes());
        body.extend_from_slice(&(length as u64).to_le_bytes());
        body.extend_from_slice(&self.filling(length - HEAD));
    }

    /// Reads the stamp of a message, and asserts that the message is intact.
    pub(super) fn read(body: &[u8]) -> Self {
        let Some((head, filling)) = body.split_first_chunk::<HEAD>() else {
            panic!("a message of {} bytes", body.len())
        };
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let stamp = Self { socket: word(0) as u32, thread: (word(0) >> 32) as u32, number: word(8) };
        assert_eq!(word(16), body.len() as u64, "length of the message {stamp:?}");
        assert!(
            filling == stamp.filling(filling.len()),
            "the message {stamp:?} of {} bytes has other bytes",
            body.len()
        );
        stamp
    }
}

/// Draws a length: mostly short, sometimes more than the kernel's buffers hold.
pub(super) fn length(rng: &mut Rng) -> usize {
    let most = match rng.between(0, 99) {
        0..=59 => 200,
        60..=89 => 8_000,
        90..=97 => 100_000,
        _ => MAX_MESSAGE as u64,
    };
    rng.between(0, most) as usize
}
