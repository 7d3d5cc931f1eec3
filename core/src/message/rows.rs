//! The messages that a sink receives.

use serde::Serialize;

use crate::codec::Format;
use crate::{Error, Result};

/// Encodes a row, or an array of rows, for a sink.
///
/// # Errors
/// [`Error::Encode`] when the rows cannot be encoded; `buffer` then keeps its
/// former length.
pub fn encode_rows(buffer: &mut Vec<u8>, rows: &(impl Serialize + ?Sized)) -> Result<()> {
    Format::Json.encode(buffer, rows).map_err(|source| Error::Encode { what: "the message", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_cannot_hold_is_refused() {
        let mut buffer = b"x".to_vec();
        encode_rows(&mut buffer, &[1.5]).unwrap();
        assert_eq!(buffer, b"x[1.5]");
        assert!(encode_rows(&mut buffer, &[f64::NAN]).is_err());
        assert_eq!(buffer, b"x[1.5]");
    }
}
