//! Messages that say what they are and show a missing, moved or foreign piece.

use super::Rng;
use crate::pattern;

/// Limit of all sockets here.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

const HEAD: usize = 24;

/// Which message it is: of which socket, of which of its threads, and the how
/// manieth of that thread.
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

    /// A message with this stamp, `length` bytes long, or as long as the stamp.
    pub(super) fn write(self, length: usize, body: &mut Vec<u8>) {
        let length = length.max(HEAD);
        body.clear();
        body.extend_from_slice(&self.socket.to_le_bytes());
        body.extend_from_slice(&self.thread.to_le_bytes());
        body.extend_from_slice(&self.number.to_le_bytes());
        body.extend_from_slice(&(length as u64).to_le_bytes());
        body.extend_from_slice(&self.filling(length - HEAD));
    }

    /// The stamp of a message, which must be whole.
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

/// A length: mostly short, now and then more than the kernel's buffers hold.
pub(super) fn length(rng: &mut Rng) -> usize {
    let most = match rng.between(0, 99) {
        0..=59 => 200,
        60..=89 => 8_000,
        90..=97 => 100_000,
        _ => MAX_MESSAGE as u64,
    };
    rng.between(0, most) as usize
}
