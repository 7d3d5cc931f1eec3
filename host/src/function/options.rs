//! What calls of a function may take, and what becomes of those that fail.

use std::time::{Duration, Instant};

use ekuiper_transport_ipc::wait::deadline_after;

use crate::options::Options;

/// Options of a function's calls: see
/// [`Function::with_options`](crate::Function::with_options).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// Maximum time from a call to its result, the wait for earlier calls
    /// included. `None`: no limit but `answer_within` and the host's
    /// `send_timeout`.
    pub deadline: Option<Duration>,
    /// Maximum time from the moment at which a call is sent to its answer.
    /// `None`: the host's `recv_timeout`.
    pub answer_within: Option<Duration>,
    /// Time added to `answer_within` for each call of a batch. Default: none.
    pub per_row: Duration,
    /// Whether a call may be made a second time.
    pub is_idempotent: bool,
    /// Maximum number of calls in a batch. `None`: as many as reach 64 KiB.
    pub batch_rows: Option<u32>,
}

impl CallOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum time from a call to its result, the wait for earlier
    /// calls included. A call that was not sent by then is not executed, and
    /// fails with [`Error::Expired`](crate::Error::Expired); one that was sent
    /// fails with [`Error::Timeout`](crate::Error::Timeout), and is cancelled at a
    /// plugin on our SDK; its answer disturbs no other. Of [`call_many`](crate::Function::call_many) it is
    /// the time for all rows together. Default: no limit.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// Sets the maximum time from the moment at which a call is sent to its
    /// answer. Default: the host's
    /// [`recv_timeout`](crate::HostBuilder::recv_timeout).
    pub fn answer_within(mut self, time: Duration) -> Self {
        self.answer_within = Some(time);
        self
    }

    /// Adds this time to [`answer_within`](CallOptions::answer_within) for each
    /// call of a batch, which its function executes one after the other.
    /// Default: none.
    pub fn per_row(mut self, time: Duration) -> Self {
        self.per_row = time;
        self
    }

    /// Sets whether a call may be executed twice. If its process ends before
    /// the answer, it is then made once more in the next process, instead of
    /// failing with [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown).
    /// Default: no.
    pub fn idempotent(mut self, is_idempotent: bool) -> Self {
        self.is_idempotent = is_idempotent;
        self
    }

    /// Sets the maximum number of calls that are sent together. Default: as
    /// many as reach 64 KiB.
    pub fn batch_rows(mut self, rows: u32) -> Self {
        self.batch_rows = Some(rows.max(1));
        self
    }

    /// Returns whether a single call needs nothing of this.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the deadline of a call that is made now.
    pub(super) fn due(&self) -> Option<Due> {
        let after = self.deadline?;
        Some(Due { at: deadline_after(after), after })
    }
}

/// Deadline of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) at: Instant,
    /// The same as a duration, for the error.
    pub(super) after: Duration,
}

/// What all calls of a message have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    answer_within: Duration,
    per_row: Duration,
    pub(super) is_idempotent: bool,
    pub(super) max_rows: u32,
}

impl Terms {
    pub(super) fn of(call: &CallOptions, host: &Options) -> Self {
        Self {
            answer_within: call.answer_within.unwrap_or(host.recv_timeout),
            per_row: call.per_row,
            is_idempotent: call.is_idempotent,
            max_rows: call.batch_rows.unwrap_or(u32::MAX),
        }
    }

    /// Returns the same for a call with columns of so many rows.
    #[cfg(any(feature = "arrow59", feature = "c-data"))]
    pub(super) fn of_columns(self, rows: usize) -> Self {
        Self { answer_within: self.patience(rows), per_row: Duration::ZERO, ..self }
    }

    /// Returns the same for calls that are not made a second time.
    pub(super) fn once(self) -> Self {
        Self { is_idempotent: false, ..self }
    }

    /// Returns the maximum time to the answer to this many calls.
    pub(super) fn patience(&self, rows: usize) -> Duration {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.answer_within.saturating_add(self.per_row.saturating_mul(rows))
    }
}
