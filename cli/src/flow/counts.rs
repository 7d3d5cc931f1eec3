//! What a pipeline has done so far, which can be read at any time and from any
//! thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use ekuiper_core::sync::lock;
use ekuiper_host::SymbolHealth;
use serde_json::{Value, json};

use crate::feeding::Fed;
use crate::pipeline::Pipeline;
use crate::progress::grouped;
use crate::rows::Rows;

/// A count that one thread increases.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds to the count, and returns it.
    pub(super) fn add(&self, number: u64) -> u64 {
        let sum = self.get() + number;
        self.0.store(sum, Ordering::Relaxed);
        sum
    }

    pub(super) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a pipeline, by its stages.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(super) sources: Vec<SourceCounts>,
    pub(super) functions: Vec<FunctionCounts>,
    pub(super) sinks: Vec<SinkCounts>,
    /// Windows that were closed.
    pub(super) windows: Count,
    pub(super) outcomes: Mutex<Outcomes>,
    /// All symbols were opened, so that rows may be read.
    pub(super) has_begun: AtomicBool,
    /// The reader of stdout has gone away.
    pub(super) has_no_reader: AtomicBool,
    /// The health of all symbols when the rows had ended.
    pub(super) health: OnceLock<Vec<SymbolHealth>>,
}

#[derive(Debug)]
pub(super) struct SourceCounts {
    symbol: String,
    /// Rows that were taken from the source.
    pub(super) read: Count,
    /// Errors that the source reported.
    pub(super) errors: Count,
}

#[derive(Debug)]
pub(super) struct FunctionCounts {
    symbol: String,
    /// Calls that succeeded.
    pub(super) calls: Count,
    /// Rows, or rows of windows, that failed here.
    pub(super) failed: Count,
    /// Those that did not pass the filter.
    pub(super) filtered: Count,
}

#[derive(Debug)]
pub(super) struct SinkCounts {
    symbol: String,
    requires_ack: bool,
    /// What becomes of each message is known when it is sent, and counted then.
    pub(super) is_followed: bool,
    pub(super) fed: OnceLock<Arc<Fed>>,
}

/// What has become of rows. A row is one of a source; those of a window share
/// the outcome of its row, and are counted together.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Rows whose final state is known.
    pub(super) settled: Rows,
    /// Messages whose final state is the sinks' matter, by their number of rows.
    pub(super) taken: BTreeMap<u64, u64>,
    /// Messages of settled rows that some sink may have taken nevertheless.
    pub(super) torn: u64,
    /// Rows that went to at least one sink, or to stdout without one.
    pub(super) sent: u64,
    /// Rows of the open window.
    pub(super) waiting: u64,
}

impl Outcomes {
    /// Returns the final states of all rows but those that wait, where `sinks`
    /// are those of the messages of each sink that is not followed. Which of its
    /// messages are in which state, such a sink does not tell. So no row counts
    /// as delivered, or as failed, that may not be.
    fn rows(&self, sinks: &[Rows]) -> Rows {
        let messages: u64 = self.taken.values().sum();
        let lost = sinks.iter().map(|sink| sink.failed + sink.unknown).sum::<u64>().min(messages);
        let failed = sinks.iter().map(|sink| sink.failed.saturating_sub(self.torn)).max().unwrap_or(0).min(lost);
        let all: u64 = self.taken.iter().map(|(rows, messages)| rows * messages).sum();
        let not_delivered = first(self.taken.iter().rev(), lost);
        let failed = first(self.taken.iter(), failed);
        let mut rows = self.settled;
        rows += Rows { delivered: all - not_delivered, failed, unknown: not_delivered - failed, ..Rows::default() };
        rows
    }
}

/// Returns the number of rows of the first messages.
fn first<'a>(taken: impl Iterator<Item = (&'a u64, &'a u64)>, mut messages: u64) -> u64 {
    let mut rows = 0;
    for (each, count) in taken {
        let these = messages.min(*count);
        rows += each * these;
        messages -= these;
    }
    rows
}

/// The counts at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) sources: Vec<SourceSnapshot>,
    pub(crate) functions: Vec<FunctionSnapshot>,
    /// Empty if rows go to stdout only.
    pub(crate) sinks: Vec<SinkSnapshot>,
    /// Rows of the sources, by their final state. With the rows that wait,
    /// these are all that were read.
    pub(crate) rows: Rows,
    /// Rows of the open window.
    pub(crate) waiting: u64,
    /// Rows that went to at least one sink, or to stdout without one.
    pub(crate) sent: u64,
    /// Windows that were closed.
    pub(crate) windows: u64,
    /// The reader of stdout has gone away.
    pub(crate) has_no_reader: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct SourceSnapshot {
    pub(crate) symbol: String,
    pub(crate) read: u64,
    pub(crate) errors: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct FunctionSnapshot {
    pub(crate) symbol: String,
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) filtered: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct SinkSnapshot {
    pub(crate) symbol: String,
    pub(crate) requires_ack: bool,
    /// Its messages: rows, or rows of windows.
    pub(crate) messages: Rows,
}

impl Counts {
    pub(crate) fn new(pipeline: &Pipeline) -> Self {
        let source =
            |symbol: &String| SourceCounts { symbol: symbol.clone(), read: Count::default(), errors: Count::default() };
        let function = |symbol: &String| FunctionCounts {
            symbol: symbol.clone(),
            calls: Count::default(),
            failed: Count::default(),
            filtered: Count::default(),
        };
        // A sink's own counts are exact for a single one that gets each row.
        let is_alone = pipeline.sinks.len() == 1 && pipeline.window.is_none();
        Self {
            sources: pipeline.sources.iter().map(|stage| source(stage.symbol.get_ref())).collect(),
            functions: pipeline.functions.iter().map(|stage| function(stage.symbol.get_ref())).collect(),
            sinks: pipeline
                .sinks
                .iter()
                .map(|stage| SinkCounts {
                    symbol: stage.symbol.get_ref().clone(),
                    requires_ack: stage.require_ack,
                    is_followed: stage.require_ack && !is_alone,
                    fed: OnceLock::new(),
                })
                .collect(),
            windows: Count::default(),
            outcomes: Mutex::default(),
            has_begun: AtomicBool::new(false),
            has_no_reader: AtomicBool::new(false),
            health: OnceLock::new(),
        }
    }

    /// Returns whether all symbols were opened, so that there may be rows.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Returns the health of all symbols when the rows had ended, before the
    /// sinks were closed.
    pub(crate) fn health(&self) -> &[SymbolHealth] {
        self.health.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the counts as they are now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let outcomes = lock(&self.outcomes);
        let sinks: Vec<_> = self.sinks.iter().map(SinkCounts::snapshot).collect();
        let told = self.sinks.iter().zip(&sinks).filter(|(sink, _)| !sink.is_followed);
        let told: Vec<Rows> = told.map(|(_, sink)| sink.messages).collect();
        Snapshot {
            rows: outcomes.rows(&told),
            waiting: outcomes.waiting,
            sent: outcomes.sent,
            sources: self.sources.iter().map(SourceCounts::snapshot).collect(),
            functions: self.functions.iter().map(FunctionCounts::snapshot).collect(),
            sinks,
            windows: self.windows.get(),
            has_no_reader: self.has_no_reader.load(Ordering::SeqCst),
        }
    }
}

impl SourceCounts {
    fn snapshot(&self) -> SourceSnapshot {
        SourceSnapshot { symbol: self.symbol.clone(), read: self.read.get(), errors: self.errors.get() }
    }
}

impl FunctionCounts {
    fn snapshot(&self) -> FunctionSnapshot {
        let [calls, failed, filtered] = [&self.calls, &self.failed, &self.filtered].map(Count::get);
        FunctionSnapshot { symbol: self.symbol.clone(), calls, failed, filtered }
    }
}

impl SinkCounts {
    fn snapshot(&self) -> SinkSnapshot {
        let messages = self.fed.get().map(|fed| fed.rows()).unwrap_or_default();
        SinkSnapshot { symbol: self.symbol.clone(), requires_ack: self.requires_ack, messages }
    }
}

impl Snapshot {
    /// Returns the number of rows that were read.
    pub(crate) fn read(&self) -> u64 {
        self.rows.all() + self.waiting
    }

    /// Returns the number of function calls that succeeded.
    pub(crate) fn calls(&self) -> u64 {
        self.functions.iter().map(|function| function.calls).sum()
    }

    /// Returns the number of errors that the sources reported.
    pub(crate) fn errors(&self) -> u64 {
        self.sources.iter().map(|source| source.errors).sum()
    }

    /// Returns the number of rows that every sink has acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        let is_acked = !self.sinks.is_empty() && self.sinks.iter().all(|sink| sink.requires_ack);
        if is_acked { self.rows.delivered } else { 0 }
    }

    /// Returns the counts in one line, with a rate.
    pub(crate) fn line(&self, per_second: u64) -> String {
        let all = [self.read(), self.calls(), self.sent, self.acked(), self.rows.failed, per_second];
        let [read, calls, sent, acked, failed, per_second] = all.map(grouped);
        format!("read {read}, calls {calls}, sent {sent}, acked {acked}, failed {failed}, {per_second}/s")
    }

    /// Returns the counts of each stage, for the summary.
    pub(crate) fn stages(&self) -> [(&'static str, Value); 3] {
        let source =
            |source: &SourceSnapshot| json!({ "symbol": source.symbol, "read": source.read, "errors": source.errors });
        let function = |function: &FunctionSnapshot| {
            let FunctionSnapshot { symbol, calls, failed, filtered } = function;
            json!({ "symbol": symbol, "calls": calls, "failed": failed, "filtered": filtered })
        };
        let sink = |sink: &SinkSnapshot| {
            let Rows { delivered, failed, unknown, .. } = sink.messages;
            let acked = if sink.requires_ack { delivered } else { 0 };
            json!({
                "symbol": sink.symbol, "sent": sink.messages.all(), "delivered": delivered, "acked": acked,
                "failed": failed, "unknown": unknown,
            })
        };
        [
            ("sources", self.sources.iter().map(source).collect()),
            ("functions", self.functions.iter().map(function).collect()),
            ("sinks", self.sinks.iter().map(sink).collect()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, and are the same each time.
    fn random(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % below
    }

    #[test]
    fn no_row_counts_as_delivered_or_failed_that_is_not() {
        let mut state = 7;
        for round in 0..20_000 {
            let sinks = 1 + random(&mut state, 3) as usize;
            let followed: Vec<bool> = (0..sinks).map(|_| sinks > 1 && random(&mut state, 2) == 0).collect();
            let mut outcomes = Outcomes::default();
            let mut told = vec![Rows::default(); sinks];
            let mut truth = Rows::default();
            let most = if round % 2 == 0 { 1 } else { 9 };
            for _ in 0..random(&mut state, 12) {
                let rows = 1 + random(&mut state, most);
                // 0: delivered, 1: unknown, 2: failed.
                let states: Vec<u64> = (0..sinks).map(|_| random(&mut state, 4).saturating_sub(1)).collect();
                for (sink, state) in told.iter_mut().zip(&states) {
                    *[&mut sink.delivered, &mut sink.unknown, &mut sink.failed][*state as usize] += 1;
                }
                let worst = states.iter().max().unwrap();
                *[&mut truth.delivered, &mut truth.unknown, &mut truth.failed][*worst as usize] += rows;
                let known = states.iter().zip(&followed).filter(|(_, is_followed)| **is_followed);
                match known.map(|(state, _)| *state).max().unwrap_or(0) {
                    0 => *outcomes.taken.entry(rows).or_default() += 1,
                    state => {
                        outcomes.torn += 1;
                        let settled = &mut outcomes.settled;
                        *(if state == 1 { &mut settled.unknown } else { &mut settled.failed }) += rows;
                    }
                }
            }
            let counted = told.iter().zip(&followed).filter(|(_, is_followed)| !**is_followed);
            let counted: Vec<Rows> = counted.map(|(rows, _)| *rows).collect();
            let rows = outcomes.rows(&counted);
            assert_eq!(rows.all(), truth.all());
            assert!(rows.delivered <= truth.delivered, "{rows:?}, {truth:?}, {outcomes:?}, {told:?}");
            assert!(rows.failed <= truth.failed, "{rows:?}, {truth:?}, {outcomes:?}, {told:?}");
            // Nothing is unknown if each sink tells all, and messages are rows.
            if counted.is_empty() || (sinks == 1 && most == 1) {
                assert_eq!(rows, truth);
            }
        }
    }
}
