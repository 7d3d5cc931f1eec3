//! Text files and lines as editors save them: UTF-8, with or without a byte
//! order mark.

/// Why bytes are no UTF-8 text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// It begins as UTF-16 does: with its byte order mark, or with a NUL.
    #[error("it is UTF-16, not UTF-8: save it as UTF-8, for example with iconv -f UTF-16 -t UTF-8")]
    Utf16,
    /// It begins as UTF-32 does: with its byte order mark, or with three NULs
    /// beside a character.
    #[error("it is UTF-32, not UTF-8: save it as UTF-8, for example with iconv -f UTF-32 -t UTF-8")]
    Utf32,
    /// A byte that is part of no character.
    #[error("byte 0x{byte:02x} at line {line}, column {column} is not UTF-8: save it as UTF-8")]
    Invalid {
        /// The byte.
        byte: u8,
        /// Its line, from 1.
        line: usize,
        /// Its place in the line, in bytes from 1.
        column: usize,
    },
}

/// The text that `bytes` hold, without its byte order mark.
///
/// # Errors
/// They are UTF-16, UTF-32, or no UTF-8.
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
        // The mark of UTF-16 and a NUL would be the same; neither JSON nor TOML begins with one.
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err(TextError::Utf32),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(TextError::Utf16),
        // A character of JSON or TOML, whose other bytes are zero.
        [first, 0, 0, 0, ..] | [0, 0, 0, first, ..] if *first != 0 => return Err(TextError::Utf32),
        [first, second, ..] if (*first == 0) != (*second == 0) => return Err(TextError::Utf16),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        TextError::Invalid { byte: bytes[before.len()], line, column }
    })
}
