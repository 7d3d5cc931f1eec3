//! Reading JSON objects.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Error, IgnoredAny, Unexpected};

/// Reads a JSON object. A struct's derived reading also takes an array of its
/// fields in their order, so that `[]` would be a sink's "taken".
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Err(Error::invalid_type(Unexpected::Seq, &"an object")),
        _ => crate::codec::Format::Json.decode(bytes),
    }
}

/// Reads what follows the value of an object's key up to the end of the text:
/// any keys but `known`.
#[inline]
pub(crate) fn rest_of_object(rest: &[u8], known: &[&str]) -> Result<(), serde_json::Error> {
    if rest == b"}" { Ok(()) } else { unusual_rest(rest, known) }
}

#[cold]
fn unusual_rest(rest: &[u8], known: &[&str]) -> Result<(), serde_json::Error> {
    // As if it stood behind a key that says nothing.
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_slice(&[b"{\"\":0", rest].concat())?;
    match known.iter().find(|key| keys.contains_key(**key)) {
        Some(key) => Err(Error::custom(format_args!("duplicate field `{key}`"))),
        None => Ok(()),
    }
}
