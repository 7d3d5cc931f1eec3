//! Users of the plugins during the soak.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_host::{Error, Function, Host, Sink};
use serde_json::json;

use crate::load::Answer;
use crate::sequence::{Sequence, Tick};

/// Pause between two calls, and two messages, to a plugin.
const PACE: Duration = Duration::from_millis(5);

/// Number of calls between two sources that end.
const CHURN: u64 = 20;

/// Maximum wait for the next row, or the end.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Totals {
    pub(super) calls: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) tuples: AtomicU64,
    pub(super) ended: AtomicU64,
}

/// A user of one plugin.
pub(super) struct User<'a> {
    host: &'a Host,
    name: &'a str,
    function: Function,
    sink: Sink,
    totals: &'a Totals,
}

impl<'a> User<'a> {
    pub(super) fn new(host: &'a Host, name: &'a str, totals: &'a Totals) -> Result<Self, String> {
        let function = host.function(&format!("{name}_fast")).map_err(|error| Chain(&error).to_string())?;
        let sink = host.sink(&format!("{name}_keep")).rule(format!("{name}s")).operator("k").require_ack(true).open();
        Ok(Self { host, name, function, sink: sink.map_err(|error| Chain(&error).to_string())?, totals })
    }

    /// Calls, sends and reads until the deadline. The source, and a second
    /// sink, are opened and closed each time.
    pub(super) fn work(&self, until: Instant) -> Result<(), String> {
        let fail = |error: ekuiper_host::Error| format!("{}: {}", self.name, Chain(&error));
        let source = self.host.source(&format!("{}_count", self.name)).rule(format!("{}r", self.name)).operator("c");
        let mut source = source.open_as::<Tick>().map_err(fail)?;
        let second = self.host.sink(&format!("{}_keep", self.name)).rule(format!("{}t", self.name)).operator("k");
        let second = second.require_ack(true).open().map_err(fail)?;
        let mut sequence = Sequence::default();
        while Instant::now() < until {
            let id = self.totals.calls.fetch_add(1, Ordering::Relaxed);
            let text = "x".repeat((id % 200) as usize);
            let answer: Answer = self.function.call((id, &text)).map_err(fail)?;
            if (answer.id, answer.length) != (id, text.len()) {
                return Err(format!("{}: call {id} was answered with {answer:?}", self.name));
            }
            for sink in [&self.sink, &second] {
                sink.send(&json!({ "id": id, "pause": 0 })).map_err(fail)?;
                self.totals.messages.fetch_add(1, Ordering::Relaxed);
            }
            let tuple = source.next_within(Duration::from_secs(30)).map_err(fail)?;
            sequence.take(tuple.ok_or("the source has ended")?.message)?;
            self.totals.tuples.fetch_add(1, Ordering::Relaxed);
            if id.is_multiple_of(CHURN) {
                self.churn(id).map_err(|text| format!("{}: {text}", self.name))?;
            }
            std::thread::sleep(PACE);
        }
        source.close().and(second.close()).map_err(fail)
    }

    /// Reads a source that ends, with or without rows, and one that fails.
    fn churn(&self, id: u64) -> Result<(), String> {
        let rows = id / CHURN % 3;
        let source = self.host.source(&format!("{}_few", self.name)).rule(format!("{}e", self.name)).operator("c");
        let mut source =
            source.config(json!({ "rows": rows })).open_as::<Tick>().map_err(|error| Chain(&error).to_string())?;
        let mut read = 0;
        while source.next_within(PATIENCE).map_err(|error| Chain(&error).to_string())?.is_some() {
            read += 1;
        }
        if read != rows {
            return Err(format!("a source of {rows} rows has ended after {read}"));
        }
        source.close().map_err(|error| Chain(&error).to_string())?;
        let source = self.host.source(&format!("{}_fail", self.name)).rule(format!("{}f", self.name)).operator("c");
        let mut source = source.open_as::<Tick>().map_err(|error| Chain(&error).to_string())?;
        // The error, or the end, depending on the SDK.
        match source.next_within(PATIENCE) {
            Ok(None) | Err(Error::Source { .. }) => {}
            Ok(Some(tuple)) => return Err(format!("a source that fails has sent {:?}", tuple.message)),
            Err(error) => return Err(Chain(&error).to_string()),
        }
        source.close().map_err(|error| Chain(&error).to_string())?;
        self.totals.ended.fetch_add(2, Ordering::Relaxed);
        Ok(())
    }
}
