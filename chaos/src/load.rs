//! Users of the plugins: they call, send and read until the host is shut down,
//! and check every answer.

mod crowd;
mod ending;
mod slow;
pub(crate) mod tasks;
pub(crate) mod turns;

use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::sync::lock;
use ekuiper_host::{Error, Function, Host, Result, Sink, Source};
use serde::Deserialize;
use serde_json::json;

use crate::findings::{Findings, judge};
use crate::ledger::Outcome;
use crate::post::{Post, Role};
use crate::rng::Rng;
use crate::sequence::{Sequence, Tick};
use crate::stage::{MANY, TIMEOUT};

/// Pause between two calls or messages of a post.
const PACE: Duration = Duration::from_millis(3);

/// Maximum duration of a call or message: its two deadlines, and the delay of a
/// busy machine.
const LONGEST: Duration = Duration::from_secs(2 * TIMEOUT.as_secs() + 6);

/// Pause between two attempts of something that fails at once.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Answer of a function.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) sequence: u32,
    pub(crate) length: usize,
}

/// Works at a post until the host is shut down.
pub(crate) fn work(host: &Host, post: &Post, sequence: &mut Sequence, findings: &Findings) {
    let worker = Worker { host, post, findings };
    match post.role {
        Role::Fast => worker.call(vec!["fast".into()]),
        Role::Slow => worker.call(vec!["slow".into()]),
        Role::Many => worker.call((0..MANY).map(|number| format!("many{number}")).collect()),
        Role::Sink => worker.send(),
        Role::Crowd => worker.send_from_many_threads(),
        Role::SlowSink => worker.fill_and_close(),
        Role::Source => worker.read(sequence),
        Role::EndingSource => worker.read_to_the_end(sequence),
        Role::TaskCalls | Role::TaskSink | Role::TaskSource => unreachable!("the engine on tasks has these"),
    }
    post.over.store(true, std::sync::atomic::Ordering::SeqCst);
}

struct Worker<'a> {
    host: &'a Host,
    post: &'a Post,
    findings: &'a Findings,
}

impl Worker<'_> {
    fn symbol(&self, name: &str) -> String {
        format!("{}_{name}", self.post.target.name)
    }

    fn rule(&self) -> String {
        format!("{}r{}", self.post.target.name, self.post.index)
    }

    fn count(&self, doing: &str, error: &Error) {
        let (kind, _) = judge(error);
        self.findings.count(format!("{doing}: {kind} ({})", self.post.target.who), Chain(error));
        if matches!(error, Error::Message { .. }) {
            // Everything sent here can be decoded, and no two channels share an
            // address.
            self.findings.violation(format!("{}: {doing}: {kind}: {}", self.post.name(), Chain(error)));
        }
    }

    /// Opens a handle; returns `None` when the host is shut down.
    fn open<T>(&self, open: impl Fn() -> Result<T>) -> Option<T> {
        loop {
            let waits = self.post.waits();
            let opened = open();
            drop(waits);
            match opened {
                Ok(opened) => return Some(opened),
                Err(Error::Stopped) => return None,
                Err(error) => {
                    self.count("open", &error);
                    std::thread::sleep(RETRY_PAUSE);
                }
            }
        }
    }

    fn close(&self, close: impl FnOnce() -> Result<()>) {
        let _waits = self.post.waits();
        if let Err(error) = close() {
            self.count("close", &error);
        }
    }

    /// Makes a call, or sends a message, which must end by its deadlines.
    fn make<T>(&self, what: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let outcome = call();
        let took = started.elapsed();
        if took > LONGEST {
            let limits = format!("its time limits are {TIMEOUT:?} to send and to receive");
            self.findings.violation(format!("{}: {what} took {took:?}, {limits}", self.post.name()));
        }
        outcome
    }

    /// Calls these functions in turn.
    fn call(&self, symbols: Vec<String>) {
        let target = &self.post.target;
        let mut rng = Rng::new(self.post.index as u64);
        let mut seen = target.kills();
        let open = || -> Result<Vec<Function>> {
            symbols.iter().map(|symbol| self.host.function(&self.symbol(symbol))).collect()
        };
        let Some(mut functions) = self.open(open) else { return };
        for turn in 0.. {
            if self.post.is_to_reopen() {
                let Some(again) = self.open(open) else { return };
                functions = again;
            }
            let function = &functions[turn % functions.len()];
            // Now and then a message exceeds the kernel's buffers.
            let length = if rng.between(0, 199) == 0 { 400_000 } else { rng.between(0, 200) as usize };
            let text = "x".repeat(length);
            let id = lock(&target.calls).begin();
            let started = Instant::now();
            let waits = self.post.waits();
            let answer = self.make("a call", || function.call::<Answer>((id, &text)));
            drop(waits);
            match answer {
                Ok(answer) => {
                    lock(&target.calls).end(id, Outcome::Done(Some((answer.pid, answer.sequence))));
                    if (answer.id, answer.length) != (id, length) {
                        self.findings.violation(format!(
                            "{}: call {id} with {length} bytes was answered with {answer:?}",
                            self.post.name()
                        ));
                    }
                    self.post.succeeds(started, Some(answer.pid), &mut seen);
                }
                Err(error) => {
                    lock(&target.calls).end(id, judge(&error).1);
                    if matches!(error, Error::Stopped) {
                        return;
                    }
                    self.count("call", &error);
                    if matches!(error, Error::OutcomeUnknown { .. }) && !target.failed(started) {
                        self.findings
                            .count(format!("unknown, asked after a kill or without one ({})", target.who), &error);
                    }
                }
            }
            std::thread::sleep(PACE);
        }
    }

    fn send(&self) {
        let symbol = self.symbol("keep");
        let target = &self.post.target;
        let mut seen = target.kills();
        let open =
            || -> Result<Sink> { self.host.sink(&symbol).rule(self.rule()).operator("k").require_ack(true).open() };
        let Some(mut sink) = self.open(open) else { return };
        let mut broken = false;
        loop {
            if std::mem::take(&mut broken) || self.post.is_to_reopen() {
                self.close(|| sink.close());
                let Some(again) = self.open(open) else { return };
                sink = again;
            }
            let id = lock(&target.messages).begin();
            let message = json!({ "id": id, "pause": self.post.pause() });
            let started = Instant::now();
            let waits = self.post.waits();
            let sent = self.make("a message", || sink.send(&message));
            drop(waits);
            match sent {
                Ok(()) => {
                    lock(&target.messages).end(id, Outcome::Done(None));
                    self.post.succeeds(started, None, &mut seen);
                }
                Err(error) => {
                    lock(&target.messages).end(id, judge(&error).1);
                    if matches!(error, Error::Stopped) {
                        return;
                    }
                    self.count("send", &error);
                    broken = matches!(error, Error::SinkBroken { .. } | Error::NotRestored { .. });
                }
            }
            std::thread::sleep(PACE);
        }
    }

    fn read(&self, sequence: &mut Sequence) {
        let symbol = self.symbol("count");
        let target = &self.post.target;
        let mut seen = target.kills();
        let open = || -> Result<Source<Tick>> { self.host.source(&symbol).rule(self.rule()).operator("c").open_as() };
        let Some(mut source) = self.open(open) else { return };
        let mut over = false;
        loop {
            std::thread::sleep(Duration::from_millis(self.post.pause()));
            if std::mem::take(&mut over) || self.post.is_to_reopen() {
                self.close(|| source.close());
                sequence.end();
                let Some(again) = self.open(open) else { return };
                source = again;
            }
            let started = Instant::now();
            let waits = self.post.waits();
            let tuple = source.next_within(Duration::from_millis(500));
            drop(waits);
            match tuple {
                Ok(Some(tuple)) => {
                    if let Err(text) = sequence.take(tuple.message) {
                        self.findings.violation(format!("{}: {text}", self.post.name()));
                    }
                    self.post.succeeds(started, Some(tuple.message.pid), &mut seen);
                }
                // The source counts without end.
                Ok(None) => {
                    over = true;
                    if !self.is_shut_down() {
                        self.findings.violation(format!("{}: the source has ended", self.post.name()));
                    }
                }
                Err(Error::Stopped) => return,
                Err(error) => {
                    self.count("read", &error);
                    over = matches!(error, Error::NotRestored { .. });
                    if !matches!(error, Error::Timeout { .. }) {
                        std::thread::sleep(RETRY_PAUSE);
                    }
                }
            }
        }
    }

    fn is_shut_down(&self) -> bool {
        let status = self.host.status(&self.post.target.name);
        status.is_ok_and(|status| status.state == ekuiper_host::PluginState::Stopped)
    }
}
