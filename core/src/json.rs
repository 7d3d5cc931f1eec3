//! Decoding of JSON objects.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Error, IgnoredAny, Unexpected};

/// Decodes a JSON object. A struct's derived `Deserialize` also accepts an
/// array of its fields in order, so that `[]` would be a sink's positive ack.
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Err(Error::invalid_type(Unexpected::Seq, &"an object")),
        _ => crate::codec::Format::Json.decode(bytes),
    }
}

/// Validates the rest of an object, from behind the value of one key to the end
/// of the text: any keys except `known`.
#[inline]
pub(crate) fn rest_of_object(rest: &[u8], known: &[&str]) -> Result<(), serde_json::Error> {
    if rest == b"}" { Ok(()) } else { unusual_rest(rest, known) }
}

#[cold]
fn unusual_rest(rest: &[u8], known: &[&str]) -> Result<(), serde_json::Error> {
    // Treated as if the rest followed a key without meaning.
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_slice(&[b"{\"\":0", rest].concat())?;
    match known.iter().find(|key| keys.contains_key(**key)) {
        Some(key) => Err(Error::custom(format_args!("duplicate field `{key}`"))),
        None => Ok(()),
    }
}
