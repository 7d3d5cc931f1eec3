//! Closed sinks without acknowledgements: what closing returned, and whether it
//! agrees with the plugin's record.

use std::collections::HashSet;

/// Result of closing a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Everything was collected.
    All,
    /// This many messages are not known to be collected, with the reason.
    Missing(u64, String),
    /// The host was shut down.
    Nothing,
}

/// The life of one closed sink.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Messages that the sink accepted.
    pub taken: Vec<u64>,
    /// Result of closing it.
    pub said: Said,
    /// Nothing happened that would make the number an estimate.
    pub is_exact: bool,
}

/// Summary of all closed sinks of a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of closed sinks.
    pub closed: usize,
    /// Number of closed sinks that did not collect everything, and reported it.
    pub lacked: usize,
    /// Number of messages they did not collect.
    pub missing: u64,
}

/// Compares the sinks with the numbers that the plugin has recorded; returns
/// one sentence per violation.
pub fn check(batches: &[Batch], recorded: &HashSet<u64>) -> (Summary, Vec<String>) {
    let mut summary = Summary::default();
    let mut wrong = Vec::new();
    for Batch { taken, said, is_exact } in batches {
        let missing = taken.iter().filter(|id| !recorded.contains(id)).count() as u64;
        let (told, why) = match said {
            Said::All => (0, ""),
            Said::Missing(told, why) => (*told, why.as_str()),
            Said::Nothing => continue,
        };
        summary.closed += 1;
        summary.lacked += usize::from(told > 0);
        summary.missing += told;
        let range = taken.first().zip(taken.last());
        if missing > told {
            wrong.push(format!("a sink that was closed lacks {missing} messages of {range:?}, and said {told}"));
        } else if *is_exact && missing < told {
            wrong.push(format!(
                "a sink that was closed said that {told} messages of {range:?} lack: it is {missing} ({why})"
            ));
        }
    }
    (summary, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(said: Said, is_exact: bool) -> usize {
        let batch = Batch { taken: vec![1, 2, 3], said, is_exact };
        check(&[batch], &HashSet::from([1, 3])).1.len()
    }

    #[test]
    fn what_was_said_is_compared() {
        assert_eq!([Said::All, Said::Missing(0, String::new())].map(|said| wrong(said, false)), [1, 1]);
        assert_eq!([Said::Missing(1, String::new()), Said::Nothing].map(|said| wrong(said, true)), [0, 0]);
        assert_eq!([false, true].map(|is_exact| wrong(Said::Missing(2, String::new()), is_exact)), [0, 1]);
    }

    #[test]
    fn what_was_said_is_counted() {
        let batch = |said| Batch { taken: vec![1, 2], said, is_exact: true };
        let batches = [batch(Said::All), batch(Said::Missing(2, String::new())), batch(Said::Nothing)];
        let (summary, _) = check(&batches, &HashSet::from([1, 2]));
        assert_eq!(summary, Summary { closed: 2, lacked: 1, missing: 2 });
    }
}
