//! Calls that the host has cancelled: their results are not wanted any more.
//!
//! The control thread records them, whatever the function's thread does; that
//! one asks, which costs an atomic load.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ekuiper_core::message::Cancel;
use ekuiper_core::sync::lock;

/// The cancelled calls of a plugin's functions, by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct CancelTable(Arc<HashMap<String, Arc<CancelledCalls>>>);

impl CancelTable {
    pub(crate) fn new<'a>(functions: impl IntoIterator<Item = &'a String>) -> Self {
        Self(Arc::new(functions.into_iter().map(|name| (name.clone(), Arc::default())).collect()))
    }

    pub(crate) fn of(&self, function: &str) -> Option<Arc<CancelledCalls>> {
        self.0.get(function).cloned()
    }

    /// Records cancelled calls; those of an unknown function are ignored.
    pub(crate) fn cancel(&self, cancels: Vec<Cancel>) {
        for cancel in cancels {
            if let Some(calls) = self.0.get(&cancel.symbol) {
                calls.cancel(cancel);
            }
        }
    }

    /// Forgets the calls that have not begun: another host may use their numbers
    /// for its own.
    pub(crate) fn forget(&self) {
        self.0.values().for_each(|calls| calls.forget());
    }
}

/// The cancelled calls of one function: of the batch that it executes, or of the
/// next one. A host has one batch of a function in flight, so no others can be
/// cancelled.
#[derive(Debug, Default)]
pub(crate) struct CancelledCalls {
    /// The number of the batch that is executed, while no call of it is
    /// cancelled.
    intact: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    executing: Option<u64>,
    cancelled: Option<Cancelled>,
}

#[derive(Debug)]
struct Cancelled {
    batch: u64,
    /// `None`: all.
    rows: Option<HashSet<u32>>,
}

/// No batch: those of a host are numbered from 1.
const NONE: u64 = 0;

impl CancelledCalls {
    fn cancel(&self, cancel: Cancel) {
        let mut state = lock(&self.state);
        if state.executing.is_some_and(|executing| executing != cancel.id) {
            // An earlier batch, which was answered.
            return;
        }
        let known = state.cancelled.take().filter(|known| known.batch == cancel.id);
        let known = known.map_or_else(|| Some(HashSet::new()), |known| known.rows);
        let rows = known.zip(cancel.rows).map(|(mut known, rows)| {
            known.extend(rows);
            known
        });
        state.cancelled = Some(Cancelled { batch: cancel.id, rows });
        if state.executing.is_some() {
            self.intact.store(NONE, Ordering::Release);
        }
    }

    fn forget(&self) {
        let mut state = lock(&self.state);
        if state.executing.is_none() {
            state.cancelled = None;
        }
    }

    /// Begins to execute a batch; dropping the guard ends it.
    pub(crate) fn begin(self: &Arc<Self>, batch: u64) -> Executing {
        let mut state = lock(&self.state);
        state.executing = Some(batch);
        state.cancelled = state.cancelled.take().filter(|cancelled| cancelled.batch == batch);
        let intact = if state.cancelled.is_none() { batch } else { NONE };
        self.intact.store(intact, Ordering::Release);
        Executing(self.clone(), batch)
    }

    #[cold]
    fn has(&self, batch: u64, row: u32) -> bool {
        let state = lock(&self.state);
        match &state.cancelled {
            _ if state.executing != Some(batch) => true,
            Some(Cancelled { rows: Some(rows), .. }) => rows.contains(&row),
            Some(Cancelled { rows: None, .. }) => true,
            None => false,
        }
    }
}

/// The guard of a batch that is executed.
pub(crate) struct Executing(Arc<CancelledCalls>, u64);

impl Executing {
    /// The watch of the batch's first call.
    pub(crate) fn watch(&self) -> CallWatch {
        CallWatch { batch: Some((self.0.clone(), self.1)), row: AtomicU32::new(0) }
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        *state = State::default();
        self.0.intact.store(NONE, Ordering::Release);
    }
}

/// Tells whether a call was cancelled.
#[derive(Default)]
pub struct CallWatch {
    /// `None` for a call that cannot be cancelled.
    batch: Option<(Arc<CancelledCalls>, u64)>,
    row: AtomicU32,
}

impl CallWatch {
    /// Whether the call's result is not wanted any more: see
    /// [`FunctionContext::is_cancelled`](crate::FunctionContext::is_cancelled).
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        let Some((calls, batch)) = &self.batch else { return false };
        calls.intact.load(Ordering::Acquire) != *batch && calls.has(*batch, self.row.load(Ordering::Relaxed))
    }

    /// Continues with this row of the batch. Clones keep theirs.
    #[inline]
    pub(crate) fn go_to(&self, row: u32) {
        self.row.store(row, Ordering::Relaxed);
    }
}

impl Clone for CallWatch {
    fn clone(&self) -> Self {
        Self { batch: self.batch.clone(), row: AtomicU32::new(self.row.load(Ordering::Relaxed)) }
    }
}

impl fmt::Debug for CallWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallWatch").field("is_cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel(id: u64, rows: impl Into<Option<Vec<u32>>>) -> Cancel {
        Cancel { symbol: "f".into(), id, rows: rows.into() }
    }

    /// Which of the rows 0 to 3 are cancelled.
    fn rows(watch: &CallWatch) -> Vec<u32> {
        let is_cancelled = |row: &u32| {
            watch.go_to(*row);
            watch.is_cancelled()
        };
        (0..4).filter(is_cancelled).collect()
    }

    #[test]
    fn calls_are_cancelled_before_and_while_their_batch_is_executed() {
        let calls = Arc::new(CancelledCalls::default());
        calls.cancel(cancel(1, vec![2]));
        let executing = calls.begin(1);
        let watch = executing.watch();
        assert_eq!(rows(&watch), [2]);
        calls.cancel(cancel(1, vec![0, 3]));
        assert_eq!(rows(&watch), [0, 2, 3]);
        calls.cancel(cancel(1, None));
        calls.cancel(cancel(1, vec![1]));
        assert_eq!(rows(&watch), [0, 1, 2, 3]);
        drop(executing);
        let executing = calls.begin(2);
        assert!(rows(&executing.watch()).is_empty());
        assert!(watch.is_cancelled(), "it is over");
    }

    #[test]
    fn a_late_cancel_hits_no_other_call_and_leaves_nothing() {
        let table = CancelTable::new([&"f".to_owned()]);
        let calls = table.of("f").unwrap();
        let executing = calls.begin(2);
        let watch = executing.watch();
        // Its batch was answered.
        table.cancel(vec![cancel(1, None), Cancel { symbol: "g".into(), ..cancel(2, None) }]);
        assert!(!watch.is_cancelled() && lock(&calls.state).cancelled.is_none());
        calls.cancel(cancel(2, vec![0]));
        assert!(watch.is_cancelled());
        drop(executing);
        assert!(lock(&calls.state).cancelled.is_none());
        for id in 0..1000 {
            calls.cancel(cancel(2, vec![id as u32]));
            calls.cancel(cancel(1, vec![id as u32]));
        }
        assert_eq!(lock(&calls.state).cancelled.as_ref().unwrap().rows.as_ref().unwrap().len(), 1, "one is kept");
        let executing = calls.begin(3);
        assert!(!executing.watch().is_cancelled() && lock(&calls.state).cancelled.is_none());
        drop(executing);
        // Another host begins with the same numbers.
        calls.cancel(cancel(4, None));
        table.forget();
        assert!(!calls.begin(4).watch().is_cancelled());
    }

    #[test]
    fn a_clone_stays_with_its_call() {
        let calls = Arc::new(CancelledCalls::default());
        let executing = calls.begin(1);
        let watch = executing.watch();
        let first = watch.clone();
        watch.go_to(1);
        calls.cancel(cancel(1, vec![1]));
        assert!(watch.is_cancelled() && !first.is_cancelled());
        assert!(!CallWatch::default().is_cancelled());
    }
}
