//! The progress report of a sink without acknowledgements, sent on the ack
//! channel to a host that has asked for it.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The number of messages that a sink has processed since its start.
///
/// On the wire: `{"collected":12,"refused":1}`. The numbers only grow, so the
/// latest report supersedes all earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Messages for which `collect` has returned, refused ones included.
    pub collected: u64,
    /// Collected messages that the sink refused.
    #[serde(default)]
    pub refused: u64,
}

impl Collected {
    /// Encodes the report; it replaces the content of `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        // Encoding numbers cannot fail.
        let _ = serde_json::to_writer(buffer, self);
    }

    /// Decodes a report.
    ///
    /// # Errors
    /// [`Error::Message`] when the bytes have another form.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        crate::json::object(bytes).map_err(|source| Error::Message { what: "the report of what was collected", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_and_nothing_else_is_one() {
        let report = Collected { collected: 12, refused: 1 };
        let mut buffer = b"former".to_vec();
        report.encode(&mut buffer);
        assert_eq!(Collected::decode(&buffer).unwrap(), report);
        assert_eq!(Collected::decode(br#"{"collected":3,"later":[]}"#).unwrap().refused, 0);
        for bytes in [&b"{}"[..], b"[]", b"", br#"{"collected":-1}"#, br#"{"collected":"3"}"#] {
            assert!(Collected::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
