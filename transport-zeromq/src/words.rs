//! The messages between the two ends, called words: one ZMTP frame each.
//!
//! | first byte | content | sent by |
//! |---|---|---|
//! | 0 hello | `ekuiper`, the version, the sender's role | the dialler first, then the listener |
//! | 1 data | a request's id if there is one, and the body | the sender |
//! | 2 taken | two big-endian numbers of eight bytes: the messages and bytes taken so far | the receiver |
//! | 3 bye | | the closing end; the other end closes the connection |

use bytes::{BufMut, Bytes};

const HELLO: u8 = 0;
const DATA: u8 = 1;
const TAKEN: u8 = 2;
const BYE: u8 = 3;

/// A prefix that excludes everything that is not ours by accident.
const MAGIC: &[u8; 7] = b"ekuiper";

/// The version, incremented when the words or [`WINDOW`] change.
const VERSION: u8 = 1;

/// Length of a request's id, which precedes the body.
pub(crate) const ID: usize = 4;

/// Maximum amount in flight to a peer that has not taken it. The last message
/// may exceed it.
pub(crate) const WINDOW: Count = Count { messages: 512, bytes: 1 << 20 };

/// A number of messages and of their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Count {
    pub(crate) fn add(&mut self, length: usize) {
        self.messages += 1;
        self.bytes += length as u64;
    }

    /// The excess over `former`; zero if there is none.
    pub(crate) fn since(self, former: Self) -> Self {
        Self { messages: self.messages.saturating_sub(former.messages), bytes: self.bytes.saturating_sub(former.bytes) }
    }

    /// Whether another message, of any length, may be sent with this much in
    /// flight.
    pub(crate) fn leaves_room(self) -> bool {
        self.messages < WINDOW.messages && self.bytes < WINDOW.bytes
    }
}

/// The pattern of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Push,
    Pull,
    Request,
    Reply,
}

impl Role {
    /// The role of this role's peers.
    fn opposite(self) -> Self {
        match self {
            Self::Push => Self::Pull,
            Self::Pull => Self::Push,
            Self::Request => Self::Reply,
            Self::Reply => Self::Request,
        }
    }

    fn letter(self) -> u8 {
        match self {
            Self::Push => b'>',
            Self::Pull => b'<',
            Self::Request => b'?',
            Self::Reply => b'!',
        }
    }

    /// The first word of this role.
    pub(crate) fn hello(self) -> Bytes {
        [&[HELLO], &MAGIC[..], &[VERSION, self.letter()]].concat().into()
    }

    /// Whether `frame` is the first word of a peer of this role.
    pub(crate) fn is_greeted_by(self, frame: &[u8]) -> bool {
        frame == self.opposite().hello()
    }
}

/// A received word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Data(Bytes),
    Taken(Count),
    Bye,
}

impl Word {
    /// Decodes a word; `None` when `frame` is not a word that may follow the
    /// first one.
    pub(crate) fn read(mut frame: Bytes) -> Option<Self> {
        let kind = *frame.first()?;
        let rest = frame.split_off(1);
        match kind {
            DATA => Some(Self::Data(rest)),
            TAKEN => {
                let (messages, bytes) = rest.split_first_chunk::<8>()?;
                let bytes = u64::from_be_bytes(bytes.try_into().ok()?);
                Some(Self::Taken(Count { messages: u64::from_be_bytes(*messages), bytes }))
            }
            BYE if rest.is_empty() => Some(Self::Bye),
            _ => None,
        }
    }
}

/// Encodes a message; `id` is a request's id, or empty.
pub(crate) fn data(id: &[u8], body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(1 + id.len() + body.len());
    frame.put_u8(DATA);
    frame.extend_from_slice(id);
    frame.extend_from_slice(body);
    frame.into()
}

/// The length of the counted part of a frame that [`data`] created.
pub(crate) fn data_length(frame: &Bytes) -> usize {
    frame.len() - 1
}

pub(crate) fn taken(count: Count) -> Bytes {
    let mut frame = Vec::with_capacity(17);
    frame.put_u8(TAKEN);
    frame.put_u64(count.messages);
    frame.put_u64(count.bytes);
    frame.into()
}

pub(crate) fn bye() -> Bytes {
    Bytes::from_static(&[BYE])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive() {
        assert_eq!(Word::read(data(b"", b"body")), Some(Word::Data(Bytes::from_static(b"body"))));
        assert_eq!(Word::read(data(b"\x80abc", b"")), Some(Word::Data(Bytes::from_static(b"\x80abc"))));
        let count = Count { messages: 7, bytes: u64::MAX };
        assert_eq!(Word::read(taken(count)), Some(Word::Taken(count)));
        assert_eq!(Word::read(bye()), Some(Word::Bye));
    }

    #[test]
    fn nonsense_is_no_word() {
        for frame in [&b""[..], b"\0ekuiper\x01>", b"\x02", b"\x02\0\0\0\0\0\0\0\x01", b"\x03 ", b"\x04", b"\xff"] {
            assert_eq!(Word::read(Bytes::from_static(frame)), None, "{frame:?}");
        }
    }

    #[test]
    fn each_role_is_greeted_by_its_opposite_alone() {
        let roles = [Role::Push, Role::Pull, Role::Request, Role::Reply];
        for own in roles {
            let friends = roles.iter().filter(|other| own.is_greeted_by(&other.hello()));
            assert_eq!(friends.collect::<Vec<_>>(), [&own.opposite()]);
        }
        assert!(!Role::Pull.is_greeted_by(b"\0ekuiper\x02>"));
        assert!(!Role::Pull.is_greeted_by(b""));
    }

    #[test]
    fn the_window_bounds_messages_and_bytes() {
        let under_way = |messages, bytes| Count { messages, bytes };
        assert!(under_way(0, 0).leaves_room());
        assert!(under_way(WINDOW.messages - 1, WINDOW.bytes - 1).leaves_room());
        assert!(!under_way(WINDOW.messages, 0).leaves_room());
        assert!(!under_way(1, WINDOW.bytes).leaves_room());
        assert!(!under_way(1, 64 << 20).leaves_room());
    }
}
