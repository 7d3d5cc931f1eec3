//! The end of a plugin's process, as its errors tell it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::plugin_options::Size;

/// Maximum age, at the end of a process that was ready, of output that may
/// explain the end.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a plugin's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Exit {
    /// Exit code, if the process exited by itself.
    pub code: Option<i32>,
    /// Signal that ended the process, if one did.
    pub signal: Option<i32>,
    /// Limit of its [memory](crate::PluginOptions::memory), in bytes, if the
    /// process said before its end that it got no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Last lines of its output, stdout and stderr. Of a process that was
    /// ready: those of its last 5 seconds.
    pub tail: String,
}

impl Exit {
    /// Returns the exit of a process of which only the output is known.
    pub(crate) fn unknown(tail: String) -> Self {
        Self { code: None, signal: None, memory_limit: None, tail }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (_, Some(signal)) => write!(f, "signal {signal}"),
            _ => f.write_str("exit status unknown"),
        }?;
        match self.memory_limit {
            Some(limit) => write!(f, ", at its memory limit of {}", Size(limit)),
            None => Ok(()),
        }
    }
}
