//! The errors of a process's channels, told with the state of the process.

use std::time::Duration;

use ekuiper_core::exchange::NotReady;
use ekuiper_core::transport::TransportError;

use super::Running;
use crate::channel::Failure;
use crate::error::transport_error;
use crate::process::EXIT_GRACE;
use crate::{Error, Subject};

impl Running {
    /// Returns the error of a failed exchange: the request, and the state of
    /// the process.
    pub(crate) fn explain(&self, failure: Failure, what: Subject, after: Duration) -> Error {
        let plugin = self.name.clone();
        match failure {
            Failure::OutcomeUnknown => Error::OutcomeUnknown { plugin, what, exit: self.process.exit_soon() },
            Failure::ProcessEnded => self.closed_error(),
            Failure::Timeout => Error::Timeout { plugin, what, after },
            Failure::NotReady(NotReady::NoPeer) | Failure::Lost => {
                let what = what.in_words(format!("{what} (it is not connected)")).not_sent();
                Error::Timeout { plugin, what, after }
            }
            Failure::NotReady(NotReady::Busy) => {
                let what = what.in_words(format!("{what} (it is still executing an earlier call)")).not_sent();
                Error::Timeout { plugin, what, after }
            }
            Failure::AnswerTooLong(length) => {
                let max = self.site.options.max_message as u64;
                let what = what.in_words(format!("plugin {plugin}: the answer to {what}")).answered();
                transport_error(what)(TransportError::TooLong { length, max })
            }
            Failure::Garbage(said) => Error::Garbage { plugin, said: String::from_utf8_lossy(&said).into_owned() },
            Failure::Transport(source) => {
                let what = what.in_words(format!("plugin {plugin}: {what}"));
                self.channel_error(what, source)
            }
        }
    }

    /// Returns the error of one of the process's channels other than its
    /// control and function channels: the end of the process, if that ended the
    /// channel.
    pub(crate) fn channel_error(&self, what: Subject, source: TransportError) -> Error {
        let plugin = || self.name.clone();
        match source {
            TransportError::Closed => self.closed_error(),
            TransportError::Disconnected => match self.process.exit_soon() {
                Some(exit) => Error::Exited { plugin: plugin(), exit },
                None => transport_error(what)(TransportError::Disconnected),
            },
            source => transport_error(what)(source),
        }
    }

    /// Returns the error of a channel that was closed on this side: with the
    /// process, or, while that is alive, because the host is shut down or the
    /// channel's handle was stopped.
    fn closed_error(&self) -> Error {
        match self.process.wait(EXIT_GRACE) {
            Some(exit) => Error::Exited { plugin: self.name.clone(), exit },
            None => Error::Stopped,
        }
    }
}
