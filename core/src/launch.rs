//! The JSON object that a host passes to a plugin as its only argument.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The launch options of a plugin.
///
/// eKuiper sends `{"sendTimeout":1000}`. The official SDKs ignore unknown
/// fields, so our own host adds more here and every plugin still starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LaunchOptions {
    /// Maximum time for the host to accept a message, in milliseconds.
    #[serde(default = "default_send_timeout")]
    pub send_timeout: u64,
    /// The transport to use: `uds`, `nng`, `zeromq` or `shm`. Absent: `uds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The folder of all sockets. Absent: `/tmp`, as in eKuiper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipc_dir: Option<PathBuf>,
    /// The least severe log level to write: `error` to `trace`. Absent: `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Whether the host restarts a crashed plugin by itself, with all its
    /// symbols, so that the plugin needs no supervisor of its own. Absent:
    /// false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supervises: bool,
    /// The version of the [hello](crate::message::Hello) that the host
    /// supports. Absent: none; the plugin is to send eKuiper's handshake only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<u32>,
    /// Maximum length of a message that the host receives, in bytes. Absent:
    /// unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message: Option<usize>,
}

fn default_send_timeout() -> u64 {
    1000
}

impl Default for LaunchOptions {
    /// The options that eKuiper sends.
    fn default() -> Self {
        Self {
            send_timeout: default_send_timeout(),
            transport: None,
            ipc_dir: None,
            log_level: None,
            supervises: false,
            hello: None,
            max_message: None,
        }
    }
}

impl LaunchOptions {
    /// Parses the plugin's argument; unknown fields are ignored.
    ///
    /// # Errors
    /// [`Error::LaunchOptions`] when the text is not a JSON object of this
    /// form.
    pub fn parse(text: &str) -> Result<Self> {
        crate::json::object(text.as_bytes()).map_err(|source| Error::LaunchOptions { text: text.to_owned(), source })
    }

    /// Encodes the options as the plugin's command line argument.
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
