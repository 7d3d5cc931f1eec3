//! The plan of a run, faults by plugin and time: a pure function of the seed
//! and the duration.

use std::fmt;
use std::time::Duration;

use crate::rng::Rng;

/// Maximum life of a host before it is shut down under load and replaced.
const EPOCH: Duration = Duration::from_secs(60);

/// Time without faults at the start of a host and before its end, by which
/// everything must work again.
const QUIET: Duration = Duration::from_millis(1500);

/// A plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// On our SDK.
    Ours,
    /// On the official Python SDK.
    Python,
    /// On our module for Python.
    Module,
}

impl Who {
    /// Plugins of the chaos run.
    pub const ALL: [Self; 2] = [Self::Ours, Self::Python];

    /// Plugins of the soak, which must stay flat.
    pub const EVERY: [Self; 3] = [Self::Ours, Self::Python, Self::Module];
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Python => "python",
            Self::Module => "module",
        })
    }
}

/// A process that connects and is no plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Speaks HTTP.
    Http,
    /// Announces an SP protocol that does not match.
    WrongProtocol,
    /// Sends half a header and waits.
    HalfHeader,
    /// Claims a message of 2^50 bytes.
    HugeClaim,
    /// Completes the plugin's handshake, and waits for commands.
    Rival,
    /// Repeats the handshake as fast as it can.
    Flood,
    /// Connects and disconnects repeatedly.
    Storm,
    /// Waits for sockets to appear, connects before the plugin, and speaks as
    /// the plugin would.
    Ambush,
}

impl Stranger {
    /// All kinds of strangers.
    pub const ALL: [Self; 8] = [
        Self::Http,
        Self::WrongProtocol,
        Self::HalfHeader,
        Self::HugeClaim,
        Self::Rival,
        Self::Flood,
        Self::Storm,
        Self::Ambush,
    ];
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM, which the host did not send.
    Terminate,
    /// SIGSTOP, and SIGCONT after this many milliseconds.
    Stop(u64),
    /// SIGSTOP, and SIGKILL after this many milliseconds.
    StopAndKill(u64),
    /// SIGKILL this many times, each as soon as the plugin is restored.
    CrashLoop(u64),
    /// SIGKILL, and another one to the successor this many milliseconds after
    /// its start: before its handshake, or while its symbols are restored.
    KillAgain(u64),
    /// Removal of all the plugin's socket files.
    DeleteSockets,
    /// Removal of all the plugin's socket files, and SIGKILL.
    DeleteSocketsAndKill,
    /// A stranger at each of the plugin's sockets, for this many milliseconds.
    Visit(Stranger, u64),
    /// A stranger that waits for the plugin's sockets for this many
    /// milliseconds, and a kill meanwhile: the successor finds the stranger
    /// there.
    Ambush(u64),
    /// A shortage of descriptors in the host for this many milliseconds, and a
    /// kill meanwhile.
    Shortage(u64),
    /// The plugin's files cannot grow for this many milliseconds.
    DiskFull(u64),
    /// The plugin's sinks pause for this many milliseconds in one message.
    SlowSinks(u64),
    /// The plugin's source is not read for this many milliseconds.
    SlowReader(u64),
    /// All the plugin's handles are closed and opened again.
    Reopen,
    /// All the plugin's handles are closed and opened again, with SIGKILL this
    /// many milliseconds later, while they start.
    ReopenAndKill(u64),
}

impl Fault {
    /// Returns the time until the fault is over and its damage is repaired.
    fn takes(self) -> Duration {
        Duration::from_millis(match self {
            Self::Kill | Self::Terminate | Self::DeleteSocketsAndKill | Self::ReopenAndKill(_) => 1000,
            Self::KillAgain(time) | Self::Ambush(time) | Self::Shortage(time) => 1500 + time,
            Self::Stop(time) | Self::DiskFull(time) | Self::SlowSinks(time) | Self::SlowReader(time) => 200 + time,
            Self::StopAndKill(time) => 1000 + time,
            Self::CrashLoop(kills) => 1500 * kills,
            Self::DeleteSockets | Self::Reopen => 200,
            Self::Visit(_, time) => 200 + time,
        })
    }

    fn choose(rng: &mut Rng) -> Self {
        match rng.between(0, 99) {
            0..=23 => Self::Kill,
            24..=26 => Self::Terminate,
            27..=31 => Self::Stop(rng.between(20, 1000)),
            // Longer than any wait.
            32..=33 => Self::Stop(rng.between(2500, 4500)),
            34..=37 => Self::StopAndKill(rng.between(10, 500)),
            38..=39 => Self::CrashLoop(rng.between(2, 6)),
            // Python needs this long before it restores anything.
            40..=44 => Self::KillAgain(rng.between(0, 10)),
            45..=52 => Self::KillAgain(rng.between(0, 80)),
            53..=54 => Self::DeleteSockets,
            55..=57 => Self::DeleteSocketsAndKill,
            58..=69 => Self::Visit(Stranger::ALL[rng.between(0, 6) as usize], rng.between(50, 600)),
            70..=74 => Self::Ambush(rng.between(50, 600)),
            75..=77 => Self::Shortage(rng.between(50, 1500)),
            78..=81 => Self::DiskFull(rng.between(100, 1000)),
            82..=84 => Self::SlowSinks(rng.between(100, 1000)),
            85..=86 => Self::SlowSinks(rng.between(2500, 3500)),
            87..=89 => Self::SlowReader(rng.between(100, 2500)),
            90..=94 => Self::Reopen,
            _ => Self::ReopenAndKill(rng.between(0, 30)),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop(time) => write!(f, "stop for {time} ms"),
            Self::StopAndKill(time) => write!(f, "stop, kill after {time} ms"),
            Self::CrashLoop(kills) => write!(f, "kill {kills} times"),
            Self::KillAgain(time) => write!(f, "kill, and its successor after {time} ms"),
            Self::Ambush(time) => write!(f, "kill before strangers who wait for {time} ms"),
            Self::Shortage(time) => write!(f, "kill without descriptors for {time} ms"),
            Self::DeleteSockets => f.write_str("delete its socket files"),
            Self::DeleteSocketsAndKill => f.write_str("delete its socket files and kill"),
            Self::Visit(stranger, time) => write!(f, "visit of {stranger:?} for {time} ms"),
            Self::DiskFull(time) => write!(f, "disk full for {time} ms"),
            Self::SlowSinks(time) => write!(f, "sinks pause for {time} ms"),
            Self::SlowReader(time) => write!(f, "reader pauses for {time} ms"),
            Self::Reopen => f.write_str("close and open its handles"),
            Self::ReopenAndKill(time) => write!(f, "close and open its handles, and kill after {time} ms"),
            Self::Kill | Self::Terminate => write!(f, "{}", if *self == Self::Kill { "kill" } else { "terminate" }),
        }
    }
}

/// One fault, with its time from the start of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Time of the fault.
    pub at: Duration,
    /// The plugin.
    pub who: Who,
    /// The fault.
    pub fault: Fault,
}

/// The life of one host, which ends with its shutdown under load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Duration in total.
    pub length: Duration,
    /// Faults, in order of time.
    pub steps: Vec<Step>,
}

/// The plan of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Hosts, one after the other.
    pub epochs: Vec<Epoch>,
}

impl Plan {
    /// Returns the plan of this seed and duration.
    pub fn new(seed: u64, total: Duration) -> Self {
        // At least one host is replaced under load.
        let epochs = (total.as_secs_f64() / EPOCH.as_secs_f64()).ceil().max(2.0) as u32;
        let length = total / epochs;
        let mut rng = Rng::new(seed);
        Self { epochs: (0..epochs).map(|_| Epoch::new(&mut rng, length)).collect() }
    }
}

impl Epoch {
    fn new(rng: &mut Rng, length: Duration) -> Self {
        let mut steps = Vec::new();
        for who in Who::ALL {
            let mut at = QUIET + Duration::from_millis(rng.between(0, 1000));
            loop {
                let fault = Fault::choose(rng);
                let over = at + fault.takes();
                if over + QUIET > length {
                    break;
                }
                steps.push(Step { at, who, fault });
                at = over + Duration::from_millis(rng.between(300, 1500));
            }
        }
        steps.sort_by_key(|step| step.at);
        Self { length, steps }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, epoch) in self.epochs.iter().enumerate() {
            writeln!(f, "host {}, for {:.1} s:", number + 1, epoch.length.as_secs_f64())?;
            for Step { at, who, fault } in &epoch.steps {
                writeln!(f, "  {:7.3} s  {who:6}  {fault}", at.as_secs_f64())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_seed_repeats_its_plan_and_no_other() {
        assert_eq!(Plan::new(1, HOUR), Plan::new(1, HOUR));
        assert_ne!(Plan::new(1, HOUR), Plan::new(2, HOUR));
    }

    #[test]
    fn every_fault_meets_every_plugin() {
        let plan = Plan::new(1, HOUR);
        for who in Who::ALL {
            let mut met: Vec<_> = plan
                .epochs
                .iter()
                .flat_map(|epoch| &epoch.steps)
                .filter(|step| step.who == who)
                .map(|step| match step.fault {
                    Fault::Visit(stranger, _) => format!("{stranger:?}"),
                    fault => format!("{:?}", std::mem::discriminant(&fault)),
                })
                .collect();
            met.sort();
            met.dedup();
            assert_eq!(met.len(), 15 + 7, "{who}");
        }
    }

    #[test]
    fn one_fault_at_a_time_and_peace_at_both_ends() {
        for epoch in Plan::new(7, HOUR).epochs {
            for who in Who::ALL {
                let mut free = QUIET;
                for step in epoch.steps.iter().filter(|step| step.who == who) {
                    assert!(step.at >= free);
                    free = step.at + step.fault.takes();
                }
                assert!(free + QUIET <= epoch.length);
            }
        }
    }

    #[test]
    fn a_short_plan_has_two_hosts_and_faults() {
        let plan = Plan::new(1, Duration::from_secs(12));
        assert_eq!(plan.epochs.len(), 2);
        assert!(plan.epochs.iter().any(|epoch| !epoch.steps.is_empty()));
    }
}
