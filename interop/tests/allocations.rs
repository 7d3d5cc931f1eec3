//! No message costs an allocation, neither in the host's process nor in the
//! plugin's, once the buffers are there: the whole stack, over uds, in either
//! codec. Sinks' data is JSON in both.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ekuiper_host::{Format, Function, Host, Source};
use ekuiper_interop::allocations::{self, Counting};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins;
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Row {
    number: u64,
    half: f64,
    even: bool,
}

impl Row {
    fn new(number: u64) -> Self {
        Self { number, half: number as f64 / 2.0, even: number.is_multiple_of(2) }
    }
}

/// How many allocations a run makes, in the host's process and in the plugin's:
/// the least of several, after a first. What each message costs, each run does;
/// what a thread in the background does now and then, is none of theirs.
fn in_steady_state(plugin: &Function, mut run: impl FnMut()) -> (u64, u64) {
    let mut counted = || {
        let in_plugin = || plugin.call::<u64>((0,)).unwrap();
        let before = (allocations::count(), in_plugin());
        run();
        (allocations::count() - before.0, in_plugin() - before.1)
    };
    counted();
    let runs = [(); 4].map(|()| counted());
    (runs.map(|run| run.0).into_iter().min().unwrap(), runs.map(|run| run.1).into_iter().min().unwrap())
}

/// What was done, with the allocations in the host and in the plugin.
fn count(host: &Host) -> Vec<(&'static str, (u64, u64))> {
    let mut counts = Vec::new();
    let plugin = host.function("allocations").unwrap();

    let double = host.function("double").unwrap();
    let calls = in_steady_state(&plugin, || {
        for number in 0..MESSAGES {
            assert_eq!(double.call::<f64>((number as f64,)).unwrap(), number as f64 * 2.0);
        }
    });
    counts.push(("calls", calls));

    for (what, require_ack) in [("rows", false), ("rows with acks", true)] {
        let sink = host.sink("sum").require_ack(require_ack).open().unwrap();
        let mut next = 0;
        let rows = in_steady_state(&plugin, || {
            for number in next..next + MESSAGES {
                sink.send(&Row::new(number)).unwrap();
            }
            next += MESSAGES;
            sink.flush(PATIENCE).unwrap();
        });
        counts.push((what, rows));
        sink.close().unwrap();
    }

    let mut source: Source<Row> = host.source("numbers").open_as().unwrap();
    let mut next = 0;
    let tuples = in_steady_state(&plugin, || {
        for number in next..next + MESSAGES {
            let row = source.next_within(PATIENCE).unwrap().unwrap().message;
            assert_eq!((row.number, row.even), (number, number.is_multiple_of(2)));
        }
        next += MESSAGES;
    });
    counts.push(("tuples", tuples));
    counts
}

/// One test alone in its process: another's allocations would be counted, too.
#[test]
fn messages_cost_no_allocation_in_host_and_plugin() {
    let _watchdog = Watchdog::start();
    let counting = plugins::Counting::new();
    for format in [Format::Json, Format::MessagePack] {
        let host = Host::builder().transport("uds").plugin(counting.folder()).format(format).build().unwrap();
        let counts = count(&host);
        host.shutdown();
        assert!(
            counts.iter().all(|(_, count)| *count == (0, 0)),
            "allocations in host and plugin for {MESSAGES} messages, {format:?}: {counts:?}"
        );
    }
}
