//! The health of the symbols in use: what their rules have asked of them and
//! got, how long it took, and what waits.
//!
//! The hot path counts with atomics of its symbol ([`vitals`]) and takes no
//! lock; a snapshot reads them, and disturbs nobody.

pub(crate) mod ledger;
pub(crate) mod vitals;

mod latency;

pub use latency::Latency;

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use ekuiper_core::message::{Meta, SymbolKind};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::ErrorKind;

/// Health of a symbol that is open for one rule, operator and instance.
///
/// Counts begin with 0 when it is opened, and never decrease (but for the
/// messages that an official SDK has read and not collected). They are read one
/// after the other, while calls are made: `rows_in` never exceeds `rows_out` of
/// a function or a sink, and the errors of the symbol never exceed `rows_in`.
///
/// Serialized with times in seconds, and [`SymbolHealth::meta`] as `rule`,
/// `operator` and `instance`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SymbolHealth {
    /// The symbol's kind.
    #[serde(serialize_with = "shown")]
    pub kind: SymbolKind,
    /// The symbol's name.
    pub name: String,
    /// The rule, operator and instance. Function handles of the same ones are
    /// counted together.
    #[serde(flatten, serialize_with = "named")]
    pub meta: Meta,
    /// Time since it was opened.
    #[serde(serialize_with = "seconds")]
    pub open_for: Duration,
    /// Number of restarts of its plugin after a crash while it was open; for a
    /// function, of all processes of the plugin's pools.
    pub restarts: u64,
    /// Rows to the plugin: calls of a function (in a batch, each), of any kind,
    /// whether or not they could be sent; messages sent to a sink; 0 for a
    /// source.
    pub rows_out: u64,
    /// Rows from the plugin: answers of a function, and messages of a source
    /// that were read, including errors; for a sink, messages that it has
    /// acknowledged or reported as collected, including the refused ones (or,
    /// if its plugin does neither, that its process is known to have read).
    pub rows_in: u64,
    /// Rows that failed, by the reason.
    pub errors: SymbolErrors,
    /// Messages to a sink that will never be known to have been collected, as
    /// [`Traffic::lost`](crate::Traffic::lost).
    pub lost: u64,
    /// Time from a call to its answer, as its caller sees it, or from a message
    /// to its acknowledgement. Calls that travel in one batch count with the
    /// time of the first. `None` for sources, and for sinks without
    /// acknowledgements.
    pub latency: Option<Latency>,
    /// What waits: calls without an outcome, whether they were sent or not;
    /// messages to a sink that it has not collected yet; messages of a source
    /// in this process that nobody has read (what waits in the plugin or in the
    /// kernel cannot be seen). `None` if the plugin does not tell: for sinks
    /// without acknowledgements on an official SDK.
    pub queue: Option<u64>,
    /// Age of the oldest of what waits, or zero if nothing does. A lower bound
    /// while more than 256 wait, except for sinks with acknowledgements.
    #[serde(serialize_with = "seconds_of_some")]
    pub lag: Option<Duration>,
    /// The last error, since it was opened.
    pub last_error: Option<LastError>,
}

/// Numbers of rows that failed, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SymbolErrors {
    /// Errors that the symbol itself has returned or sent, and messages that it
    /// has refused.
    pub symbol: u64,
    /// Rows without an outcome in time, sent or not.
    pub timeouts: u64,
    /// Rows of which a crash, or the end of a connection, leaves unknown
    /// whether they were processed.
    pub unknown_outcomes: u64,
    /// All others: not sent because the plugin was away, values that cannot be
    /// encoded or decoded, a source's overruns.
    pub others: u64,
}

impl SymbolErrors {
    /// Returns the number of all failed rows.
    pub fn total(&self) -> u64 {
        self.symbol + self.timeouts + self.unknown_outcomes + self.others
    }
}

/// The last error of a symbol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LastError {
    /// The error's kind.
    pub kind: ErrorKind,
    /// The error's text.
    pub text: String,
    /// When it occurred. Serialized in seconds since 1970, UTC.
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
}

fn shown<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn named<S: Serializer>(meta: &Meta, serializer: S) -> Result<S::Ok, S::Error> {
    let mut fields = serializer.serialize_struct("Meta", 3)?;
    fields.serialize_field("rule", &meta.rule_id)?;
    fields.serialize_field("operator", &meta.op_id)?;
    fields.serialize_field("instance", &meta.instance_id)?;
    fields.end()
}

/// Serializes a time in seconds.
pub(crate) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

pub(crate) fn seconds_of_some<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

fn unix_seconds<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    seconds(&at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), serializer)
}
