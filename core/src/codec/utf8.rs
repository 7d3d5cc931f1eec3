//! The check that bytes are text, which each name and each text of a record
//! goes through.

/// Length from which on SIMD pays.
const LONG: usize = 64;

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

#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
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
    use super::utf8;

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
}
