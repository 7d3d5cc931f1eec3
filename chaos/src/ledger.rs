//! Outcome of each call and message on the engine's side, and whether it agrees
//! with the plugin's record.

use crate::record::Entry;

/// Outcome of one call or message on the engine's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call has not returned.
    Open,
    /// Success. A function's answer names its execution.
    Done(Option<(u32, u32)>),
    /// Failure; it may have been executed.
    Unknown,
    /// Failure; it was not sent.
    NotSent,
}

/// All calls of a plugin's functions, or all messages to its sinks. The index
/// is the number.
#[derive(Debug, Default)]
pub struct Ledger {
    outcomes: Vec<Outcome>,
}

/// Totals by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All calls or messages.
    pub asked: usize,
    /// Successes.
    pub done: usize,
    /// Failures with "outcome unknown", a timeout, or the plugin's error.
    pub unknown: usize,
    /// Failures before sending.
    pub not_sent: usize,
    /// Executions in the plugin's record.
    pub recorded: usize,
}

impl Ledger {
    /// Begins a call; returns its number.
    pub fn begin(&mut self) -> u64 {
        self.outcomes.push(Outcome::Open);
        self.outcomes.len() as u64 - 1
    }

    /// Records the outcome of a call.
    pub fn end(&mut self, id: u64, outcome: Outcome) {
        if let Some(place) = usize::try_from(id).ok().and_then(|id| self.outcomes.get_mut(id)) {
            *place = outcome;
        }
    }

    /// Compares the ledger with the plugin's record; returns one sentence per
    /// violation.
    pub fn check(&self, what: &str, record: &[Entry]) -> (Totals, Vec<String>) {
        let mut wrong = Vec::new();
        let mut totals = Totals { asked: self.outcomes.len(), recorded: record.len(), ..Totals::default() };
        let mut done: Vec<Option<Entry>> = vec![None; self.outcomes.len()];
        for entry in record {
            match usize::try_from(entry.id).ok().and_then(|id| done.get_mut(id)) {
                None => wrong.push(format!("{what} {} is recorded, and nobody asked for it", entry.id)),
                Some(Some(first)) => wrong.push(format!("{what} {} was done twice: {first:?}, {entry:?}", entry.id)),
                Some(place) => *place = Some(*entry),
            }
        }
        for (id, (outcome, done)) in self.outcomes.iter().zip(&done).enumerate() {
            match (outcome, done) {
                (Outcome::Open, _) => wrong.push(format!("{what} {id} never returned")),
                (Outcome::Done(_), None) => wrong.push(format!("{what} {id} was confirmed, and is not in the record")),
                (Outcome::Done(Some(by)), Some(entry)) if *by != (entry.pid, entry.sequence) => {
                    wrong.push(format!("{what} {id} was answered by execution {by:?}, and done by {entry:?}"));
                }
                (Outcome::NotSent, Some(entry)) => {
                    wrong.push(format!("{what} {id} was said not to have been sent, and was done: {entry:?}"));
                }
                _ => {}
            }
            match outcome {
                Outcome::Open => {}
                Outcome::Done(_) => totals.done += 1,
                Outcome::Unknown => totals.unknown += 1,
                Outcome::NotSent => totals.not_sent += 1,
            }
        }
        (totals, wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, sequence: u32) -> Entry {
        Entry { id, pid: 5, sequence }
    }

    fn check(outcome: Outcome, record: &[Entry]) -> String {
        let mut ledger = Ledger::default();
        let id = ledger.begin();
        ledger.end(id, outcome);
        ledger.check("call", record).1.join("; ")
    }

    #[test]
    fn what_agrees_is_counted() {
        let mut ledger = Ledger::default();
        let outcomes = [Outcome::Done(Some((5, 1))), Outcome::Done(None), Outcome::Unknown, Outcome::NotSent];
        for outcome in outcomes {
            let id = ledger.begin();
            ledger.end(id, outcome);
        }
        let (totals, wrong) = ledger.check("call", &[entry(0, 1), entry(1, 2), entry(2, 3)]);
        assert_eq!(wrong, [] as [String; 0]);
        assert_eq!(totals, Totals { asked: 4, done: 2, unknown: 1, not_sent: 1, recorded: 3 });
    }

    #[test]
    fn every_lie_is_found() {
        assert!(check(Outcome::Done(None), &[]).contains("not in the record"));
        assert!(check(Outcome::Done(Some((5, 1))), &[entry(0, 2)]).contains("answered by execution"));
        assert!(check(Outcome::Done(None), &[entry(0, 1), entry(0, 2)]).contains("done twice"));
        assert!(check(Outcome::Unknown, &[entry(0, 1), entry(0, 1)]).contains("done twice"));
        assert!(check(Outcome::NotSent, &[entry(0, 1)]).contains("not to have been sent"));
        assert!(check(Outcome::Open, &[]).contains("never returned"));
        assert!(check(Outcome::Unknown, &[entry(1, 1)]).contains("nobody asked"));
        assert_eq!(check(Outcome::Unknown, &[]), "");
    }
}
