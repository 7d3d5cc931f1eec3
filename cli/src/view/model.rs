//! What the view shows: the counts of a pipeline and the state of its plugins,
//! and how fast the counts grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ekuiper_core::message::SymbolKind;
use ekuiper_host::{PluginState, Status, SymbolHealth};

use crate::flow::Snapshot;
use crate::rows::Rows;

/// Number of rates that are remembered, one a second.
pub(super) const REMEMBERED: usize = 60;

/// Interval of the rates.
const SECOND: Duration = Duration::from_secs(1);

/// What is shown.
pub(super) struct Model {
    pub(super) title: String,
    started: Instant,
    pub(super) elapsed: Duration,
    /// The command is ending.
    pub(super) is_ending: bool,
    pub(super) stages: Vec<Stage>,
    pub(super) plugins: Vec<PluginLine>,
    /// What has become of all rows.
    pub(super) rows_by_state: Rows,
    pub(super) waiting: u64,
    pub(super) windows: u64,
    /// The last messages, of the command and of plugins.
    pub(super) messages: VecDeque<String>,
    /// The last rows that would be on stdout; `None` if no row has been.
    pub(super) rows: Option<VecDeque<String>>,
    /// When the rates were computed.
    sampled: Instant,
}

/// A source, a function or a sink.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) kind: &'static str,
    pub(super) symbol: String,
    /// Rows, calls or messages.
    pub(super) count: u64,
    pub(super) errors: u64,
    /// Rows that its filter has not let pass.
    pub(super) filtered: u64,
    /// Median, and 99th percentile, of calls or acknowledgements.
    pub(super) latency: Option<[Duration; 2]>,
    /// The count when the last rate was computed.
    counted: u64,
    /// Increase of the count per second, the latest last.
    pub(super) rates: VecDeque<u64>,
}

/// A plugin.
#[derive(Debug)]
pub(super) struct PluginLine {
    pub(super) name: String,
    pub(super) state: PluginState,
    pub(super) pid: Option<u32>,
    pub(super) restarts: u64,
    /// Resident memory, in bytes.
    pub(super) resident: Option<u64>,
    pub(super) uptime: Option<Duration>,
}

impl Model {
    pub(super) fn new(title: &str, now: Instant) -> Self {
        Self {
            title: title.to_owned(),
            started: now,
            elapsed: Duration::ZERO,
            is_ending: false,
            stages: Vec::new(),
            plugins: Vec::new(),
            rows_by_state: Rows::default(),
            waiting: 0,
            windows: 0,
            messages: VecDeque::new(),
            rows: None,
            sampled: now,
        }
    }

    /// Takes the counts and the plugins as they are now.
    pub(super) fn update(&mut self, now: Instant, counts: &Snapshot, plugins: Vec<Status>) {
        self.elapsed = now - self.started;
        (self.rows_by_state, self.waiting, self.windows) = (counts.rows, counts.waiting, counts.windows);
        let symbols: Vec<&SymbolHealth> = plugins.iter().flat_map(|plugin| &plugin.symbols).collect();
        let stages = stages(counts, &symbols);
        self.stages.resize_with(stages.len(), Stage::default);
        for (stage, new) in self.stages.iter_mut().zip(stages) {
            *stage = Stage { counted: stage.counted, rates: std::mem::take(&mut stage.rates), ..new };
        }
        let passed = now - self.sampled;
        if passed >= SECOND {
            self.sampled = now;
            self.stages.iter_mut().for_each(|stage| stage.sample(passed));
        }
        let line = |plugin: Status| PluginLine {
            name: plugin.plugin,
            state: plugin.state,
            pid: plugin.pid,
            restarts: plugin.restarts,
            resident: plugin.resident,
            uptime: plugin.uptime,
        };
        self.plugins = plugins.into_iter().map(line).collect();
    }
}

/// The stages in their order.
fn stages(counts: &Snapshot, symbols: &[&SymbolHealth]) -> Vec<Stage> {
    let latency = |kind, name: &str| {
        let is_it = |health: &&&SymbolHealth| health.kind == kind && health.name == name;
        let latency = symbols.iter().find(is_it)?.latency.as_ref().filter(|latency| latency.count() > 0)?;
        Some([0.5, 0.99].map(|part| latency.quantile(part)))
    };
    let sources = counts.sources.iter().map(|source| Stage {
        kind: "source",
        symbol: source.symbol.clone(),
        count: source.read,
        errors: source.errors,
        ..Stage::default()
    });
    let functions = counts.functions.iter().map(|function| Stage {
        kind: "function",
        symbol: function.symbol.clone(),
        count: function.calls,
        errors: function.failed,
        filtered: function.filtered,
        latency: latency(SymbolKind::Function, &function.symbol),
        ..Stage::default()
    });
    let sinks = counts.sinks.iter().map(|sink| Stage {
        kind: "sink",
        symbol: sink.symbol.clone(),
        count: sink.messages.delivered,
        errors: sink.messages.failed,
        latency: latency(SymbolKind::Sink, &sink.symbol),
        ..Stage::default()
    });
    let printed = Stage { kind: "stdout", count: counts.sent, ..Stage::default() };
    let printed = counts.sinks.is_empty().then_some(printed);
    sources.chain(functions).chain(sinks).chain(printed).collect()
}

impl Stage {
    /// Computes the rate since the last one.
    fn sample(&mut self, passed: Duration) {
        // A sink's count may fall when a plugin crashes.
        let more = self.count.saturating_sub(self.counted);
        self.counted = self.count;
        if self.rates.len() == REMEMBERED {
            self.rates.pop_front();
        }
        self.rates.push_back((more as f64 / passed.as_secs_f64()).round() as u64);
    }

    /// Returns the latest rate; `None` in the first second.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rates.back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::SourceSnapshot;

    #[test]
    fn rates_are_those_of_each_second_and_the_oldest_are_forgotten() {
        let start = Instant::now();
        let mut model = Model::new("t", start);
        let read = |read| Snapshot {
            sources: vec![SourceSnapshot { symbol: "s".into(), read, errors: 1 }],
            ..Snapshot::default()
        };
        model.update(start + SECOND / 4, &read(5), Vec::new());
        assert_eq!((model.stages[0].rate(), model.stages[0].count), (None, 5));
        model.update(start + SECOND * 2, &read(10), Vec::new());
        assert_eq!(model.stages[0].rate(), Some(5));
        for second in 3..100 {
            model.update(start + SECOND * second, &read(10 + u64::from(second)), Vec::new());
        }
        assert_eq!(model.stages[0].rates.len(), REMEMBERED);
        assert_eq!((model.stages[0].rate(), model.elapsed), (Some(1), SECOND * 99));
        // A count that falls is no rate.
        model.update(start + SECOND * 100, &read(0), Vec::new());
        assert_eq!(model.stages[0].rate(), Some(0));
        // Rows that no sink takes are on stdout.
        let kinds: Vec<_> = model.stages.iter().map(|stage| stage.kind).collect();
        assert_eq!(kinds, ["source", "stdout"]);
    }
}
