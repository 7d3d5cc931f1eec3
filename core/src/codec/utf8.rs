//! The check that bytes are text, which each name and each text of a record
//! goes through.

use super::plain::to_escape;

/// Length from which on SIMD pays.
const LONG: usize = 64;

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Returns the text in `bytes`, if they are UTF-8.
#[inline]
#[expect(unsafe_code, reason = "the standard library has no other way from ASCII to text without a second check")]
pub(super) fn utf8(bytes: &[u8]) -> Option<&str> {
    if bytes.len() < LONG && is_ascii(bytes) {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    simdutf8::basic::from_utf8(bytes).ok()
}

/// Returns the JSON text from `at` up to its quote, if it is short, is ASCII and
/// has no escapes; with `KEY`, one that has probably the length of the key in the
/// record before.
#[inline]
#[expect(unsafe_code, reason = "as above, and texts are searched anyway")]
pub(super) fn short_ascii<const KEY: bool>(bytes: &[u8], at: usize) -> Option<&str> {
    let rest = bytes.get(at..)?;
    let near = &rest[..rest.len().min(LONG)];
    let is_plain = |word: &&[u8; 8]| {
        let word = u64::from_le_bytes(**word);
        to_escape(word) | word & HIGH_BITS == 0
    };
    let words = near.as_chunks().0.iter().take_while(is_plain).count();
    // A place that a processor foresees byte by byte costs it less than one that
    // it has to compute, and less than words for a key, whose bytes are few.
    let mut end = if KEY { 0 } else { words * size_of::<u64>() };
    while let Some(byte) = near.get(end) {
        if STOPS[usize::from(*byte)] {
            // SAFETY: no byte before `end` has its high bit set, and ASCII is UTF-8.
            return (*byte == b'"').then(|| unsafe { std::str::from_utf8_unchecked(&rest[..end]) });
        }
        end += 1;
    }
    None
}

/// The bytes that are no characters of a text of ASCII without escapes.
const STOPS: [bool; 256] = {
    let mut stops = [true; 256];
    let mut byte = b' ';
    while byte < 0x80 {
        stops[byte as usize] = byte == b'"' || byte == b'\\';
        byte += 1;
    }
    stops
};

#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    let half = |bytes: &[u8; 4]| u64::from(u32::from_ne_bytes(*bytes));
    // The last word overlaps the one before.
    match (bytes.last_chunk(), bytes.first_chunk().zip(bytes.last_chunk())) {
        (Some(last), _) => bytes.as_chunks().0.iter().fold(word(last), |all, bytes| all | word(bytes)) & HIGH_BITS == 0,
        (None, Some((first, last))) => (half(first) | half(last)) & HIGH_BITS == 0,
        (None, None) => bytes.iter().fold(0, |all, byte| all | byte) < 0x80,
    }
}

#[cfg(test)]
mod tests {
    use super::{LONG, short_ascii, utf8};

    #[test]
    fn what_is_no_text_is_found_wherever_it_is() {
        for length in 0..130 {
            let text = vec![b'x'; length];
            assert_eq!(utf8(&text).map(str::as_bytes), Some(&text[..]));
            for at in 0..length {
                let mut bytes = text.clone();
                bytes[at] = 0x80;
                assert_eq!(utf8(&bytes), None, "{at} of {length}");
                if at > 0 {
                    bytes[at - 1] = 0xc3;
                    assert_eq!(utf8(&bytes), std::str::from_utf8(&bytes).ok());
                }
            }
        }
    }

    #[test]
    fn a_short_text_of_ascii_is_found_up_to_its_quote() {
        for length in 0..80 {
            let json = [b"{\"", &*vec![b'x'; length], b"\":1,\"behind\""].concat();
            let find = |json: &[u8]| {
                let found = short_ascii::<false>(json, 2).map(|text| text.to_owned());
                assert_eq!(found.as_deref(), short_ascii::<true>(json, 2));
                found
            };
            assert_eq!(find(&json), (length < LONG).then(|| "x".repeat(length)));
            for at in 0..length {
                assert_eq!(find(&json[..2 + at]), None);
                for byte in 0..=u8::MAX {
                    let mut json = json.clone();
                    json[2 + at] = byte;
                    let expected = match byte {
                        b'"' if at < LONG => Some("x".repeat(at)),
                        b' '..=0x7f if byte != b'"' && byte != b'\\' && length < LONG => {
                            Some(String::from_utf8(json[2..2 + length].to_vec()).unwrap())
                        }
                        _ => None,
                    };
                    assert_eq!(find(&json), expected, "{}", json.escape_ascii());
                }
            }
        }
    }
}
