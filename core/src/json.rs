//! Decoding of JSON objects.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Error, IgnoredAny, Unexpected};

/// Decodes a JSON object. A struct's derived `Deserialize` also accepts an
/// array of its fields in order, so that `[]` would be a sink's positive ack.
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Err(Error::invalid_type(Unexpected::Seq, &"an object")),
        _ => crate::codec::Format::Json.decode(bytes).map_err(|error| explained(bytes, error)),
    }
}

/// Names the number that is not JSON, if one is the cause: Python's `json`
/// writes NaN and the infinities as such.
#[cold]
fn explained(bytes: &[u8], error: serde_json::Error) -> serde_json::Error {
    let (line, column) = (error.line(), error.column());
    let at = bytes.split_inclusive(|byte| *byte == b'\n').nth(line.saturating_sub(1));
    let Some(rest) = at.and_then(|line| line.get(column.saturating_sub(2)..)).filter(|_| error.is_syntax()) else {
        return error;
    };
    // The place is that of the number's first or second character.
    let number = ["NaN", "-Infinity", "Infinity"].into_iter().find(|number| {
        [rest, rest.get(1..).unwrap_or_default()].into_iter().any(|rest| rest.starts_with(number.as_bytes()))
    });
    match number {
        Some(number) => Error::custom(format_args!(
            "{number} is not a number that a message can hold: send null instead (line {line} column {column})"
        )),
        None => error,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn numbers_that_python_writes_and_json_has_not_are_named() {
        let refused = |text: &str| object::<BTreeMap<String, Value>>(text.as_bytes()).unwrap_err().to_string();
        for (text, number) in [
            (r#"{"state": true, "result": NaN}"#, "NaN"),
            ("{\"a\": 1,\n \"b\": [1, -Infinity]}", "-Infinity"),
            (r#"{"a":{"b":Infinity}}"#, "Infinity"),
        ] {
            let error = refused(text);
            let told = format!("{number} is not a number that a message can hold: send null instead (line ");
            assert!(error.starts_with(&told), "{error}");
        }
        for other in [r#"{"NaN": "Infinity", "a": }"#, r#"{"a": NULL}"#, "{", "NaN", ""] {
            let error = refused(other);
            assert!(!error.contains("is not a number") || other == "NaN", "{error}");
        }
    }
}
