//! The proof by time: plugins under moderate load with idle phases, in which
//! only keepalives arrive; memory, descriptors and threads at the end must be
//! what they were after the first minutes.

mod user;

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use serde_json::{Value, json};
use user::{Totals, User};

use crate::Tools;
use crate::plan::Who;
use crate::stage::Stage;
use crate::survey::Usage;

/// Duration of one cycle of load and idleness, if the run is long enough; the
/// official SDK sends its keepalives after 5 s.
const CYCLE: Duration = Duration::from_secs(40);

/// Number of warm-up cycles.
const WARM_UP: usize = 2;

/// Allowed growth of memory, in KiB, in addition to a twentieth: allocators
/// keep what they once needed.
const MORE_DIRTY: u64 = 1024;
const MORE_RSS: u64 = 2048;

/// Additional allowance for a plugin in Python: its allocator takes a MiB at a
/// time, and two such steps were observed after the warm-up.
const PYTHON_ARENAS: u64 = 2048;

/// Allowed growth of threads. A process has one thread for posted messages,
/// from the first one on, which comes at a random time. A leak in each cycle
/// exceeds this.
const MORE_THREADS: u64 = 1;

/// Usage of a process at the end of a cycle.
#[derive(Debug)]
struct Track {
    name: String,
    usage: Vec<Usage>,
}

/// Result of a run.
#[derive(Debug)]
pub struct Report {
    took: Duration,
    cycles: usize,
    calls: u64,
    messages: u64,
    tuples: u64,
    ended: u64,
    tracks: Vec<Track>,
    failures: Vec<String>,
}

/// Runs the soak for this long.
///
/// # Errors
/// The run cannot be set up, or an undisturbed operation fails.
pub fn run(tools: &Tools, time: Duration) -> Result<Report, String> {
    let started = Instant::now();
    let stage = Stage::new(tools, &Who::EVERY).map_err(|error| format!("cannot make the plugins' folders: {error}"))?;
    let host = stage.host().map_err(|error| Chain(&error).to_string())?;
    let cycle = CYCLE.min(time / 6);
    let totals = Totals::default();
    let users = stage.targets.iter().map(|target| User::new(&host, &target.name, &totals));
    let users = users.collect::<Result<Vec<_>, _>>()?;
    let pids = stage.targets.iter().map(|target| host.pid(&target.name).ok_or(format!("{} is gone", target.who)));
    let pids = pids.collect::<Result<Vec<_>, _>>()?;
    let names = std::iter::once("host".to_owned()).chain(stage.targets.iter().map(|target| target.who.to_string()));
    let mut tracks: Vec<_> = names.map(|name| Track { name, usage: Vec::new() }).collect();
    let mut cycles = 0;
    while started.elapsed() + cycle <= time + cycle / 2 {
        let until = Instant::now() + cycle / 2;
        std::thread::scope(|scope| {
            let at_work: Vec<_> = users.iter().map(|user| scope.spawn(|| user.work(until))).collect();
            at_work.into_iter().try_for_each(|user| user.join().unwrap_or_else(|_| Err("a user panicked".into())))
        })?;
        std::thread::sleep(cycle / 2);
        cycles += 1;
        for (track, pid) in tracks.iter_mut().zip(std::iter::once(std::process::id()).chain(pids.iter().copied())) {
            let usage = Usage::of(pid).map_err(|error| format!("{} is gone: {error}", track.name))?;
            track.usage.push(usage);
        }
    }
    let mut failures = Vec::new();
    for target in &stage.targets {
        let status = host.status(&target.name).map_err(|error| Chain(&error).to_string())?;
        if status.restarts > 0 {
            failures.push(format!("{} was restarted {} times: {:?}", target.who, status.restarts, status.last_exit));
        }
    }
    drop(users);
    host.shutdown();
    let remains = stage.remains();
    if !remains.is_empty() {
        failures.push(format!("left behind: {}", remains.join(", ")));
    }
    let [calls, messages, tuples, ended] =
        [&totals.calls, &totals.messages, &totals.tuples, &totals.ended].map(|n| n.load(Ordering::Relaxed));
    failures.extend(tracks.iter().flat_map(Track::growth));
    Ok(Report { took: started.elapsed(), cycles, calls, messages, tuples, ended, tracks, failures })
}

impl Track {
    /// Returns the usage after the warm-up, and at the end: the median of three
    /// cycles, if there are as many.
    fn ends(&self) -> (Usage, Usage) {
        let warm = self.usage.get(WARM_UP..).filter(|warm| !warm.is_empty()).unwrap_or(&self.usage);
        let some = if warm.len() >= 6 { 3 } else { 1 };
        (middle(warm.iter().take(some)), middle(warm.iter().rev().take(some)))
    }

    fn growth(&self) -> Vec<String> {
        let (start, end) = self.ends();
        let arenas = if ["python", "module"].contains(&self.name.as_str()) { PYTHON_ARENAS } else { 0 };
        let mut grown = Vec::new();
        let mut check = |what, start: u64, end: u64, allowed: u64| {
            if end > start + allowed {
                grown.push(format!("{}: {what} grew from {start} to {end}, {allowed} more are allowed", self.name));
            }
        };
        check("private dirty memory (KiB)", start.dirty_kib, end.dirty_kib, MORE_DIRTY + arenas + start.dirty_kib / 20);
        check("resident memory (KiB)", start.rss_kib, end.rss_kib, MORE_RSS + arenas + start.rss_kib / 20);
        check("descriptors", start.descriptors, end.descriptors, 0);
        check("threads", start.threads, end.threads, MORE_THREADS);
        grown
    }
}

fn middle<'a>(usage: impl Iterator<Item = &'a Usage>) -> Usage {
    let usage: Vec<_> = usage.collect();
    let pick = |field: fn(&Usage) -> u64| {
        let mut values: Vec<_> = usage.iter().map(|usage| field(usage)).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Usage {
        rss_kib: pick(|usage| usage.rss_kib),
        dirty_kib: pick(|usage| usage.dirty_kib),
        descriptors: pick(|usage| usage.descriptors),
        threads: pick(|usage| usage.threads),
    }
}

impl Report {
    /// Returns what grew or failed, one sentence each.
    pub fn violations(&self) -> &[String] {
        &self.failures
    }

    /// Returns the figures for machines.
    pub fn json(&self) -> Value {
        let usage = |usage: Usage| {
            json!({
                "rss_kib": usage.rss_kib, "private_dirty_kib": usage.dirty_kib,
                "descriptors": usage.descriptors, "threads": usage.threads,
            })
        };
        let processes: serde_json::Map<_, _> = self
            .tracks
            .iter()
            .map(|track| {
                let (start, end) = track.ends();
                (track.name.clone(), json!({ "start": usage(start), "end": usage(end) }))
            })
            .collect();
        json!({
            "seconds": self.took.as_secs(), "cycles": self.cycles, "calls": self.calls, "acks": self.messages,
            "tuples": self.tuples, "ended_sources": self.ended, "processes": processes, "violations": self.failures.len(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cycles, calls, messages, tuples, ended, .. } = self;
        writeln!(f, "{:.0} s, {cycles} cycles of load and idleness:", self.took.as_secs_f64())?;
        writeln!(
            f,
            "{calls} calls, {messages} messages with acks, {tuples} tuples, {ended} sources that ended by themselves"
        )?;
        writeln!(f, "\n                        RSS KiB    private dirty KiB   descriptors     threads")?;
        writeln!(f, "                    start     end     start     end    start   end  start   end")?;
        for track in &self.tracks {
            let (start, end) = track.ends();
            writeln!(
                f,
                "{:15} {:9} {:7} {:9} {:7} {:8} {:5} {:6} {:5}",
                track.name,
                start.rss_kib,
                end.rss_kib,
                start.dirty_kib,
                end.dirty_kib,
                start.descriptors,
                end.descriptors,
                start.threads,
                end.threads
            )?;
        }
        writeln!(f, "\nviolations: {}", self.failures.len())?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "  {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(dirty: impl IntoIterator<Item = u64>, descriptors: u64) -> Track {
        let usage = dirty.into_iter().enumerate().map(|(cycle, dirty_kib)| Usage {
            rss_kib: 10_000,
            dirty_kib,
            descriptors: if cycle > 5 { descriptors } else { 20 },
            threads: 5,
        });
        Track { name: "host".into(), usage: usage.collect() }
    }

    #[test]
    fn what_is_flat_passes() {
        assert_eq!(track([50, 4000, 5000, 5010, 9000, 5020, 5020, 5000, 5030], 20).growth(), [] as [String; 0]);
    }

    #[test]
    fn growth_is_named() {
        let grown = track((1..=10).map(|cycle| cycle * 1000), 21).growth();
        assert_eq!(grown.len(), 2);
        assert!(grown[0].contains("private dirty memory (KiB) grew from 4000 to 9000"), "{}", grown[0]);
        assert!(grown[1].contains("descriptors grew from 20 to 21, 0 more"), "{}", grown[1]);
    }
}
