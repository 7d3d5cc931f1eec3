//! The proof by faults: executes a plan on real processes under load, and
//! checks every promise of the guide ("What is promised").

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::sync::lock;
use ekuiper_host::{Event, EventKind, Host};

use crate::Tools;
use crate::batches::{self, Summary};
use crate::faults::{BACK_BY, Injector};
use crate::findings::Findings;
use crate::ledger::Totals;
use crate::load;
use crate::machine::Machine;
use crate::plan::{Epoch, Plan, Who};
use crate::post::Post;
use crate::record::{CALLS, MESSAGES, parse};
use crate::sequence::Sequence;
use crate::stage::Stage;
use crate::survey::Usage;
use crate::target::{Away, Noticed, Target};

mod report;

pub use report::Report;

/// Time after which a call, message, start or stop counts as hung: far more
/// than all its deadlines together.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// Time by which everything of a host must be gone after its shutdown.
const GONE_BY: Duration = Duration::from_secs(2);

/// Results for one plugin.
#[derive(Clone, Debug)]
struct Found {
    who: Who,
    calls: Totals,
    messages: Totals,
    torn: usize,
    kills: usize,
    noticed: Noticed,
    away: Away,
    ended: usize,
    batches: Summary,
}

/// Executes a plan.
///
/// # Errors
/// The run cannot be set up.
pub fn run(tools: &Tools, plan: &Plan) -> Result<Report, String> {
    let started = Instant::now();
    let stage = Stage::new(tools, &Who::ALL).map_err(|error| format!("cannot make the plugins' folders: {error}"))?;
    let run = Run {
        stage: &stage,
        findings: Findings::default(),
        machine: Machine::default(),
        restarts: AtomicU64::new(0),
        tuples: AtomicU64::new(0),
    };
    // One per post, across all hosts.
    let mut sequences: Vec<Sequence> = Post::all(&stage.targets).iter().map(|_| Sequence::default()).collect();
    let mut left = None;
    for (number, epoch) in plan.epochs.iter().enumerate() {
        eprintln!("chaos: host {} of {}, {} faults", number + 1, plan.epochs.len(), epoch.steps.len());
        let host = stage.host().map_err(|error| format!("cannot make a host: {}", Chain(&error)))?;
        run.live(&host, epoch, &mut sequences);
        drop(host);
        run.is_clean(&mut left);
    }
    let found = stage.targets.iter().map(|target| run.found(target)).collect();
    Ok(run.report(plan.epochs.len(), started.elapsed(), found, &sequences))
}

struct Run<'a> {
    stage: &'a Stage,
    findings: Findings,
    machine: Machine,
    restarts: AtomicU64,
    tuples: AtomicU64,
}

impl Run<'_> {
    /// Runs one host to its end.
    fn live(&self, host: &Host, epoch: &Epoch, sequences: &mut [Sequence]) {
        let posts = Post::all(&self.stage.targets);
        let events = host.events();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (watched, is_over) = (&posts, &over);
            scope.spawn(move || self.listen(&events, is_over));
            let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            for processor in 0..processors {
                scope.spawn(move || self.machine.sleep(processor, is_over));
            }
            scope.spawn(move || self.watch(watched, is_over));
            let (of_tasks, others): (Vec<_>, Vec<_>) =
                posts.iter().map(|post| &**post).zip(sequences).partition(|(post, _)| post.role.is_task());
            for (post, sequence) in others {
                scope.spawn(move || load::work(host, post, sequence, &self.findings));
            }
            scope.spawn(move || load::tasks::run(host, of_tasks, &self.findings, &self.machine));
            let began = Instant::now();
            std::thread::scope(|scope| {
                for step in &epoch.steps {
                    sleep_until(began + step.at);
                    let posts = &posts;
                    scope.spawn(move || {
                        let Some(target) = self.stage.targets.iter().find(|target| target.who == step.who) else {
                            return;
                        };
                        let own: Vec<_> = posts.iter().filter(|post| post.target.who == step.who).cloned().collect();
                        Injector { host, target, posts: &own, findings: &self.findings }.inject(step.fault);
                    });
                }
            });
            self.are_all_back(&posts);
            sleep_until(began + epoch.length);
            for target in &self.stage.targets {
                if let Ok(status) = host.status(&target.name) {
                    self.restarts.fetch_add(status.restarts, Ordering::Relaxed);
                    self.tuples.fetch_add(status.traffic.messages_in, Ordering::Relaxed);
                }
            }
            // Under full load.
            host.shutdown();
            let give_up = Instant::now() + BACK_BY;
            for post in &posts {
                while !post.over.load(Ordering::SeqCst) && Instant::now() < give_up {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if !post.over.load(Ordering::SeqCst) {
                    self.hang(&format!("{} goes on after the host's shutdown", post.name()));
                }
            }
            over.store(true, Ordering::SeqCst);
        });
    }

    /// Checks that every post succeeds again.
    fn are_all_back(&self, posts: &[Arc<Post>]) {
        let since = Instant::now();
        let mut waiting: Vec<_> = posts.iter().collect();
        while !waiting.is_empty() {
            waiting.retain(|post| !post.has_succeeded_since(since));
            if since.elapsed() > BACK_BY {
                waiting.iter().for_each(|post| {
                    self.findings.violation(format!("{} is not served any more", post.name()));
                });
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Handles the host's events.
    fn listen(&self, events: &Receiver<Event>, over: &AtomicBool) {
        loop {
            let Event { plugin, kind, .. } = match events.recv_timeout(Duration::from_millis(100)) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) if !over.load(Ordering::SeqCst) => continue,
                Err(_) => return,
            };
            let Some(target) = self.stage.targets.iter().find(|target| target.name == plugin) else { continue };
            let count = |kind: &str, text: String| self.findings.count(format!("{kind} ({})", target.who), text);
            match kind {
                EventKind::Restored { pid, .. } => target.restored(pid),
                EventKind::RestartFailed { error } => count("restart failed", error),
                EventKind::SymbolLost { symbol, error, .. } => {
                    if target.is_short.load(Ordering::SeqCst) {
                        let text = format!("the host was out of descriptors, and lost {symbol}: {error}");
                        self.findings.violation(format!("{}: {text}", target.who));
                    }
                    count("symbol lost", format!("{symbol}: {error}"));
                }
                EventKind::Broken { .. } => {
                    count("breaker opened", String::new());
                    if target.is_short.load(Ordering::SeqCst) {
                        let text = "the host was out of descriptors, and its breaker counted that";
                        self.findings.violation(format!("{}: {text}", target.who));
                    }
                }
                _ => {}
            }
        }
    }

    /// Watches for hangs.
    fn watch(&self, posts: &[Arc<Post>], over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
            if let Some(post) = posts.iter().find(|post| post.has_waited() > HANGS_AFTER) {
                self.hang(&format!("{} has waited for {HANGS_AFTER:?}", post.name()));
            }
        }
    }

    /// Reports a hang, and ends the process.
    fn hang(&self, text: &str) {
        self.findings.violation(text);
        for (kind, (count, first)) in self.findings.counts() {
            eprintln!("{count:8}  {kind}: {first}");
        }
        std::process::exit(1);
    }

    /// Checks that nothing is left of a host, outside and in this process:
    /// after each host it has the threads and descriptors that `left` has of
    /// the first.
    fn is_clean(&self, left: &mut Option<Usage>) {
        let give_up = Instant::now() + GONE_BY;
        loop {
            let mut remains = self.stage.remains();
            let own = Usage::of(std::process::id()).unwrap_or_default();
            let first = left.unwrap_or(own);
            if own.threads > first.threads || own.descriptors > first.descriptors {
                let numbers = |usage: Usage| format!("{} threads, {} descriptors", usage.threads, usage.descriptors);
                remains.push(format!("{} after {} of the first host", numbers(own), numbers(first)));
            }
            // What ends late of the first host would hide what is left later.
            let is_over = Instant::now() > give_up;
            if remains.is_empty() && (left.is_some() || is_over) {
                *left = Some(first);
                return;
            }
            if is_over {
                self.findings.violation(format!("left behind: {}", remains.join(", ")));
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Compares the plugin's record with the outcomes.
    fn found(&self, target: &Target) -> Found {
        let mut torn = 0;
        let mut done = HashSet::new();
        let mut check = |file, what, ledger: &crate::ledger::Ledger| {
            let text = std::fs::read_to_string(target.folder.join(file)).unwrap_or_default();
            let (entries, pieces) = parse(&text);
            torn += pieces;
            done = entries.iter().map(|entry| entry.id).collect();
            let (totals, wrong) = ledger.check(what, &entries);
            wrong.iter().for_each(|text| self.findings.violation(format!("{}: {text}", target.who)));
            totals
        };
        let calls = check(CALLS, "call", &lock(&target.calls));
        let messages = check(MESSAGES, "message", &lock(&target.messages));
        let (batches, wrong) = batches::check(&lock(&target.batches), &done);
        wrong.iter().for_each(|text| self.findings.violation(format!("{}: {text}", target.who)));
        let ended = target.ended.load(Ordering::Relaxed);
        let on_time = |from, to| !self.machine.was_late(from, to);
        let (noticed, away) = (target.noticed(on_time), target.away(on_time));
        Found { who: target.who, calls, messages, torn, kills: target.kills(), noticed, away, ended, batches }
    }

    fn report(&self, hosts: usize, took: Duration, found: Vec<Found>, sequences: &[Sequence]) -> Report {
        Report {
            hosts,
            took,
            found,
            restarts: self.restarts.load(Ordering::Relaxed),
            tuples: self.tuples.load(Ordering::Relaxed),
            runs: sequences.iter().map(Sequence::runs).sum(),
            lags: self.machine.lags(),
            beats: self.machine.beats(),
            turns: self.machine.turns.summary(),
            counts: self.findings.counts(),
            violations: self.findings.violations(),
        }
    }
}

fn sleep_until(instant: Instant) {
    std::thread::sleep(instant.saturating_duration_since(Instant::now()));
}
