//! The messages that a sink receives.

use serde::Serialize;

use crate::codec::Format;
use crate::{Error, Result};

/// Encodes a row, or an array of rows, for a sink: in JSON, or in MessagePack for
/// one that [says](crate::description::SinkDescription::rows) that it reads rows.
/// Any other value is written as JSON. Returns the codec that was used.
///
/// # Errors
/// [`Error::Encode`] when the rows cannot be encoded; `buffer` then keeps its
/// former length.
pub fn encode_rows(buffer: &mut Vec<u8>, format: Format, rows: &(impl Serialize + ?Sized)) -> Result<Format> {
    let failed = |source| Error::Encode { what: "the message", source };
    let start = buffer.len();
    format.encode(buffer, rows).map_err(failed)?;
    if format == Format::Json || format_of_rows(&buffer[start..]).is_some_and(|(found, _)| found == format) {
        return Ok(format);
    }
    // Its first byte does not tell the codec: a sink would take 0x37 for 7.
    buffer.truncate(start);
    Format::Json.encode(buffer, rows).map_err(failed)?;
    Ok(Format::Json)
}

/// The codec of a sink's rows, by the first byte of the message; `None` if it is
/// neither a row nor an array of rows.
pub fn format_of_rows(message: &[u8]) -> Option<(Format, RowCount)> {
    // MessagePack's maps and arrays: with up to 15 entries, 16 and 32 bits.
    match message.first()? {
        0x80..=0x8f | 0xde | 0xdf => Some((Format::MessagePack, RowCount::One)),
        0x90..=0x9f | 0xdc | 0xdd => Some((Format::MessagePack, RowCount::Many)),
        _ => match message.iter().find(|byte| !byte.is_ascii_whitespace())? {
            b'{' => Some((Format::Json, RowCount::One)),
            b'[' => Some((Format::Json, RowCount::Many)),
            _ => None,
        },
    }
}

/// Whether a sink's message is a row, or an array of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowCount {
    /// It is a row.
    One,
    /// It is an array.
    Many,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_cannot_hold_is_refused() {
        let mut buffer = b"x".to_vec();
        encode_rows(&mut buffer, Format::Json, &[1.5]).unwrap();
        assert_eq!(buffer, b"x[1.5]");
        assert!(encode_rows(&mut buffer, Format::Json, &[f64::NAN]).is_err());
        assert_eq!(buffer, b"x[1.5]");
    }

    #[test]
    fn what_is_no_row_is_json() {
        for value in
            [serde_json::json!(7), "text".into(), 55.into(), (-1).into(), 1.5.into(), false.into(), None::<u8>.into()]
        {
            let mut buffer = b"x".to_vec();
            assert_eq!(encode_rows(&mut buffer, Format::MessagePack, &value).unwrap(), Format::Json);
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&buffer[1..]).unwrap(), value);
        }
        assert_eq!(encode_rows(&mut Vec::new(), Format::MessagePack, &[7]).unwrap(), Format::MessagePack);
    }

    #[test]
    fn the_first_byte_tells_the_codec() {
        let row: std::collections::BTreeMap<u32, u8> = (0..70_000).map(|key| (key, 1)).collect();
        for (rows, few) in [(1, 3), (1, 16), (1, 70_000), (3, 1), (16, 1), (70_000, 1)] {
            for format in [Format::Json, Format::MessagePack] {
                let row: std::collections::BTreeMap<_, _> = row.iter().take(few).collect();
                let (mut buffer, mut count) = (Vec::new(), RowCount::One);
                match rows {
                    1 => assert_eq!(encode_rows(&mut buffer, format, &row).unwrap(), format),
                    many => {
                        count = RowCount::Many;
                        assert_eq!(encode_rows(&mut buffer, format, &vec![&row; many]).unwrap(), format);
                    }
                }
                assert_eq!(format_of_rows(&buffer), Some((format, count)), "{rows} {few}");
            }
        }
        assert_eq!(format_of_rows(b" \n[1]"), Some((Format::Json, RowCount::Many)));
        for other in [&b""[..], b" ", b"7", b"\"a\"", b"\xff\xff\xff\xff", b"\xc0", b"\x07"] {
            assert_eq!(format_of_rows(other), None, "{other:?}");
        }
    }
}
