//! Why a command has no answer.

use ekuiper_core::exchange::NotReady;
use ekuiper_core::transport::TransportError;

/// Reason for a missing answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No peer completed its handshake by the deadline, or the peer is still
    /// executing an earlier command. Nothing was sent.
    NotReady(NotReady),
    /// The command was sent, and no answer arrived by the deadline.
    Timeout,
    /// The peer disconnected after the command was sent.
    OutcomeUnknown,
    /// The peer disconnected, and did not reconnect by itself. Nothing was
    /// sent.
    Lost,
    /// The process has ended. Nothing was sent.
    ProcessEnded,
    /// The answer exceeds the maximum length.
    AnswerTooLong(u64),
    /// A connection sent this instead of a handshake.
    Garbage(Vec<u8>),
    /// The channel cannot be used.
    Transport(TransportError),
}

impl Failure {
    /// Returns whether a live process may execute the command nevertheless.
    pub(crate) fn may_be_carried_out(&self) -> bool {
        match self {
            Self::NotReady(_) | Self::Lost | Self::ProcessEnded | Self::Garbage(_) => false,
            Self::Timeout | Self::OutcomeUnknown | Self::AnswerTooLong(_) | Self::Transport(_) => true,
        }
    }
}
