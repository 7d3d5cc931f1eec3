//! Text files and lines as editors save them: UTF-8, with or without a byte
//! order mark.

/// The reason why bytes are not UTF-8 text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Text that begins like UTF-16: with its byte order mark, or with a NUL.
    #[error("it is UTF-16, not UTF-8: save it as UTF-8, for example with iconv -f UTF-16 -t UTF-8")]
    Utf16,
    /// Text that begins like UTF-32: with its byte order mark, or with a
    /// character and three NULs.
    #[error("it is UTF-32, not UTF-8: save it as UTF-8, for example with iconv -f UTF-32 -t UTF-8")]
    Utf32,
    /// A byte that is not part of any character.
    #[error("byte 0x{byte:02x} at line {line}, column {column} is not UTF-8: save it as UTF-8")]
    Invalid {
        /// The byte.
        byte: u8,
        /// The byte's line, from 1.
        line: usize,
        /// The byte's position in the line, in bytes from 1.
        column: usize,
    },
}

/// Returns the text in `bytes`, without its byte order mark.
///
/// # Errors
/// The bytes are UTF-16, UTF-32, or invalid UTF-8.
///
/// ```
/// use ekuiper_core::text::{TextError, decode};
///
/// assert_eq!(decode(b"\xef\xbb\xbf{}"), Ok("{}"));
/// assert_eq!(decode(b"\xff\xfe{\0}\0"), Err(TextError::Utf16));
/// assert_eq!(decode(b"\xff\xfe\0\0{\0\0\0"), Err(TextError::Utf32));
/// assert_eq!(decode(b"{\n \xe4}"), Err(TextError::Invalid { byte: 0xe4, line: 2, column: 2 }));
/// ```
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    match bytes {
        // UTF-16's byte order mark and a NUL would look the same; neither JSON
        // nor TOML begins with a NUL.
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err(TextError::Utf32),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(TextError::Utf16),
        // A character of JSON or TOML in UTF-32: its other bytes are zero.
        [first, 0, 0, 0, ..] | [0, 0, 0, first, ..] if *first != 0 => return Err(TextError::Utf32),
        [first, second, ..] if (*first == 0) != (*second == 0) => return Err(TextError::Utf16),
        _ => {}
    }
    decode_part(bytes)
}

/// Returns the text in `bytes` as [`decode`] does, for a later part of a text
/// whose beginning was UTF-8: what looks like the beginning of UTF-16 is not.
///
/// # Errors
/// [`TextError::Invalid`].
pub fn decode_part(bytes: &[u8]) -> Result<&str, TextError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        TextError::Invalid { byte: bytes[before.len()], line, column }
    })
}
