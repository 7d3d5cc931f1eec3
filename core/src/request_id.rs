//! What a ticket knows of its request: enough to answer it, and to recognise it.

#![allow(clippy::disallowed_methods, reason = "the id itself")]

use std::fmt;

/// Identifies a request among those of its connection.
///
/// A transport makes the id when the request arrives, and reads from it how the
/// answer finds its way back. To all others the id is opaque: they can compare
/// ids, and nothing else (`clippy.toml` forbids the rest in this workspace).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    bytes: [u8; Self::CAPACITY],
    length: u8,
}

/// The bit that is set in the number of every request.
const NUMBER_BIT: u32 = 1 << 31;

impl RequestId {
    /// Maximum length of a transport's bytes.
    pub const CAPACITY: usize = 32;

    /// Creates an id, for a transport, from the bytes by which it answers the
    /// request; `None` when there are more than [`CAPACITY`](Self::CAPACITY).
    ///
    /// The last four bytes are the number that the sender gave to the request,
    /// big-endian, with the highest bit set. A sender repeats a request under
    /// the same number, and counts up by one for its next one.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut id = Self::default();
        id.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        id.length = bytes.len() as u8;
        Some(id)
    }

    /// The bytes that the id was made of, for the transport that made it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether this request is `earlier` sent again, on whichever connection,
    /// or the one that its sender sent next.
    pub fn repeats_or_follows(&self, earlier: &Self) -> bool {
        let (Some((earlier_way, earlier)), Some((way, number))) =
            (earlier.as_bytes().split_last_chunk::<4>(), self.as_bytes().split_last_chunk::<4>())
        else {
            return false;
        };
        let (earlier, number) = (u32::from_be_bytes(*earlier), u32::from_be_bytes(*number));
        way == earlier_way && (number == earlier || number == earlier.wrapping_add(1) | NUMBER_BIT)
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self { bytes: [0; Self::CAPACITY], length: 0 }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(way: &[u8], number: u32) -> RequestId {
        RequestId::new(&[way, &number.to_be_bytes()].concat()).unwrap()
    }

    #[test]
    fn a_request_is_repeated_or_followed_on_the_same_way() {
        let earlier = id(b"", NUMBER_BIT | 7);
        assert!(id(b"", NUMBER_BIT | 7).repeats_or_follows(&earlier));
        assert!(id(b"", NUMBER_BIT | 8).repeats_or_follows(&earlier));
        for other in [id(b"", NUMBER_BIT | 6), id(b"", NUMBER_BIT | 9), id(&[0, 0, 0, 1], NUMBER_BIT | 7)] {
            assert!(!other.repeats_or_follows(&earlier), "{other:?}");
        }
        assert!(!RequestId::default().repeats_or_follows(&RequestId::default()), "no number");
    }

    #[test]
    fn the_number_after_the_last_is_the_first() {
        let (last, first) = (id(b"", u32::MAX), id(b"", NUMBER_BIT));
        assert!(first.repeats_or_follows(&last));
        assert!(!last.repeats_or_follows(&first));
    }

    #[test]
    fn bytes_have_room_or_are_refused() {
        let most = [7; RequestId::CAPACITY];
        assert_eq!(RequestId::new(&most).unwrap().as_bytes(), most);
        assert_eq!(RequestId::new(&[7; RequestId::CAPACITY + 1]), None);
    }
}
