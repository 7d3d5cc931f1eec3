//! Commands of the control channel that cancel calls: only between a host and a
//! plugin of this project that have agreed on it.
//!
//! On the wire: `{"cmd":"cancel","arg":[{"symbolName":"f","id":7,"rows":[1,3]}]}`,
//! one entry per function; without `rows`, all rows of the batch are cancelled.
//! The answer is `ok`, also for calls that are not executed any more.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The beginning of the command, as this project writes it.
const HEAD: &[u8] = b"{\"cmd\":\"cancel\",";

/// Calls in one [batch](super::BatchWriter) whose results are not wanted any
/// more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The function's name.
    #[serde(rename = "symbolName")]
    pub symbol: String,
    /// The batch's number, which a host uses once.
    pub id: u64,
    /// The calls' rows in the batch, from 0; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Envelope {
    arg: Vec<Cancel>,
}

impl Cancel {
    /// Encodes a command that cancels these calls.
    pub fn encode(cancels: &[Self]) -> Vec<u8> {
        let mut command = [HEAD, b"\"arg\":"].concat();
        // Encoding numbers and text cannot fail.
        let _ = serde_json::to_writer(&mut command, cancels);
        command.push(b'}');
        command
    }

    /// Decodes a command; `None` if it is another one.
    ///
    /// # Errors
    /// [`Error::Message`] when the bytes have another form.
    pub fn decode(command: &[u8]) -> Option<Result<Vec<Self>>> {
        command.starts_with(HEAD).then(|| {
            let envelope: Envelope = crate::json::object(command)
                .map_err(|source| Error::Message { what: "the command that cancels calls", source })?;
            Ok(envelope.arg)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Command, CommandKind, Control};

    #[test]
    fn a_cancel_survives_and_nothing_else_is_one() {
        let cancels = [
            Cancel { symbol: "f".into(), id: 7, rows: Some(vec![1, 3]) },
            Cancel { symbol: "\"ü\"".into(), id: u64::MAX, rows: None },
        ];
        let encoded = Cancel::encode(&cancels);
        assert!(encoded.starts_with(br#"{"cmd":"cancel","arg":[{"symbolName":"f","id":7,"rows":[1,3]},"#));
        assert_eq!(Cancel::decode(&encoded).unwrap().unwrap(), cancels);
        // Later versions may say more.
        let later = br#"{"cmd":"cancel","arg":[{"symbolName":"f","id":1,"why":"late"}],"since":3}"#;
        assert_eq!(Cancel::decode(later).unwrap().unwrap()[0].rows, None);
        for wrong in [r#"{"cmd":"cancel",}"#, r#"{"cmd":"cancel","arg":[{"symbolName":"f","id":1,"rows":[-1]}]}"#] {
            assert!(Cancel::decode(wrong.as_bytes()).unwrap().is_err(), "{wrong}");
        }
        let start = Command { kind: CommandKind::Start, control: Control::function("cancel") }.encode().unwrap();
        assert!(Cancel::decode(&start).is_none());
        assert!(Command::decode(&encoded).is_err());
    }
}
