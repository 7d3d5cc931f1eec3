//! Texts without escapes, written in one piece.
//!
//! `serde_json` looks for escapes byte after byte, which takes as long as all
//! the rest of a long text's way, and takes no text whose escapes somebody else
//! has looked for. But it tells its formatter where a text begins: it is given
//! an empty one, and the formatter puts the text there that was left for it.

use std::cell::RefCell;
use std::io;

use serde_json::ser::Formatter;

/// Shorter ones are not worth it, in bytes.
const SHORTEST: usize = 32;

/// How much memory is kept for the next text, in bytes.
const KEPT: usize = 64 << 10;

/// So many bytes are looked at at once.
const CHUNK: usize = 32;

thread_local! {
    static LEFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whether a text is long, and stands in JSON as it is.
#[inline]
pub(super) fn is_plain(text: &str) -> bool {
    if text.len() < SHORTEST {
        return false;
    }
    // Without an early end within a chunk: so it is done for many bytes at once.
    let needs_escape = |bytes: &[u8]| {
        bytes.iter().fold(false, |found, byte| found | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\'))
    };
    let (chunks, _) = text.as_bytes().as_chunks::<CHUNK>();
    // The last one again covers what is left.
    !chunks.iter().any(|chunk| needs_escape(chunk)) && !needs_escape(&text.as_bytes()[text.len() - CHUNK..])
}

/// Leaves a text for the [`Writer`], which is to be asked for an empty one.
#[inline]
pub(super) fn leave(text: &str) {
    LEFT.with_borrow_mut(|left| left.extend_from_slice(text.as_bytes()));
}

/// Writes compact JSON.
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
