//! Check that a source's tuples arrive in order, once each, and without a gap.

use std::collections::HashSet;

use serde::Deserialize;

/// Tuple of the counting sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Tick {
    /// Process id.
    pub pid: u32,
    /// The source: the nanosecond of its start, since process ids are reused.
    pub run: u64,
    /// Number of the tuple within that source, from 1.
    pub n: u64,
}

/// The tuples of one handle. Within one run of the source there is no gap; the
/// end of its process, and a restart, begin a new run.
#[derive(Debug, Default)]
pub struct Sequence {
    last: Option<Tick>,
    over: HashSet<(u32, u64)>,
}

impl Sequence {
    /// Checks the next tuple.
    ///
    /// # Errors
    /// What is wrong with the tuple.
    pub fn take(&mut self, tick: Tick) -> Result<(), String> {
        let last = self.last.replace(tick);
        match last {
            Some(last) if (last.pid, last.run) == (tick.pid, tick.run) => {
                if tick.n == last.n + 1 {
                    Ok(())
                } else {
                    Err(format!("{tick:?} follows {last:?}"))
                }
            }
            _ => {
                self.over.extend(last.map(|last| (last.pid, last.run)));
                if self.over.contains(&(tick.pid, tick.run)) {
                    return Err(format!("{tick:?} of a run that was over, after {last:?}"));
                }
                if tick.n == 1 { Ok(()) } else { Err(format!("{tick:?} is the first of its run, after {last:?}")) }
            }
        }
    }

    /// Ends the run, after the handle was closed.
    pub fn end(&mut self) {
        self.over.extend(self.last.take().map(|last| (last.pid, last.run)));
    }

    /// Returns the number of runs.
    pub fn runs(&self) -> usize {
        self.over.len() + usize::from(self.last.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(run: u64, n: u64) -> Tick {
        Tick { pid: 1, run, n }
    }

    fn follow(ticks: &[Tick]) -> Result<usize, String> {
        let mut sequence = Sequence::default();
        ticks.iter().try_for_each(|tick| sequence.take(*tick))?;
        Ok(sequence.runs())
    }

    #[test]
    fn runs_follow_one_another() {
        assert_eq!(follow(&[tick(1, 1), tick(1, 2), tick(2, 1), tick(2, 2)]), Ok(2));
    }

    #[test]
    fn a_closed_run_does_not_go_on() {
        let mut sequence = Sequence::default();
        sequence.take(tick(1, 1)).unwrap();
        sequence.end();
        assert!(sequence.take(tick(1, 2)).is_err());
    }

    #[test]
    fn gaps_duplicates_and_returns_are_found() {
        for wrong in [
            &[tick(1, 1), tick(1, 3)][..],
            &[tick(1, 1), tick(1, 1)],
            &[tick(1, 2)],
            &[tick(1, 1), tick(2, 1), tick(1, 2)],
            &[tick(1, 1), tick(2, 1), tick(1, 1)],
        ] {
            assert!(follow(wrong).is_err(), "{wrong:?}");
        }
    }
}
