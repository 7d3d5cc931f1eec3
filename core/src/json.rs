//! Reading JSON objects.

use serde::Deserialize;
use serde::de::{Error, Unexpected};

/// Reads a JSON object. A struct's derived reading also takes an array of its
/// fields in their order, so that `[]` would be a sink's "taken".
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Err(Error::invalid_type(Unexpected::Seq, &"an object")),
        _ => serde_json::from_slice(bytes),
    }
}
