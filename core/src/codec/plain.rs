//! Text without escapes, written in one piece.
//!
//! `serde_json` searches for escapes byte by byte, which takes as long as
//! everything else that happens to a long text, and has no way to pass text
//! that is known to have none. But it tells its formatter where text begins: it
//! is given an empty text, and the formatter inserts the real one, which was
//! left for it.

use std::cell::RefCell;
use std::io;

use serde_json::ser::Formatter;

/// Minimum length for this optimisation to pay off, in bytes.
const SHORTEST: usize = 32;

/// Maximum memory that is kept for the next text, in bytes.
const KEPT: usize = 64 << 10;

/// Number of bytes that are compared at once.
const CHUNK: usize = 32;

thread_local! {
    static LEFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whether a text is long and needs no escapes in JSON.
#[inline]
pub(super) fn is_plain(text: &str) -> bool {
    if text.len() < SHORTEST {
        return false;
    }
    // No early exit within a chunk: this lets the compiler vectorise the loop.
    let needs_escape = |bytes: &[u8]| {
        bytes.iter().fold(false, |found, byte| found | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\'))
    };
    let (chunks, _) = text.as_bytes().as_chunks::<CHUNK>();
    // The last chunk overlaps the one before, and covers the remaining bytes.
    !chunks.iter().any(|chunk| needs_escape(chunk)) && !needs_escape(&text.as_bytes()[text.len() - CHUNK..])
}

/// Leaves a text for the [`Writer`], which must then be given an empty one.
#[inline]
pub(super) fn leave(text: &str) {
    LEFT.with_borrow_mut(|left| left.extend_from_slice(text.as_bytes()));
}

/// A formatter of compact JSON.
pub(super) struct Writer;

impl Formatter for Writer {
    #[inline]
    fn begin_string<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\"")?;
        LEFT.with_borrow_mut(|left| {
            if left.is_empty() {
                return Ok(());
            }
            let written = writer.write_all(left);
            left.clear();
            left.shrink_to(KEPT);
            written
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_plain_that_json_writes_as_it_is() {
        for length in [0, 31, 32, 33, 63, 64, 65, 100] {
            let plain = "é".repeat(length / 2) + &"x".repeat(length % 2);
            assert_eq!(is_plain(&plain), length >= SHORTEST, "{plain}");
            for place in (0..length).filter(|place| plain.is_char_boundary(*place)) {
                for byte in 0..0x80u8 {
                    let mut text = plain.clone();
                    text.insert(place, byte.into());
                    let written = serde_json::to_string(&text).unwrap();
                    let stands = text.len() >= SHORTEST && written[1..written.len() - 1] == text;
                    assert_eq!(is_plain(&text), stands, "{text:?}");
                }
            }
        }
    }
}
