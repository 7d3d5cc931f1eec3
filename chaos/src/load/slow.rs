//! Slow sinks without acknowledgements, closed while there is much to collect.

use std::sync::atomic::Ordering;
use std::time::Instant;

use ekuiper_core::sync::lock;
use ekuiper_host::{Error, Result, Sink};
use serde_json::json;

use super::Worker;
use crate::batches::{Batch, Said};
use crate::findings::judge;
use crate::ledger::Outcome;
use crate::plan::Who;
use crate::rng::Rng;
use crate::shortage;

impl Worker<'_> {
    /// Opens a sink, sends more than it can collect meanwhile, and closes it,
    /// repeatedly.
    pub(super) fn fill_and_close(&self) {
        let symbol = self.symbol("hold");
        let target = &self.post.target;
        let mut rng = Rng::new(self.post.index as u64);
        let mut seen = target.kills();
        let open = || -> Result<Sink> { self.host.sink(&symbol).rule(self.rule()).operator("k").open() };
        loop {
            // First, because a socket file may be deleted before the sink
            // connects to it.
            let before = self.circumstances();
            let Some(sink) = self.open(open) else { return };
            // What was killed or told to end may serve for a moment.
            let is_settled = target.is_restored() && !shortage::is_short();
            let fillings = target.fillings.load(Ordering::SeqCst);
            let (started, mut taken, mut is_shut_down) = (Instant::now(), Vec::new(), false);
            for _ in 0..rng.between(1, 60) {
                let id = lock(&target.messages).begin();
                let message = json!({ "id": id, "pause": self.post.pause() + rng.between(0, 8) });
                let sent = self.make("a message to a slow sink", || sink.send(&message));
                // Closing the sink tells whether the message was collected.
                let outcome = sent.as_ref().map_or_else(|error| judge(error).1, |()| Outcome::Unknown);
                lock(&target.messages).end(id, outcome);
                match sent {
                    Ok(()) => taken.push(id),
                    Err(Error::Stopped) => is_shut_down = true,
                    Err(error) => self.count("send without acks", &error),
                }
            }
            let waits = self.post.waits();
            let closed = sink.close();
            drop(waits);
            let said = match &closed {
                Ok(()) => Said::All,
                Err(error) => said(error),
            };
            let is_undisturbed = self.circumstances() == before;
            match closed {
                Ok(()) => self.post.succeeds(started, None, &mut seen),
                Err(error) => self.count("close a slow sink", &error),
            }
            // A full disk turns collected messages into failures.
            if target.fillings.load(Ordering::SeqCst) == fillings && fillings.is_multiple_of(2) {
                let is_exact = is_undisturbed && is_settled && !self.is_shut_down() && target.who == Who::Ours;
                lock(&target.batches).push(Batch { taken, said, is_exact });
            }
            if is_shut_down {
                return;
            }
        }
    }

    /// Returns what must stay unchanged for a close to count exactly how many
    /// messages are missing: the process, which the host replaces when it
    /// hangs, and which collects what it has before it ends; and whatever
    /// delays its reports.
    fn circumstances(&self) -> [u64; 4] {
        let target = &self.post.target;
        let deletions = target.deletions.load(Ordering::SeqCst) as u64;
        let pid = self.host.pid(&target.name).unwrap_or_default();
        [target.kills() as u64, pid.into(), deletions, shortage::changes()]
    }
}

/// Returns what the error of a close says of the messages.
fn said(error: &Error) -> Said {
    match error {
        Error::NotCollected { missing, reason, .. } => Said::Missing(*missing, reason.clone()),
        Error::Stopped => Said::Nothing,
        // Everything was collected, and the stop failed.
        _ => Said::All,
    }
}
