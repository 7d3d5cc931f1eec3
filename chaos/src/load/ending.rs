//! Sources that end by themselves, some of them without a row.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ekuiper_host::{Error, Result, Source};
use serde_json::json;

use super::{RETRY_PAUSE, Worker};
use crate::plan::Who;
use crate::rng::Rng;
use crate::sequence::{Sequence, Tick};

impl Worker<'_> {
    /// Reads sources to their ends in sequence; each end must come after the
    /// last row.
    pub(super) fn read_to_the_end(&self, sequence: &mut Sequence) {
        let symbol = self.symbol("few");
        let mut rng = Rng::new(self.post.index as u64);
        loop {
            let rows = if rng.between(0, 2) == 0 { 0 } else { rng.between(1, 30) };
            let open = || -> Result<Source<Tick>> {
                let source = self.host.source(&symbol).rule(self.rule()).operator("c");
                source.config(json!({ "rows": rows })).open_as()
            };
            let Some(source) = self.open(open) else { return };
            if !self.read_rows(source, rows, sequence) {
                return;
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Reads one source; returns false when the host is shut down.
    fn read_rows(&self, mut source: Source<Tick>, rows: u64, sequence: &mut Sequence) -> bool {
        let target = &self.post.target;
        let (started, mut seen, mut last) = (Instant::now(), target.kills(), 0);
        let stops = target.stops.load(Ordering::SeqCst);
        loop {
            let waits = self.post.waits();
            let tuple = source.next_within(Duration::from_millis(500));
            drop(waits);
            match tuple {
                Ok(Some(tuple)) => {
                    if let Err(text) = sequence.take(tuple.message) {
                        self.findings.violation(format!("{}: {text}", self.post.name()));
                    }
                    last = tuple.message.n;
                }
                Ok(None) if self.is_shut_down() => return false,
                Ok(None) => {
                    // libnng lets a send time out when its process was stopped
                    // for that long in the middle of it, and the official SDK
                    // ends the source.
                    let was_stopped = target.stops.load(Ordering::SeqCst) != stops || !stops.is_multiple_of(2);
                    if last != rows && target.who == Who::Python && was_stopped {
                        self.findings.count("a source gave up when its process was stopped (python)", "");
                    } else if last != rows {
                        let text = format!("{}: a source ended after row {last} of {rows}", self.post.name());
                        self.findings.violation(text);
                    }
                    target.ended.fetch_add(1, Ordering::Relaxed);
                    self.post.succeeds(started, None, &mut seen);
                    break;
                }
                Err(Error::Stopped) => return false,
                Err(error) => {
                    self.count("read to the end", &error);
                    if matches!(error, Error::NotRestored { .. }) || self.post.is_to_reopen() {
                        break;
                    }
                    if !matches!(error, Error::Timeout { .. }) {
                        std::thread::sleep(RETRY_PAUSE);
                    }
                }
            }
        }
        self.close(|| source.close());
        sequence.end();
        true
    }
}
