//! How far a sink without acknowledgements has come, which it tells a host
//! that has asked for it on its ack channel.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How many messages a sink has dealt with since its start.
///
/// On the wire: `{"collected":12,"refused":1}`. The numbers only grow, so that
/// the last report says all that earlier ones did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Messages that `collect` has returned for, refused ones included.
    pub collected: u64,
    /// Those of them that the sink did not take.
    #[serde(default)]
    pub refused: u64,
}

impl Collected {
    /// Replaces what `buffer` holds by the report as it stands on the wire.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        // Numbers can be written.
        let _ = serde_json::to_writer(buffer, self);
    }

    /// Reads a report.
    ///
    /// # Errors
    /// [`Error::Message`] when it has another form.
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
