//! The errors of a sink, told with what it has collected and the state of its
//! process.

use std::time::Duration;

use ekuiper_core::Chain;
use ekuiper_core::transport::TransportError;

use super::connection::SinkConnection;
use super::session::SinkSession;
use super::settle::Unsettled;
use crate::error::Reason;
use crate::{Error, Result};

impl SinkSession {
    pub(super) fn not_stopped(&self, error: Error) -> Error {
        let delivery = self.delivery();
        Error::NotStopped {
            plugin: self.plugin.name().to_owned(),
            symbol: self.control.symbol_name.clone(),
            collected: delivery.delivered + delivery.refused,
            sent: delivery.sent,
            source: Reason(error.into()),
        }
    }

    pub(super) fn not_collected(&self, missing: u64, reason: String) -> Error {
        Error::NotCollected {
            plugin: self.plugin.name().to_owned(),
            symbol: self.control.symbol_name.clone(),
            missing,
            sent: self.delivery().sent,
            reason,
        }
    }

    /// Returns why messages were not collected: what ended the wait for them,
    /// or else the outcome of the stop in the process that had them last.
    pub(super) fn reason(
        &self,
        why: Option<Unsettled>,
        connection: Option<&SinkConnection>,
        stopped: Result<()>,
    ) -> String {
        let options = &self.plugin.site.options;
        match why {
            Some(Unsettled::Stalled) => {
                format!("it made no progress for {:?}: raise drain_stall to wait longer", options.drain_stall)
            }
            Some(Unsettled::Late) => {
                format!("draining took longer than {:?}: raise drain_timeout to wait longer", options.drain_timeout)
            }
            Some(Unsettled::Exited(exit)) => format!("its process ended ({exit})"),
            Some(Unsettled::Disconnected) => "its connection ended before it had collected them".into(),
            Some(Unsettled::Over) => "the wait for it was given up".into(),
            Some(Unsettled::Failed(TransportError::Closed)) if self.is_stopped() => {
                "it was stopped in the middle of a message".into()
            }
            Some(Unsettled::Failed(TransportError::Closed)) => "the host is shut down".into(),
            Some(Unsettled::Failed(error)) => Chain(&error).to_string(),
            None => match (connection.and_then(|connection| connection.running.process.exit()), stopped) {
                (Some(exit), _) => format!("its process ended ({exit})"),
                (None, Err(error)) => format!("it was not stopped: {}", error.reason()),
                // The one that had the messages.
                (None, Ok(())) => "an earlier process of its plugin ended first".into(),
            },
        }
    }

    pub(crate) fn explain(
        &self,
        connection: &SinkConnection,
        error: TransportError,
        problem: &str,
        after: Duration,
    ) -> Error {
        let plugin = self.plugin.name().to_owned();
        self.counted(match (error, connection.running.process.exit()) {
            (TransportError::Timeout, Some(exit)) => Error::Exited { plugin, exit },
            (TransportError::Timeout, None) => {
                let words = format!("sink {}: {problem}", self.control.symbol_name);
                Error::Timeout { plugin, what: self.what().in_words(words), after }
            }
            (error, _) => connection.running.channel_error(self.what(), error),
        })
    }

    /// Returns the error of rows that cannot be encoded.
    pub(crate) fn unencodable(&self, source: ekuiper_core::Error) -> Error {
        self.counted(Error::Message { what: self.what().not_sent(), source: source.into() })
    }

    /// Counts an error of one message, and returns it.
    pub(crate) fn counted(&self, error: Error) -> Error {
        self.tally.counted.failed(1, &error);
        error
    }

    /// Keeps the error of a message that was counted when its acknowledgement
    /// arrived.
    pub(super) fn kept(&self, error: Error) -> Error {
        self.tally.counted.keep(&error);
        error
    }
}
