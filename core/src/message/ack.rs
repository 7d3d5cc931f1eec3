//! A sink's acknowledgement of one message.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

#[derive(Serialize, Deserialize)]
struct Ack {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Decodes an acknowledgement: `Ok` when the sink accepted the message, else
/// the sink's reason.
///
/// # Errors
/// [`Error::Message`] when the bytes have another form.
pub fn decode_ack(bytes: &[u8]) -> Result<Result<(), String>> {
    let ack: Ack =
        crate::json::object(bytes).map_err(|source| Error::Message { what: "the acknowledgement", source })?;
    Ok(match ack.error {
        Some(text) if !text.is_empty() => Err(text),
        _ => Ok(()),
    })
}

/// Encodes an acknowledgement: `{}`, or `{"error":"text"}`.
pub fn encode_ack(outcome: Result<(), &str>) -> Cow<'static, [u8]> {
    match outcome {
        Ok(()) => Cow::Borrowed(b"{}"),
        Err(text) => Cow::Owned(serde_json::json!({ "error": text }).to_string().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outcomes_survive() {
        assert_eq!(decode_ack(b"{}").unwrap(), Ok(()));
        assert_eq!(decode_ack(br#"{"error":""}"#).unwrap(), Ok(()));
        assert_eq!(decode_ack(&encode_ack(Err("disk \"full\""))).unwrap(), Err("disk \"full\"".into()));
        assert_eq!(*encode_ack(Ok(())), *b"{}");
        for bytes in [&b"ok"[..], b"[]", b" [null]"] {
            assert!(decode_ack(bytes).is_err(), "{bytes:?}");
        }
    }
}
