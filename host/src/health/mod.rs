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

use ekuiper_core::Chain;
use ekuiper_core::message::{Meta, SymbolKind};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::{Error, ErrorKind};

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

/// What a symbol has done since its plugin was added, for all rules together,
/// those included that do not use it any more.
///
/// Counts begin with 0 and never decrease: neither when handles are closed, nor
/// over a crash, a stop or an update. What waits is that of the open handles.
///
/// Serialized with times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SymbolTotals {
    /// The symbol's kind.
    #[serde(serialize_with = "shown")]
    pub kind: SymbolKind,
    /// The symbol's name.
    pub name: String,
    /// Number of rules, operators and instances for which it is open.
    pub open: u64,
    /// Rows to the plugin, as [`SymbolHealth::rows_out`].
    pub rows_out: u64,
    /// Rows from the plugin, as [`SymbolHealth::rows_in`]; messages that an
    /// official SDK has read count, whether or not they were collected.
    pub rows_in: u64,
    /// Rows that failed, by the reason.
    pub errors: SymbolErrors,
    /// As [`SymbolHealth::lost`].
    pub lost: u64,
    /// As [`SymbolHealth::latency`]; `None` if no handle was timed.
    pub latency: Option<Latency>,
    /// What waits, as [`SymbolHealth::queue`]; `None` if a plugin does not tell.
    pub queue: Option<u64>,
    /// Age of the oldest of what waits, as [`SymbolHealth::lag`].
    #[serde(serialize_with = "seconds_of_some")]
    pub lag: Option<Duration>,
}

impl SymbolTotals {
    /// Returns those of one open handle, which has read so many rows.
    fn of(health: SymbolHealth, read: u64) -> Self {
        let SymbolHealth { kind, name, rows_out, errors, lost, latency, queue, lag, .. } = health;
        // A message of a sink may be read before its sender counts it.
        let rows_out = if kind == SymbolKind::Sink { rows_out.max(read) } else { rows_out };
        Self { kind, name, open: 1, rows_out, rows_in: read, errors, lost, latency, queue, lag }
    }

    /// Returns the same for a handle that is closed: nothing waits.
    fn closed(self) -> Self {
        Self { open: 0, queue: Some(0), lag: Some(Duration::ZERO), ..self }
    }

    /// Adds those of another handle of the same symbol.
    fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.rows_out += other.rows_out;
        self.rows_in += other.rows_in;
        self.errors.add(other.errors);
        self.lost += other.lost;
        match (&mut self.latency, &other.latency) {
            (Some(latency), Some(other)) => latency.add(other),
            (latency @ None, other) => latency.clone_from(other),
            (Some(_), None) => {}
        }
        self.queue = self.queue.zip(other.queue).map(|(one, other)| one + other);
        self.lag = self.lag.zip(other.lag).map(|(one, other)| one.max(other));
    }
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
    fn add(&mut self, other: Self) {
        let Self { symbol, timeouts, unknown_outcomes, others } = other;
        self.symbol += symbol;
        self.timeouts += timeouts;
        self.unknown_outcomes += unknown_outcomes;
        self.others += others;
    }

    /// Returns the number of all failed rows.
    pub fn total(&self) -> u64 {
        self.symbol + self.timeouts + self.unknown_outcomes + self.others
    }
}

/// The last error of a symbol or a plugin.
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

impl LastError {
    pub(crate) fn of(error: &Error, at: SystemTime) -> Self {
        Self { kind: error.kind(), text: Chain(error).to_string(), at }
    }
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
