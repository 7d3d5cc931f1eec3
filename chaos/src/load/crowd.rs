//! Several threads that share one sink.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ekuiper_core::sync::lock;
use ekuiper_host::{Error, Result, Sink};
use serde_json::json;

use super::{PACE, Worker};
use crate::findings::judge;
use crate::ledger::Outcome;

/// Number of threads.
const THREADS: usize = 6;

impl Worker<'_> {
    /// Sends messages with acknowledgements from several threads at once.
    pub(super) fn send_from_many_threads(&self) {
        let symbol = self.symbol("keep");
        let open =
            || -> Result<Sink> { self.host.sink(&symbol).rule(self.rule()).operator("k").require_ack(true).open() };
        let is_shut_down = AtomicBool::new(false);
        while !is_shut_down.load(Ordering::SeqCst) {
            let Some(sink) = self.open(open) else { return };
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| self.share(&sink, &is_over, &is_shut_down));
                }
            });
            self.close(|| sink.close());
        }
    }

    fn share(&self, sink: &Sink, is_over: &AtomicBool, is_shut_down: &AtomicBool) {
        let target = &self.post.target;
        let mut seen = target.kills();
        while !is_over.load(Ordering::SeqCst) {
            let id = lock(&target.messages).begin();
            let message = json!({ "id": id, "pause": self.post.pause() });
            let started = Instant::now();
            match self.make("a message of six threads", || sink.send(&message)) {
                Ok(()) => {
                    lock(&target.messages).end(id, Outcome::Done(None));
                    self.post.succeeds(started, None, &mut seen);
                }
                Err(error) => {
                    lock(&target.messages).end(id, judge(&error).1);
                    match error {
                        Error::Stopped => is_shut_down.store(true, Ordering::SeqCst),
                        _ => self.count("send from six threads", &error),
                    }
                    let is_last =
                        matches!(error, Error::Stopped | Error::SinkBroken { .. } | Error::NotRestored { .. });
                    is_over.fetch_or(is_last, Ordering::SeqCst);
                }
            }
            is_over.fetch_or(self.post.is_to_reopen(), Ordering::SeqCst);
            std::thread::sleep(PACE);
        }
    }
}
