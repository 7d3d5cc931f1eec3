//! The record of what was changed: one JSON line per change, whether or not it
//! succeeded.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use ekuiper_core::Chain;
use ekuiper_core::sync::lock;
use serde_json::{Value, json};

use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Audit(Mutex<File>);

impl Audit {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.map(|file| Self(Mutex::new(file))).map_err(|source| Error::Folder { path: path.to_owned(), source })
    }

    /// Adds a line, with the plugin's version after the change, if the change is
    /// one of that. That it cannot be written keeps no change from being made.
    pub(crate) fn record(&self, action: &str, plugin: &str, details: Value, outcome: Result<Option<&str>, &Error>) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (version, error) = match outcome {
            Ok(version) => (version, None),
            Err(error) => (None, Some(Chain(error).to_string())),
        };
        let line = json!({
            "unix_seconds": since.as_millis() as f64 / 1000.0, "action": action, "plugin": plugin,
            "details": details, "version": version, "error": error,
        });
        let mut file = lock(&self.0);
        let length = file.metadata().map(|metadata| metadata.len());
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            // A part of a line is none.
            let _ = length.and_then(|length| file.set_len(length));
            tracing::error!(%error, "the audit line of {action} {plugin} cannot be written");
        }
    }
}
