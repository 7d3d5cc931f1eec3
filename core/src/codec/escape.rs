//! Text in JSON, escaped a block at a time.
//!
//! `serde_json` searches for escapes byte by byte, which takes as long as
//! everything else that happens to a long text, and has no way to pass text
//! that is escaped already. But it tells its formatter where text begins: it is
//! given an empty text, and the formatter inserts the real one, which was left
//! for it.

use std::cell::RefCell;
use std::io;

use memchr::memchr2;
use serde_json::ser::Formatter;

use super::plain::{has_controls, plain_end};

/// Minimum length for this optimisation to pay off, in bytes.
const SHORTEST: usize = 32;

/// Maximum memory that is kept for the next text, in bytes.
const KEPT: usize = 128 << 10;

/// Number of bytes that are searched before they are copied, so that the copy
/// finds them in the processor's cache.
const BLOCK: usize = 1 << 10;

/// Minimum length of a block that is searched as a whole.
const SEARCHED: usize = 64;

thread_local! {
    static LEFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whether a text is to be [left](leave).
#[inline]
pub(super) fn is_long(text: &str) -> bool {
    text.len() >= SHORTEST
}

/// Leaves a text for the [`Writer`], which must then be given an empty one.
#[inline]
pub(super) fn leave(text: &str) {
    LEFT.with_borrow_mut(|left| {
        left.reserve(text.len());
        for block in text.as_bytes().chunks(BLOCK) {
            if block.len() >= SEARCHED && is_plain(block) {
                left.extend_from_slice(block);
            } else {
                escape(block, left);
            }
        }
    });
}

/// Whether no byte needs an escape.
#[inline]
fn is_plain(block: &[u8]) -> bool {
    memchr2(b'"', b'\\', block).is_none() && !has_controls(block)
}

/// Appends a block run by run, with escapes in between.
fn escape(block: &[u8], to: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut rest = block;
    loop {
        let (run, behind) = rest.split_at(plain_end(rest, 0));
        to.extend_from_slice(run);
        let Some((byte, behind)) = behind.split_first() else { return };
        let short = match byte {
            b'"' | b'\\' => *byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            _ => b'u',
        };
        to.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            to.extend_from_slice(&[b'0', b'0', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
        }
        rest = behind;
    }
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

    fn left(text: &str) -> String {
        leave(text);
        let mut written = Vec::new();
        Writer.begin_string(&mut written).unwrap();
        LEFT.with_borrow(|left| assert!(left.is_empty() && left.capacity() <= KEPT));
        String::from_utf8(written).unwrap() + "\""
    }

    #[test]
    fn a_text_is_escaped_as_serde_json_does() {
        for length in [1, 7, 8, 9, 31, 32, 33, 63, 64, 100, BLOCK - 1, BLOCK, BLOCK + 1] {
            let plain = "é".repeat(length / 2) + &"x".repeat(length % 2);
            assert_eq!(left(&plain), serde_json::to_string(&plain).unwrap());
            let places = (0..length).filter(|place| plain.is_char_boundary(*place));
            for place in places.filter(|place| *place < 100 || length - *place < 12) {
                for byte in 0..0x80u8 {
                    let mut text = plain.clone();
                    text.insert(place, byte.into());
                    text.push(byte.into());
                    assert_eq!(left(&text), serde_json::to_string(&text).unwrap(), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn a_text_of_escapes_alone_and_one_of_many_blocks_are_escaped() {
        let controls: String = (0..0x20u8).map(char::from).cycle().take(3 * BLOCK).collect();
        let mixed = "\u{7f}ÿ\u{80}\"\\/\n日本😀".repeat(BLOCK);
        for text in [controls, mixed, "x".repeat(KEPT + 1), "\0".repeat(KEPT)] {
            assert_eq!(left(&text), serde_json::to_string(&text).unwrap());
        }
    }
}
