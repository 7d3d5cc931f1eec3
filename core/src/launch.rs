//! The JSON object that a host passes to a plugin as its only argument.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a host tells a plugin when it starts it.
///
/// eKuiper sends `{"sendTimeout":1000}`; the official SDKs ignore what they do
/// not know, so our own host says more here and every plugin still starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LaunchOptions {
    /// How long a plugin waits for the host to take a message, in milliseconds.
    #[serde(default = "default_send_timeout")]
    pub send_timeout: u64,
    /// The transport to use: `uds`, `nng` or `zeromq`. Absent: `uds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The folder of all sockets. Absent: `/tmp`, as eKuiper has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipc_dir: Option<PathBuf>,
    /// The least severe log level to write: `error` to `trace`. Absent: `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// The host starts a crashed plugin again by itself, with all its symbols:
    /// a plugin needs no guard of its own. Absent: it does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supervises: bool,
    /// The host understands a [hello](crate::message::Hello) of this version.
    /// Absent: it does not, and is to get eKuiper's handshake only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<u32>,
}

fn default_send_timeout() -> u64 {
    1000
}

impl Default for LaunchOptions {
    /// Exactly what eKuiper sends.
    fn default() -> Self {
        Self {
            send_timeout: default_send_timeout(),
            transport: None,
            ipc_dir: None,
            log_level: None,
            supervises: false,
            hello: None,
        }
    }
}

impl LaunchOptions {
    /// Reads the plugin's argument; fields that are not known are ignored.
    ///
    /// # Errors
    /// [`Error::LaunchOptions`] when it is not a JSON object of this form.
    pub fn parse(text: &str) -> Result<Self> {
        crate::json::object(text.as_bytes()).map_err(|source| Error::LaunchOptions { text: text.to_owned(), source })
    }

    /// The argument as it stands on the plugin's command line.
    ///
    /// # Errors
    /// [`Error::Encode`] when the socket folder's path is not UTF-8.
    pub fn to_argument(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|source| Error::Encode { what: "the launch options", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_options_it_is_what_ekuiper_sends() {
        assert_eq!(LaunchOptions::default().to_argument().unwrap(), r#"{"sendTimeout":1000}"#);
    }

    #[test]
    fn unknown_fields_are_ignored_and_ours_survive() {
        let text = r#"{"sendTimeout":250,"ipcDir":"/run/x","transport":"nng","supervises":true,"later":[1]}"#;
        let options = LaunchOptions::parse(text).unwrap();
        assert_eq!(options.send_timeout, 250);
        assert_eq!(options.ipc_dir, Some("/run/x".into()));
        assert!(options.supervises);
        assert_eq!(LaunchOptions::parse(&options.to_argument().unwrap()).unwrap(), options);
        assert_eq!(LaunchOptions::parse("{}").unwrap(), LaunchOptions::default());
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        assert!(LaunchOptions::parse("").is_err());
        assert!(LaunchOptions::parse("7").is_err());
        assert!(LaunchOptions::parse("[250]").is_err());
    }
}
