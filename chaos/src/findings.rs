//! Findings of a run: violations, and counts of events.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Mutex;

use ekuiper_core::sync::lock;
use ekuiper_host::Error;

use crate::ledger::Outcome;

/// Maximum number of violations kept with their text; all are counted.
const KEPT: usize = 50;

/// Findings shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, (u64, String)>>,
}

impl Findings {
    /// Records a violation of a promise.
    pub(crate) fn violation(&self, text: impl Display) {
        eprintln!("VIOLATION: {text}");
        lock(&self.violations).push(text.to_string());
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        let mut violations = lock(&self.violations).clone();
        if let Some(more) = violations.len().checked_sub(KEPT + 1) {
            violations.truncate(KEPT);
            violations.push(format!("and {} more", more + 1));
        }
        violations
    }

    /// Counts an event; the first of its kind is kept with its text.
    pub(crate) fn count(&self, kind: impl Into<String>, text: impl Display) {
        let mut counts = lock(&self.counts);
        let (count, _) = counts.entry(kind.into()).or_insert_with(|| (0, text.to_string()));
        *count += 1;
    }

    /// Returns the count of each kind, with the text of the first event.
    pub(crate) fn counts(&self) -> BTreeMap<String, (u64, String)> {
        lock(&self.counts).clone()
    }
}

/// Returns the name of an error's variant, and the outcome of the call or
/// message that it implies.
pub(crate) fn judge(error: &Error) -> (&'static str, Outcome) {
    match error {
        Error::Function { .. } | Error::Sink { .. } => ("refused by the plugin", Outcome::Unknown),
        Error::OutcomeUnknown { .. } => ("outcome unknown", Outcome::Unknown),
        Error::Timeout { .. } => ("timeout", Outcome::Unknown),
        Error::Exited { .. } => ("exited", Outcome::Unknown),
        Error::Replaced { .. } => ("replaced", Outcome::Unknown),
        Error::Stopped => ("host shut down", Outcome::Unknown),
        Error::Transport { .. } => ("transport", Outcome::Unknown),
        // These mean that nothing was sent.
        Error::Away { .. } => ("away", Outcome::NotSent),
        Error::Broken { .. } => ("broken", Outcome::NotSent),
        Error::NotRestored { .. } => ("not restored", Outcome::NotSent),
        Error::SinkBroken { .. } => ("sink to be reopened", Outcome::NotSent),
        Error::Refused { .. } => ("command refused", Outcome::Unknown),
        Error::EarlyExit { .. } => ("early exit", Outcome::Unknown),
        Error::NoHandshake { .. } => ("no handshake", Outcome::Unknown),
        Error::Garbage { .. } => ("garbage", Outcome::Unknown),
        Error::Source { .. } => ("source's own error", Outcome::Unknown),
        Error::NotCollected { .. } => ("not collected", Outcome::Unknown),
        // Returned by a close that collected everything.
        Error::NotStopped { .. } => ("not stopped", Outcome::Unknown),
        Error::InUse { .. } => ("address in use", Outcome::NotSent),
        Error::Shortage { .. } => ("host short of something", Outcome::Unknown),
        // Values that cannot be encoded or decoded, and an address that another
        // channel has.
        Error::Message { .. } => ("message or address", Outcome::Unknown),
        _ => ("other", Outcome::Unknown),
    }
}
