//! The words in front of a request's body, which its reply carries back.

use super::header::Protocol;
use crate::transport::RequestId;

/// Maximum number of words that a reply socket accepts (libnng and mangos: 8; a
/// request that crossed more devices is dropped).
pub const MAX_WORDS: usize = 8;

const _: () = assert!(MAX_WORDS * 4 <= RequestId::CAPACITY, "every backtrace is an id");

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

/// Splits a message into the request's backtrace, which is its id, and its
/// body. The backtrace has one word per device that the request crossed, and
/// last the number of the request, which has its highest bit set.
///
/// # Errors
/// [`BacktraceFault`] when the words cannot be read.
pub fn split_backtrace(message: &[u8]) -> Result<(RequestId, &[u8]), BacktraceFault> {
    for count in 1..=MAX_WORDS {
        let word = message.get((count - 1) * 4..count * 4).ok_or(BacktraceFault::Malformed)?;
        if word[0] & 0x80 != 0 {
            let (words, body) = message.split_at(count * 4);
            return Ok((RequestId::new(words).unwrap_or_default(), body));
        }
    }
    Err(BacktraceFault::TooManyHops)
}

/// Length of the words before the body of a message that this side receives:
/// of a request its backtrace, of a reply the number of the request. At least
/// [`MAX_WORDS`] words have arrived.
pub(super) fn words_before(own: Protocol, message: &[u8]) -> usize {
    match own {
        Protocol::Push | Protocol::Pull => 0,
        Protocol::Request => 4,
        Protocol::Reply => match split_backtrace(message) {
            Ok((_, body)) => message.len() - body.len(),
            // The receiver splits the message, too, and gets the same error.
            Err(_) => MAX_WORDS * 4,
        },
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "checks the ids")]
mod tests {
    use super::*;

    #[test]
    fn a_plain_and_a_hop_extended_request() {
        let (words, body) = split_backtrace(b"\xa6\x17\x44\xcbhello").unwrap();
        assert_eq!((words.as_bytes(), body), (&b"\xa6\x17\x44\xcb"[..], &b"hello"[..]));
        let (words, body) = split_backtrace(b"\0\0\0\x07\x80\0\0\x2aping").unwrap();
        assert_eq!((words.as_bytes(), body), (&b"\0\0\0\x07\x80\0\0\x2a"[..], &b"ping"[..]));
    }

    #[test]
    fn eight_words_pass_and_nine_do_not() {
        let request = |hops: usize| [vec![0; hops * 4], vec![0x80, 0, 0, 1], b"x".to_vec()].concat();
        assert_eq!(split_backtrace(&request(7)).unwrap().1, b"x");
        assert_eq!(split_backtrace(&request(8)), Err(BacktraceFault::TooManyHops));
    }

    #[test]
    fn words_that_end_early_are_malformed() {
        for bytes in [&b""[..], b"\x80\0\0", b"\0\0\0\x01", b"\0\0\0\x01ab"] {
            assert_eq!(split_backtrace(bytes), Err(BacktraceFault::Malformed));
        }
    }
}
