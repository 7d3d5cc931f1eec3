//! Finds the characters that JSON texts have only as escapes, and the quote at
//! their end.

/// Whether there are control characters, which are never in a JSON text as they
/// are.
#[inline]
pub(super) fn has_controls(bytes: &[u8]) -> bool {
    // The smallest byte is found without an early exit, which lets the compiler
    // vectorise the loop.
    bytes.iter().fold(u8::MAX, |least, byte| least.min(*byte)) < b' '
}

/// The place of the first quote, backslash or control character from `at` on, or
/// the length.
#[inline]
pub(super) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let found = to_escape(word(bytes, at));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += size_of::<u64>();
    }
}

/// The eight bytes from `at` on, the first of which is the lowest. Zeros, which
/// are control characters, follow the last.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    match (rest.first_chunk(), bytes.last_chunk()) {
        (Some(word), _) => u64::from_le_bytes(*word),
        (None, Some(last)) => {
            let before = size_of_val(last) - rest.len();
            u64::from_le_bytes(*last).checked_shr(8 * before as u32).unwrap_or(0)
        }
        (None, None) => rest.iter().rfold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The highest bit of the first byte of a word that is to be found; bytes behind
/// that one may be marked wrongly.
#[inline]
pub(super) fn to_escape(word: u64) -> u64 {
    const EACH: u64 = u64::MAX / 255;
    let below = |word: u64, limit: u8| word.wrapping_sub(EACH * u64::from(limit)) & !word;
    // The quote and the control characters are the least once a bit is turned.
    let least = below(word ^ (EACH * 2), (b'"' ^ 2) + 1);
    (least | below(word ^ (EACH * u64::from(b'\\')), 1)) & (EACH << 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_found_wherever_it_is() {
        for length in 0..40 {
            let plain = vec![b'x'; length];
            for at in 0..=length {
                assert_eq!(plain_end(&plain, at), length);
                for place in at..length {
                    for byte in 0..=u8::MAX {
                        let mut bytes = plain.clone();
                        bytes[place] = byte;
                        let is_plain = byte >= b' ' && byte != b'"' && byte != b'\\';
                        assert_eq!(plain_end(&bytes, at), if is_plain { length } else { place });
                        assert_eq!(has_controls(&bytes), byte < b' ');
                    }
                }
            }
        }
    }
}
