//! A sink's acknowledgements: of one message, as eKuiper has it, or of several
//! at once, between a host and a plugin of this project that have agreed on it.

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

/// A number of messages that a sink acknowledges as accepted, in their order:
/// the same as that many single acknowledgements.
///
/// On the wire: the byte 06 (ACK in ASCII), with which no other acknowledgement
/// begins, and the number in 4 bytes, the least significant first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckCount(pub u32);

impl AckCount {
    /// The first byte of the message.
    const MARK: u8 = 6;

    /// Encodes the number.
    pub fn encode(self) -> [u8; 5] {
        let [a, b, c, d] = self.0.to_le_bytes();
        [Self::MARK, a, b, c, d]
    }

    /// Decodes a number; `None` if the message is another acknowledgement.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [Self::MARK, a, b, c, d] => Some(Self(u32::from_le_bytes([a, b, c, d]))),
            _ => None,
        }
    }

    /// Adds the number of `next`, the following message, to that of `last`, in
    /// place. Returns false, and changes nothing, if one of them is another
    /// acknowledgement, or the sum is too large.
    pub fn merge(last: &mut [u8], next: &[u8]) -> bool {
        let counts = Self::decode(last).zip(Self::decode(next));
        let Some(sum) = counts.and_then(|(last, next)| last.0.checked_add(next.0)) else { return false };
        last.copy_from_slice(&Self(sum).encode());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_survives_and_nothing_else_is_one() {
        for count in [0, 1, 255, 256, u32::MAX] {
            let encoded = AckCount(count).encode();
            assert_eq!(AckCount::decode(&encoded), Some(AckCount(count)));
            // A host that has not asked for counts does not take it for one
            // acknowledgement.
            assert!(decode_ack(&encoded).is_err());
        }
        for bytes in [&b"{}"[..], b"", b"\x06", b"\x06\x01\0\0", b"\x06\x01\0\0\0\0", b"\x07\x01\0\0\0", b"12345"] {
            assert_eq!(AckCount::decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(AckCount::decode(&encode_ack(Err("x"))), None);
    }

    #[test]
    fn counts_are_added_and_nothing_else_is() {
        let mut last = AckCount(2).encode();
        assert!(AckCount::merge(&mut last, &AckCount(1).encode()));
        assert_eq!(AckCount::decode(&last), Some(AckCount(3)));
        for next in [&AckCount(u32::MAX).encode()[..], b"{}", &encode_ack(Err("no")), b""] {
            assert!(!AckCount::merge(&mut last, next));
            assert_eq!(AckCount::decode(&last), Some(AckCount(3)));
        }
        let mut refusal = encode_ack(Err("no")).into_owned();
        assert!(!AckCount::merge(&mut refusal, &AckCount(1).encode()));
        assert_eq!(refusal, *encode_ack(Err("no")));
    }

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
