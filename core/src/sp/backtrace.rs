//! The words in front of a request's body, which its reply carries back.

use std::fmt;

/// Maximum number of words that a reply socket accepts (libnng and mangos: 8; a
/// request that crossed more devices is dropped).
pub const MAX_WORDS: usize = 8;

/// The words in front of a request's body: one per device that the request
/// crossed, and last the request's id, which has its highest bit set.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backtrace {
    words: [u8; MAX_WORDS * 4],
    length: u8,
}

/// The reason why a request's words cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacktraceFault {
    /// The words end before a request id: the peer does not speak the protocol,
    /// and its connection must be closed.
    Malformed,
    /// There are more than [`MAX_WORDS`]: the request must be dropped; the
    /// connection stays.
    TooManyHops,
}

impl Backtrace {
    /// Splits a message into the request's words and its body.
    ///
    /// # Errors
    /// [`BacktraceFault`] when the words cannot be read.
    pub fn split(message: &[u8]) -> Result<(Self, &[u8]), BacktraceFault> {
        for count in 1..=MAX_WORDS {
            let word = message.get((count - 1) * 4..count * 4).ok_or(BacktraceFault::Malformed)?;
            if word[0] & 0x80 != 0 {
                let (words, body) = message.split_at(count * 4);
                return Ok((Self::new(words).unwrap_or_default(), body));
            }
        }
        Err(BacktraceFault::TooManyHops)
    }

    /// Creates a backtrace from `words`, for transports that keep their own
    /// routing data in it; `None` when it is too long.
    pub fn new(words: &[u8]) -> Option<Self> {
        let mut backtrace = Self::default();
        backtrace.words.get_mut(..words.len())?.copy_from_slice(words);
        backtrace.length = words.len() as u8;
        Some(backtrace)
    }

    /// The words in encoded form, as they stand in front of the reply.
    pub fn as_bytes(&self) -> &[u8] {
        &self.words[..usize::from(self.length)]
    }
}

impl Default for Backtrace {
    fn default() -> Self {
        Self { words: [0; MAX_WORDS * 4], length: 0 }
    }
}

impl fmt::Debug for Backtrace {
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

    #[test]
    fn a_plain_and_a_hop_extended_request() {
        let (words, body) = Backtrace::split(b"\xa6\x17\x44\xcbhello").unwrap();
        assert_eq!((words.as_bytes(), body), (&b"\xa6\x17\x44\xcb"[..], &b"hello"[..]));
        let (words, body) = Backtrace::split(b"\0\0\0\x07\x80\0\0\x2aping").unwrap();
        assert_eq!((words.as_bytes(), body), (&b"\0\0\0\x07\x80\0\0\x2a"[..], &b"ping"[..]));
    }

    #[test]
    fn eight_words_pass_and_nine_do_not() {
        let request = |hops: usize| [vec![0; hops * 4], vec![0x80, 0, 0, 1], b"x".to_vec()].concat();
        assert_eq!(Backtrace::split(&request(7)).unwrap().1, b"x");
        assert_eq!(Backtrace::split(&request(8)), Err(BacktraceFault::TooManyHops));
    }

    #[test]
    fn words_that_end_early_are_malformed() {
        for bytes in [&b""[..], b"\x80\0\0", b"\0\0\0\x01", b"\0\0\0\x01ab"] {
            assert_eq!(Backtrace::split(bytes), Err(BacktraceFault::Malformed));
        }
    }
}
