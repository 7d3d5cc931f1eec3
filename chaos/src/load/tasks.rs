//! An engine on tasks: one thread runs a task for each of its users, and a
//! heartbeat that tells how long a task has held the others up.

use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use ekuiper_host::{AsyncSink, AsyncSource, Error, Function, Host, Result};
use futures::StreamExt;
use futures::future::{join, join_all};
use futures::stream::FuturesUnordered;
use serde_json::json;

use super::turns::Measured;
use super::{Answer, LONGEST, PACE, RETRY_PAUSE, Worker};
use crate::findings::{Findings, judge};
use crate::ledger::Outcome;
use crate::machine::Machine;
use crate::post::{Post, Role};
use crate::priority::Priority;
use crate::rng::Rng;
use crate::sequence::{Sequence, Tick};

/// Calls, or messages, of one task under way.
const UNDER_WAY: usize = 16;

/// Pause between two heartbeats.
const BEAT: Duration = Duration::from_millis(2);

/// Runs the posts of tasks until the host is shut down.
pub(crate) fn run(host: &Host, posts: Vec<(&Post, &mut Sequence)>, findings: &Findings, machine: &Machine) {
    machine.favor_this_thread(Priority::Executor);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
    let is_over = std::cell::Cell::new(false);
    let work = posts.into_iter().map(|(post, sequence)| {
        let task = async move {
            let worker = Worker { host, post, findings };
            match post.role {
                Role::TaskCalls => worker.call_from_a_task().await,
                Role::TaskSink => worker.send_from_a_task().await,
                _ => worker.read_in_a_task(sequence).await,
            }
            post.over.store(true, std::sync::atomic::Ordering::SeqCst);
        };
        Measured { task: Box::pin(task), name: post.name(), turns: &machine.turns }
    });
    let work = async {
        join_all(work).await;
        is_over.set(true);
    };
    let heartbeat = async {
        while !is_over.get() {
            let due = Instant::now() + BEAT;
            tokio::time::sleep(BEAT).await;
            machine.beat(due, Instant::now());
        }
    };
    runtime.block_on(join(work, heartbeat));
    // At once: no thread of it waits for the host.
    let began = Instant::now();
    drop(runtime);
    if began.elapsed() > Duration::from_secs(1) {
        findings.violation(format!("the runtime needed {:?} to end", began.elapsed()));
    }
}

impl Worker<'_> {
    /// Opens a handle; returns `None` when the host is shut down.
    async fn open_in_a_task<T>(&self, open: impl AsyncFn() -> Result<T>) -> Option<T> {
        loop {
            let waits = self.post.waits();
            let opened = open().await;
            drop(waits);
            match opened {
                Ok(opened) => return Some(opened),
                Err(Error::Stopped) => return None,
                Err(error) => {
                    self.count("open in a task", &error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn is_in_time(&self, what: &str, started: Instant) {
        let took = started.elapsed();
        // Each waits for those before it.
        if took > LONGEST * 2 {
            self.findings.violation(format!("{}: {what} took {took:?}", self.post.name()));
        }
    }

    /// Makes many calls at a time, and drops some of them.
    async fn call_from_a_task(&self) {
        let target = &self.post.target;
        let mut rng = Rng::new(self.post.index as u64);
        let mut seen = target.kills();
        let symbol = self.symbol("fast");
        let open = async || self.host.function_async(&symbol).await;
        let Some(mut function): Option<Function> = self.open_in_a_task(open).await else { return };
        let mut calls = FuturesUnordered::new();
        loop {
            if self.post.is_to_reopen() {
                let Some(again) = self.open_in_a_task(open).await else { return };
                function = again;
            }
            while calls.len() < UNDER_WAY {
                let length = rng.between(0, 200) as usize;
                let id = lock(&target.calls).begin();
                let started = Instant::now();
                let call = match function.call_async::<Answer>((id, "x".repeat(length))) {
                    Ok(call) => call,
                    Err(error) => {
                        lock(&target.calls).end(id, judge(&error).1);
                        self.count("call from a task", &error);
                        break;
                    }
                };
                if rng.between(0, 19) == 0 {
                    // It is executed once, or not at all.
                    lock(&target.calls).end(id, Outcome::Unknown);
                    drop(call);
                    continue;
                }
                calls.push(async move { (id, length, started, call.await) });
            }
            let waits = self.post.waits();
            let next = calls.next().await;
            drop(waits);
            let Some((id, length, started, answer)) = next else { continue };
            self.is_in_time("a call from a task", started);
            match answer {
                Ok(answer) => {
                    lock(&target.calls).end(id, Outcome::Done(Some((answer.pid, answer.sequence))));
                    if (answer.id, answer.length) != (id, length) {
                        let text = format!("call {id} with {length} bytes was answered with {answer:?}");
                        self.findings.violation(format!("{}: {text}", self.post.name()));
                    }
                    self.post.succeeds(started, Some(answer.pid), &mut seen);
                }
                Err(error) => {
                    lock(&target.calls).end(id, judge(&error).1);
                    if matches!(error, Error::Stopped) {
                        // Those that are still under way end as well.
                        while let Some((id, _, _, answer)) = calls.next().await {
                            let outcome = answer.map_or_else(
                                |error| judge(&error).1,
                                |answer| Outcome::Done(Some((answer.pid, answer.sequence))),
                            );
                            lock(&target.calls).end(id, outcome);
                        }
                        return;
                    }
                    self.count("call from a task", &error);
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Sends many messages at a time, with acknowledgements.
    async fn send_from_a_task(&self) {
        let symbol = self.symbol("keep");
        let open = async || -> Result<AsyncSink> {
            self.host.sink(&symbol).rule(self.rule()).operator("k").require_ack(true).open_async().await
        };
        while let Some(sink) = self.open_in_a_task(open).await {
            if !self.send_to(sink).await {
                return;
            }
        }
    }

    /// Sends to one sink, until it is to be opened again; returns false when
    /// the host is shut down.
    async fn send_to(&self, mut sink: AsyncSink) -> bool {
        let target = &self.post.target;
        let mut seen = target.kills();
        let mut acks = FuturesUnordered::new();
        let (mut is_over, mut is_shut_down) = (false, false);
        loop {
            is_over |= self.post.is_to_reopen();
            if !is_over && acks.len() < UNDER_WAY {
                let id = lock(&target.messages).begin();
                let message = json!({ "id": id, "pause": self.post.pause() });
                let started = Instant::now();
                let waits = self.post.waits();
                let posted = sink.post(&message).await;
                drop(waits);
                match posted {
                    Ok(ack) => acks.push(async move { (id, started, ack.await) }),
                    Err(error) => {
                        lock(&target.messages).end(id, judge(&error).1);
                        is_over |= self.ends_a_sink(&error, &mut is_shut_down);
                    }
                }
            } else if let Some((id, started, outcome)) = {
                let _waits = self.post.waits();
                acks.next().await
            } {
                self.is_in_time("a message from a task", started);
                match outcome {
                    Ok(()) => {
                        lock(&target.messages).end(id, Outcome::Done(None));
                        self.post.succeeds(started, None, &mut seen);
                    }
                    Err(error) => {
                        lock(&target.messages).end(id, judge(&error).1);
                        is_over |= self.ends_a_sink(&error, &mut is_shut_down);
                    }
                }
            } else if is_over {
                break;
            }
            tokio::time::sleep(PACE / UNDER_WAY as u32).await;
        }
        let _waits = self.post.waits();
        if let Err(error) = sink.close().await {
            self.count("close in a task", &error);
        }
        !is_shut_down
    }

    fn ends_a_sink(&self, error: &Error, is_shut_down: &mut bool) -> bool {
        match error {
            Error::Stopped => *is_shut_down = true,
            error => self.count("send from a task", error),
        }
        matches!(error, Error::Stopped | Error::SinkBroken { .. } | Error::NotRestored { .. })
    }

    async fn read_in_a_task(&self, sequence: &mut Sequence) {
        let symbol = self.symbol("count");
        let target = &self.post.target;
        let mut seen = target.kills();
        let open = async || -> Result<AsyncSource<Tick>> {
            self.host.source(&symbol).rule(self.rule()).operator("c").open_async().await
        };
        let Some(mut source) = self.open_in_a_task(open).await else { return };
        let mut is_over = false;
        loop {
            tokio::time::sleep(Duration::from_millis(self.post.pause())).await;
            if std::mem::take(&mut is_over) || self.post.is_to_reopen() {
                // Dropped, so that the next one waits for its end.
                drop(source);
                sequence.end();
                let Some(again) = self.open_in_a_task(open).await else { return };
                source = again;
            }
            let started = Instant::now();
            let waits = self.post.waits();
            let tuple = tokio::time::timeout(Duration::from_millis(500), source.next()).await;
            drop(waits);
            match tuple {
                Err(_) => {}
                Ok(Some(Ok(tuple))) => {
                    if let Err(text) = sequence.take(tuple.message) {
                        self.findings.violation(format!("{}: {text}", self.post.name()));
                    }
                    self.post.succeeds(started, Some(tuple.message.pid), &mut seen);
                }
                Ok(Some(Err(Error::Stopped))) => return,
                Ok(Some(Err(error))) => {
                    self.count("read in a task", &error);
                    is_over = matches!(error, Error::NotRestored { .. });
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                // The source counts without end.
                Ok(None) => {
                    is_over = true;
                    if !self.is_shut_down() {
                        self.findings.violation(format!("{}: the source has ended", self.post.name()));
                    }
                }
            }
        }
    }
}
