//! Result of a run: for people, and as one line of JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Found;
use crate::load::turns::{STALL, Summary as Turns};
use crate::machine::Beats;
use crate::timing::{LENIENCE, Times, millis};

/// Promised time to notice a crash, in 99 of 100 cases.
const NOTICED_WITHIN: Duration = Duration::from_millis(100);

/// Promised time to restore all symbols, in 99 of 100 cases.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// Promised lateness of a heartbeat beside the tasks of an engine, in 99 of 100
/// cases.
const BEAT_WITHIN: Duration = Duration::from_millis(5);

/// Duration of a single block of an executor that only the host can cause: a
/// machine whose processors are all in use holds a thread up for less.
const BLOCKED: Duration = Duration::from_millis(250);

/// Report of a run; see the module.
#[derive(Debug)]
pub struct Report {
    pub(super) hosts: usize,
    pub(super) took: Duration,
    pub(super) found: Vec<Found>,
    pub(super) restarts: u64,
    pub(super) tuples: u64,
    pub(super) runs: usize,
    pub(super) lags: Times,
    pub(super) beats: Beats,
    pub(super) turns: Turns,
    pub(super) counts: BTreeMap<String, (u64, String)>,
    pub(super) violations: Vec<String>,
}

/// A promise about a time.
struct Promise {
    what: &'static str,
    within: Duration,
    times: Times,
    /// Times during which no sleeping thread was woken late.
    on_time: Times,
}

impl Promise {
    fn holds(&self, times: &Times) -> bool {
        times.quantile(0.99) <= self.within
    }

    fn is_violated(&self) -> bool {
        self.times.quantile(0.99) > self.within * LENIENCE
    }
}

impl Report {
    fn promises(&self) -> [Promise; 3] {
        let all =
            |pick: fn(&Found) -> &Times| self.found.iter().fold(Times::default(), |all, found| all.join(pick(found)));
        [
            Promise {
                what: "crash noticed",
                within: NOTICED_WITHIN,
                times: all(|found| &found.noticed.since_kill),
                on_time: all(|found| &found.noticed.on_time),
            },
            Promise {
                what: "all symbols back",
                within: BACK_WITHIN,
                times: all(|found| &found.away.restored),
                on_time: all(|found| &found.away.on_time),
            },
            Promise {
                what: "heartbeat beside tasks",
                within: BEAT_WITHIN,
                times: self.beats.all.clone(),
                on_time: self.beats.on_time.clone(),
            },
        ]
    }

    /// Returns the broken promises, one sentence each. A promised time counts
    /// only beyond [`LENIENCE`] times itself.
    pub fn violations(&self) -> Vec<String> {
        let late = self.promises().into_iter().filter(Promise::is_violated).map(|promise| {
            let p99 = promise.times.quantile(0.99);
            format!("{}: p99 {p99:?}, {LENIENCE} times {:?} is the bound", promise.what, promise.within)
        });
        let stall = self.turns.longest.as_ref().filter(|(_, took)| *took > BLOCKED);
        let stall = stall.map(|(task, took)| format!("{task} has blocked its executor for {took:?}"));
        self.violations.iter().cloned().chain(late).chain(stall).collect()
    }

    /// Returns the figures for machines.
    pub fn json(&self) -> Value {
        let times = |times: &Times| {
            let [p50, p99, max] = times.summary().map(millis);
            json!({ "count": times.count(), "p50_ms": p50, "p99_ms": p99, "max_ms": max })
        };
        let sum = |pick: fn(&Found) -> usize| self.found.iter().map(pick).sum::<usize>();
        let plugins: serde_json::Map<_, _> = self
            .found
            .iter()
            .map(|found| {
                let figures = json!({
                    "kills": found.kills,
                    "calls": found.calls.asked,
                    "answers": found.calls.done,
                    "messages": found.messages.asked,
                    "acks": found.messages.done,
                    "noticed": times(&found.noticed.since_kill),
                    "noticed_since_end": times(&found.noticed.since_end),
                    "restored": times(&found.away.restored),
                    "used_again": times(&found.away.used),
                    "restored_after_kill_in_start": times(&found.away.after_start),
                    "ended_sources": found.ended,
                    "closed_sinks": found.batches.closed,
                    "closed_sinks_that_lacked": found.batches.lacked,
                });
                (found.who.to_string(), figures)
            })
            .collect();
        let [noticed, back, beat] = self.promises();
        json!({
            "seconds": self.took.as_secs(),
            "hosts": self.hosts,
            "kills": sum(|found| found.kills),
            "restarts": self.restarts,
            "calls": sum(|found| found.calls.asked),
            "answers": sum(|found| found.calls.done),
            "executions": sum(|found| found.calls.recorded),
            "messages": sum(|found| found.messages.asked),
            "acks": sum(|found| found.messages.done),
            "recorded": sum(|found| found.messages.recorded),
            "tuples": self.tuples,
            "source_runs": self.runs,
            "noticed": times(&noticed.times),
            "noticed_holds": noticed.holds(&noticed.times),
            "noticed_on_time": times(&noticed.on_time),
            "back": times(&back.times),
            "back_holds": back.holds(&back.times),
            "back_on_time": times(&back.on_time),
            "beat": times(&beat.times),
            "beat_holds": beat.holds(&beat.times),
            "beat_on_time": times(&beat.on_time),
            "beat_favored": self.beats.is_favored,
            "stalls": self.beats.all.above(STALL),
            "stalls_on_time": self.beats.on_time.above(STALL),
            "turns": self.turns.count,
            "turns_blocked": times(&self.turns.blocked),
            "turns_computed_long": times(&self.turns.computed),
            "turns_waited_long": times(&self.turns.waited),
            "machine_late": times(&self.lags),
            "plugins": plugins,
            "counts": self.counts.iter().map(|(kind, (count, _))| (kind.clone(), (*count).into()))
                .collect::<serde_json::Map<_, _>>(),
            "violations": self.violations().len(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "What happened ({:.0} s, {} hosts one after the other):", self.took.as_secs_f64(), self.hosts)?;
        for (kind, (count, first)) in &self.counts {
            let first = first.lines().next().unwrap_or_default();
            writeln!(f, "{count:9}  {kind}{}{first}", if first.is_empty() { "" } else { ": " })?;
        }
        for Found { who, calls, messages, torn, kills, ended, batches, .. } in &self.found {
            writeln!(f, "\nPlugin {who}: killed {kills} times")?;
            let row = |f: &mut fmt::Formatter<'_>, what, totals: &crate::ledger::Totals| {
                let crate::ledger::Totals { asked, done, unknown, not_sent, recorded } = totals;
                let failed = format!("{unknown} failed or unknown, {not_sent} failed unsent");
                writeln!(f, "{asked:9}  {what}: {done} confirmed, {failed}; {recorded} in the plugin's record")
            };
            row(f, "calls", calls)?;
            row(f, "messages", messages)?;
            writeln!(f, "{torn:9}  torn entries of the record")?;
            writeln!(f, "{ended:9}  sources that ended by themselves")?;
            let crate::batches::Summary { closed, lacked, missing } = batches;
            writeln!(f, "{closed:9}  slow sinks closed, {lacked} of them with {missing} messages not collected")?;
        }
        writeln!(f, "\n{:9}  tuples in {} runs of sources", self.tuples, self.runs)?;
        writeln!(f, "{:9}  restarts", self.restarts)?;
        writeln!(f, "\nMilliseconds                        count      p50      p99      max")?;
        let line = |f: &mut fmt::Formatter<'_>, what: &str, times: &Times| {
            let [p50, p99, max] = times.summary().map(millis);
            writeln!(f, "{what:34} {:6} {p50:8.2} {p99:8.2} {max:8.2}", times.count())
        };
        for found in &self.found {
            line(f, &format!("crash noticed by a call, {}", found.who), &found.noticed.since_kill)?;
            line(f, &format!("    since its end, {}", found.who), &found.noticed.since_end)?;
            line(f, &format!("all symbols back, {}", found.who), &found.away.restored)?;
            line(f, &format!("each used again, {}", found.who), &found.away.used)?;
            line(f, &format!("back, killed in its start, {}", found.who), &found.away.after_start)?;
        }
        for promise in self.promises() {
            for (of, times) in [("both", &promise.times), ("machine on time", &promise.on_time)] {
                line(f, &format!("{}, {of}", promise.what), times)?;
                let holds = if promise.holds(times) { "holds" } else { "DOES NOT HOLD" };
                writeln!(f, "    promised p99 of {:?}: {holds}", promise.within)?;
            }
        }
        let (turns, long) = (&self.turns, millis(STALL));
        let [all, on_time] = [&self.beats.all, &self.beats.on_time].map(|beats| beats.above(STALL));
        let favored = if self.beats.is_favored { "real-time priority" } else { "no real-time priority" };
        writeln!(f, "    later than {long} ms: {all}; machine on time: {on_time} ({favored})")?;
        line(f, "a sleeping thread woken late", &self.lags)?;
        line(f, "turns of tasks that have blocked", &turns.blocked)?;
        line(f, &format!("others that took {long} ms: executed"), &turns.computed)?;
        line(f, "    waited for a processor", &turns.waited)?;
        if let Some((task, took)) = &turns.longest {
            writeln!(f, "    of {} turns; {task} has blocked longest: {:.2} ms", turns.count, millis(*took))?;
        }
        let violations = self.violations();
        writeln!(f, "\nviolations: {}", violations.len())?;
        violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}
