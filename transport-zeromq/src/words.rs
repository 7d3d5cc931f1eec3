//! What the two ends say to each other: one ZMTP frame each.
//!
//! | first byte | then | said by |
//! |---|---|---|
//! | 0 hello | `ekuiper`, the version, the speaker's role | the dialler first, then the listener |
//! | 1 data | a request's id where there is one, and the body | whoever sends |
//! | 2 taken | two numbers of eight bytes, big-endian | whoever receives: how many messages, and how many bytes, were taken so far |
//! | 3 bye | | whoever closes; the other hangs up |

use bytes::{BufMut, Bytes};

const HELLO: u8 = 0;
const DATA: u8 = 1;
const TAKEN: u8 = 2;
const BYE: u8 = 3;

/// In front of everything that is not ours by accident.
const MAGIC: &[u8; 7] = b"ekuiper";

/// Counted up when the words change, or [`WINDOW`] does.
const VERSION: u8 = 1;

/// How long a request's id is, which stands in front of its body.
pub(crate) const ID: usize = 4;

/// How much may be under way to a peer that has not taken it. The last message
/// may exceed it.
pub(crate) const WINDOW: Count = Count { messages: 512, bytes: 1 << 20 };

/// Messages, and their bytes.
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

    /// How much this is more than `former`; nothing if it is less.
    pub(crate) fn since(self, former: Self) -> Self {
        Self { messages: self.messages.saturating_sub(former.messages), bytes: self.bytes.saturating_sub(former.bytes) }
    }

    /// Whether another message, of any length, may follow what is under way.
    pub(crate) fn leaves_room(self) -> bool {
        self.messages < WINDOW.messages && self.bytes < WINDOW.bytes
    }
}

/// Which of the four patterns a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Push,
    Pull,
    Request,
    Reply,
}

impl Role {
    /// The role that this one talks to.
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

    /// Its first word.
    pub(crate) fn hello(self) -> Bytes {
        [&[HELLO], &MAGIC[..], &[VERSION, self.letter()]].concat().into()
    }

    /// Whether `frame` is the first word of a peer of this role's.
    pub(crate) fn is_greeted_by(self, frame: &[u8]) -> bool {
        frame == self.opposite().hello()
    }
}

/// A word that was heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Data(Bytes),
    Taken(Count),
    Bye,
}

impl Word {
    /// `None`: no word that may stand behind the first.
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

/// A message; `id` is a request's, or empty.
pub(crate) fn data(id: &[u8], body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(1 + id.len() + body.len());
    frame.put_u8(DATA);
    frame.extend_from_slice(id);
    frame.extend_from_slice(body);
    frame.into()
}

/// The length of what counts in a frame that [`data`] made.
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
