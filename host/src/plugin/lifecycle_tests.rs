//! Property test of the lifecycle: any order of exits, starts, updates and
//! shutdowns, and late reports of earlier generations, without processes or
//! real time.

#![allow(clippy::unwrap_used)] // these are tests, helpers included

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ekuiper_core::restart::RestartPolicy;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lifecycle::{Action, Caller, Input, Lifecycle, Version, Work};
use crate::Error;
use crate::process::Exit;
use crate::status::{EventKind, PluginState};

/// Number of cases; `PROPTEST_CASES` overrides it.
const CASES: u32 = 1000;

/// Maximum wait of a caller, and of an update.
const PATIENCE: Duration = Duration::from_secs(60);

/// A step of a case. A number selects among the present candidates.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A caller wants the plugin, for this many milliseconds.
    Want(u16),
    Attach,
    Detach(u8),
    /// The live process dies.
    Die,
    /// An end that was not reported yet is reported to the host.
    Report(u8),
    /// The next work begins, or the work in progress is finished.
    Work(Fate),
    Update,
    /// The update that has its turn proceeds: it begins, or gives its turn
    /// back.
    GoOn,
    GiveUp,
    Stop,
    Reset,
    Remove,
    Shutdown,
    /// This many milliseconds pass.
    Pass(u16),
}

/// How a work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails,
    /// The host has a shortage.
    IsShort,
    /// The process dies before.
    Dies,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        6 => Just(Fate::Succeeds),
        1 => Just(Fate::Fails),
        1 => Just(Fate::IsShort),
        1 => Just(Fate::Dies),
    ];
    prop_oneof![
        6 => (0u16..20_000).prop_map(Step::Want),
        3 => Just(Step::Attach),
        2 => any::<u8>().prop_map(Step::Detach),
        3 => Just(Step::Die),
        6 => any::<u8>().prop_map(Step::Report),
        24 => fate.prop_map(Step::Work),
        2 => Just(Step::Update),
        4 => Just(Step::GoOn),
        1 => Just(Step::Reset),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Stop),
        1 => prop_oneof![9 => Just(Step::Reset), 1 => Just(Step::Remove)],
        1 => prop_oneof![9 => Just(Step::Reset), 1 => Just(Step::Shutdown)],
        6 => prop_oneof![0u16..100, 0u16..30_000].prop_map(Step::Pass),
    ]
}

fn exit() -> Exit {
    Exit { code: None, signal: Some(9), memory_limit: None, tail: String::new() }
}

fn failure() -> Error {
    Error::NoSuchPlugin("p".into())
}

fn shortage() -> Error {
    let source = std::io::Error::from_raw_os_error(24);
    Error::Shortage {
        what: "plugin p".into(),
        resource: "descriptors",
        remedy: "raise the limit",
        source: source.into(),
    }
}

/// A process, as the operating system sees it.
#[derive(Debug, Default)]
struct Process {
    is_dead: bool,
    /// The end was reported to the host.
    is_reported: bool,
    /// The process was told to end, or its start was aborted.
    is_killed: bool,
    restored: BTreeSet<u32>,
}

/// What an update waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Turn,
    HasTurn,
    Outcome,
    HasOutcome,
}

/// Number of occurrences of each event.
#[derive(Debug, Default)]
struct Reached(BTreeMap<&'static str, u32>);

impl Reached {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

struct World {
    life: Lifecycle<u32>,
    now: Instant,
    processes: BTreeMap<u64, Process>,
    /// Ordered works that have not begun, in order.
    ordered: VecDeque<Work<u32>>,
    begun: Option<Work<u32>>,
    is_start_over: bool,
    is_trial_over: bool,
    attached: BTreeSet<u32>,
    numbers: u64,
    callers: BTreeMap<Caller, Instant>,
    updates: BTreeMap<Caller, Stage>,
    adopted: BTreeSet<Caller>,
    stops: BTreeSet<Caller>,
    is_shut_down: bool,
    /// A process has served since the plugin was last idle.
    has_served: bool,
    reached: Reached,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut policy = RestartPolicy::default();
        policy.break_after = 3;
        Self {
            life: Lifecycle::new("p", policy, PATIENCE, now),
            now,
            processes: BTreeMap::new(),
            ordered: VecDeque::new(),
            begun: None,
            is_start_over: false,
            is_trial_over: false,
            attached: BTreeSet::new(),
            numbers: 0,
            callers: BTreeMap::new(),
            updates: BTreeMap::new(),
            adopted: BTreeSet::new(),
            stops: BTreeSet::new(),
            is_shut_down: false,
            has_served: false,
            reached: Reached::default(),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Want(millis) => {
                let caller = self.number();
                let deadline = self.now + Duration::from_millis(millis.into());
                self.callers.insert(caller, deadline);
                self.handle(Input::Wanted { caller, deadline });
            }
            Step::Attach => {
                let symbol = u32::try_from(self.number()).unwrap();
                self.attached.insert(symbol);
                self.handle(Input::Attached(symbol));
            }
            Step::Detach(which) => {
                let count = self.attached.len().max(1);
                let Some(symbol) = self.attached.iter().nth(usize::from(which) % count).copied() else { return };
                self.attached.remove(&symbol);
                self.handle(Input::Detached(symbol));
            }
            Step::Die => {
                if let Some(process) = self.processes.values_mut().find(|process| !process.is_dead) {
                    process.is_dead = true;
                }
            }
            Step::Report(which) => {
                let ended: Vec<_> = self.unreported();
                let Some(generation) = ended.get(usize::from(which) % ended.len().max(1)).copied() else { return };
                self.report(generation);
            }
            Step::Work(fate) => self.do_work(fate),
            Step::Update => {
                let update = self.number();
                self.updates.insert(update, Stage::Turn);
                self.handle(Input::UpdateWanted { update, deadline: self.now + PATIENCE });
            }
            Step::GoOn => {
                let going = self.updates.iter().find(|(_, stage)| !matches!(stage, Stage::Turn | Stage::Outcome));
                match going.map(|(update, stage)| (*update, *stage)) {
                    Some((update, Stage::HasTurn)) => {
                        self.updates.insert(update, Stage::Outcome);
                        self.handle(Input::UpdateBegun { update });
                    }
                    Some((update, _)) => {
                        self.updates.remove(&update);
                        self.handle(Input::UpdateDone { update });
                    }
                    None => {}
                }
            }
            Step::GiveUp => self.handle(Input::GivenUp),
            Step::Stop => {
                let stop = self.number();
                self.stops.insert(stop);
                self.handle(Input::StopWanted { stop });
            }
            Step::Reset => {
                self.handle(Input::Reset);
                let is_told = self.life.state() != PluginState::BackingOff || self.life.since() == self.now;
                assert!(is_told, "a reset is not seen");
            }
            Step::Remove => {
                self.is_shut_down = true;
                self.handle(Input::Removed);
            }
            Step::Shutdown => {
                self.is_shut_down = true;
                self.handle(Input::Shutdown);
            }
            Step::Pass(millis) => self.pass(Duration::from_millis(millis.into())),
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.life.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.handle(Input::TimePassed);
            let next = self.life.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "what was due at {due:?} is still due");
        }
        self.now = until;
    }

    fn unreported(&self) -> Vec<u64> {
        let ended = self.processes.iter().filter(|(_, process)| process.is_dead && !process.is_reported);
        ended.map(|(generation, _)| *generation).collect()
    }

    fn report(&mut self, generation: u64) {
        self.processes.get_mut(&generation).unwrap().is_reported = true;
        self.handle(Input::Exited { generation, exit: exit() });
    }

    fn handle(&mut self, input: Input<u32>) {
        self.life.handle(input, self.now, 0.5);
        while let Some(action) = self.life.poll_action() {
            self.carry_out(action);
        }
        self.check();
    }

    fn carry_out(&mut self, action: Action<u32>) {
        match action {
            Action::Work(work) => {
                if let Work::Restore { symbols, is_strict, .. } = &work {
                    let symbols: BTreeSet<_> = symbols.iter().copied().collect();
                    assert!(symbols.is_subset(&self.attached), "a symbol is restored that is not in use");
                    if *is_strict || self.life.state() != PluginState::Running {
                        assert_eq!(symbols, self.attached, "all that is in use is restored, and nothing else");
                    }
                }
                if self.is_shut_down {
                    let is_start = matches!(work, Work::Spawn { .. } | Work::Try { .. } | Work::Restore { .. });
                    assert!(!is_start, "{work:?} after the end");
                }
                self.ordered.push_back(work);
            }
            Action::Kill { generation } => {
                let process = self.processes.entry(generation).or_default();
                process.is_killed = true;
                if !matches!(self.begun, Some(Work::Spawn { .. })) {
                    process.is_dead = true;
                }
                self.reached.note("killed");
            }
            Action::EndStart => match self.begun {
                Some(Work::Spawn { .. }) => {
                    self.is_start_over = true;
                    self.reached.note("start given up");
                }
                _ => assert!(matches!(self.ordered.front(), Some(Work::Spawn { .. })), "a start is under way"),
            },
            Action::EndTrial => self.is_trial_over = true,
            Action::Answer { caller, outcome } => {
                self.callers.remove(&caller).expect("a caller is answered once");
                if let Ok(generation) = outcome {
                    assert_eq!(Some(generation), self.life.serving(), "who is sent to a process finds it serving");
                    self.has_served = true;
                    let process = &self.processes[&generation];
                    let others = self.processes.iter().filter(|(other, _)| **other != generation);
                    assert!(others.into_iter().all(|(_, other)| other.is_dead), "one process at a time");
                    self.reached.note(if process.is_dead { "served by a dead process" } else { "served" });
                } else {
                    self.reached.note("not served");
                }
            }
            Action::HasStopped { stop, outcome } => {
                assert!(self.stops.remove(&stop), "a stop is answered once");
                assert!(outcome.is_err() || self.alive() == 0, "a stop has ended the process");
                self.has_served &= outcome.is_err();
                self.reached.note(if outcome.is_ok() { "stopped" } else { "not stopped" });
            }
            Action::Turn { update, outcome } => {
                let stage = self.updates.insert(update, Stage::HasTurn);
                assert_eq!(stage, Some(Stage::Turn), "a turn is given once");
                let others = self.updates.iter().filter(|(other, stage)| **other != update && **stage != Stage::Turn);
                if outcome.is_ok() {
                    assert_eq!(others.count(), 0, "one update at a time");
                } else {
                    self.updates.remove(&update);
                }
            }
            Action::Adopt { update } => {
                self.adopted.insert(update);
            }
            Action::Updated { update, outcome } => {
                let stage = self.updates.insert(update, Stage::HasOutcome);
                assert_eq!(stage, Some(Stage::Outcome), "an update is answered once");
                assert_eq!(outcome.is_ok(), self.adopted.contains(&update), "a package is adopted with success alone");
                self.reached.note(if outcome.is_ok() { "updated" } else { "not updated" });
            }
            Action::Tell(event) => self.reached.note(match event {
                EventKind::Crashed { .. } => "crashed",
                EventKind::Broken { .. } => "broken",
                EventKind::Restored { .. } => "restored",
                EventKind::Shortage { .. } => "short",
                _ => "told",
            }),
            Action::Wake => {}
        }
    }

    /// Asserts what holds after every input.
    fn check(&mut self) {
        if self.life.state() == PluginState::Idle {
            self.has_served = false;
        }
        let is_working = self.begun.is_some() || !self.ordered.is_empty();
        let timeout = self.life.poll_timeout();
        match self.life.state() {
            PluginState::Starting | PluginState::Updating | PluginState::Stopping => {
                assert!(is_working, "nobody goes on")
            }
            PluginState::BackingOff | PluginState::Broken => assert!(is_working || timeout.is_some(), "nobody goes on"),
            PluginState::Idle => assert!(is_working || self.callers.is_empty(), "nobody starts it"),
            PluginState::Running => assert!(self.callers.is_empty(), "nobody waits for what is there"),
            PluginState::Stopped => {}
        }
        let crashes = self.reached.0.get("crashed").copied().unwrap_or_default();
        assert_eq!(self.life.crash_count(), u64::from(crashes), "each crash is told and counted");
        assert!(crashes == 0 || self.life.last_error().is_some(), "a crash is an error");
        let overdue = self.callers.values().find(|deadline| **deadline <= self.now);
        let is_first_start = matches!(self.life.state(), PluginState::Idle | PluginState::Starting) && !self.has_served;
        assert!(overdue.is_none() || is_first_start, "a caller waits longer than its deadline");
    }

    fn alive(&self) -> usize {
        self.processes.values().filter(|process| !process.is_dead).count()
    }

    fn do_work(&mut self, fate: Fate) {
        let Some(work) = self.begun.clone() else {
            let Some(work) = self.ordered.pop_front() else { return };
            return self.begin(work);
        };
        match work {
            Work::Spawn { generation, .. } => self.finish_spawn(generation, fate),
            Work::Restore { generation, symbols, is_strict } => {
                self.finish_restore(generation, symbols, is_strict, fate);
            }
            Work::Drain { generation, .. } => {
                self.processes.get_mut(&generation).unwrap().is_dead = true;
                self.answer(Input::Drained { generation });
            }
            Work::Stop { generation, is_alive, symbols } => {
                if is_alive {
                    self.processes.get_mut(&generation).unwrap().is_dead = true;
                }
                assert_eq!(self.alive(), 0, "a stop ends the process");
                self.attached.retain(|symbol| !symbols.contains(symbol));
                self.answer(Input::Drained { generation });
            }
            Work::Try { update } => {
                let is_over = std::mem::take(&mut self.is_trial_over);
                let outcome = if fate == Fate::Succeeds && !is_over { Ok(()) } else { Err(failure()) };
                self.answer(Input::Tried { update, outcome });
            }
            Work::Retire { generation } => self.answer(Input::Retired { generation }),
        }
    }

    /// Reports how the work in progress has ended.
    fn answer(&mut self, input: Input<u32>) {
        self.begun = None;
        self.handle(input);
    }

    fn begin(&mut self, work: Work<u32>) {
        match &work {
            Work::Spawn { generation, version } => {
                assert_eq!(self.alive(), 0, "one process at a time");
                if let Version::Update(update) = version
                    && !self.is_shut_down
                {
                    assert_eq!(self.updates.get(update), Some(&Stage::Outcome), "whose version is it?");
                }
                let process = self.processes.entry(*generation).or_default();
                process.is_dead = process.is_killed;
                self.is_start_over = false;
            }
            Work::Try { .. } => self.is_trial_over = false,
            Work::Retire { generation } => {
                assert!(self.processes[generation].is_dead, "what is retired has ended");
            }
            Work::Restore { .. } | Work::Drain { .. } | Work::Stop { .. } => {}
        }
        self.begun = Some(work);
    }

    fn finish_spawn(&mut self, generation: u64, fate: Fate) {
        let process = self.processes.get_mut(&generation).unwrap();
        if process.is_killed || self.is_start_over {
            (process.is_dead, process.is_reported) = (true, true);
            return self.answer(Input::StartFailed { generation, error: Error::Stopped });
        }
        let error = match fate {
            Fate::Succeeds => {
                // The process may have ended since its handshake, and the end
                // been reported.
                return self.answer(Input::Started { generation, pid: 7 });
            }
            Fate::Fails => failure(),
            Fate::IsShort => shortage(),
            Fate::Dies => Error::EarlyExit { plugin: "p".into(), exit: exit(), hint: String::new() },
        };
        process.is_dead = true;
        self.answer(Input::StartFailed { generation, error });
    }

    fn finish_restore(&mut self, generation: u64, symbols: Vec<u32>, is_strict: bool, fate: Fate) {
        let process = self.processes.get_mut(&generation).unwrap();
        process.is_dead |= fate == Fate::Dies;
        // A work in progress ends with its process, whose end is known then.
        let has_ended = process.is_dead;
        if has_ended && !process.is_reported {
            self.report(generation);
        }
        let fails = has_ended || fate != Fate::Succeeds;
        if is_strict && fails {
            return self.answer(Input::RestoreFailed { generation, error: failure() });
        }
        let postponed = if fails && !has_ended { symbols.iter().copied().take(1).collect() } else { Vec::new() };
        let restored = symbols.iter().copied().filter(|symbol| !postponed.contains(symbol) && !has_ended);
        let process = self.processes.get_mut(&generation).unwrap();
        process.restored.extend(restored);
        if !postponed.is_empty() {
            self.reached.note("postponed");
        }
        self.answer(Input::Restored { generation, symbols: process_count(&symbols, &postponed), postponed });
    }

    /// Lets everything end without further disturbance.
    fn settle(&mut self) {
        for _ in 0..20 {
            for generation in self.unreported() {
                self.report(generation);
            }
            while self.begun.is_some() || !self.ordered.is_empty() {
                self.do_work(Fate::Succeeds);
                for generation in self.unreported() {
                    self.report(generation);
                }
            }
            while self.updates.values().any(|stage| matches!(stage, Stage::HasTurn | Stage::HasOutcome)) {
                self.apply(Step::GoOn);
            }
            self.pass(Duration::from_secs(10));
        }
    }

    /// Asserts what holds once nothing disturbs the lifecycle any more.
    fn end(mut self) -> Reached {
        self.settle();
        assert!(self.callers.is_empty() && self.updates.is_empty() && self.stops.is_empty(), "somebody still waits");
        if !self.is_shut_down {
            self.apply(Step::Want(60_000));
            self.settle();
            let generation = self.life.serving().expect("a good plugin serves again");
            let process = &self.processes[&generation];
            assert!(!process.is_dead);
            if generation > 1 && process.restored.len() < self.attached.len() {
                // Symbols attached later are opened by their callers.
                self.reached.note("attached later");
            }
            self.apply(Step::Want(1));
            self.apply(Step::Shutdown);
            self.settle();
        }
        assert!(self.life.is_over(), "it ends: {:?}", self.life);
        assert_eq!(self.alive(), 0, "nothing is left running");
        assert!(self.callers.is_empty(), "nobody waits for what has ended");
        assert_eq!(self.life.poll_timeout(), None);
        self.reached
    }
}

fn process_count(symbols: &[u32], postponed: &[u32]) -> usize {
    symbols.len() - postponed.len()
}

/// At most one process serves; exactly the symbols in use are restored; every
/// caller is answered once, by its deadline; nothing is left running. The world
/// asserts that at every step.
#[test]
fn a_plugin_lives_as_promised_whatever_happens_in_whatever_order() {
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |_| Config::default().cases);
    let config = Config { failure_persistence: None, cases, max_shrink_iters: 4000, ..Config::default() };
    let reached = RefCell::new(Reached::default());
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 0..150), |steps| {
            let mut world = World::new();
            steps.into_iter().for_each(|step| world.apply(step));
            for (what, count) in world.end().0 {
                *reached.borrow_mut().0.entry(what).or_default() += count;
            }
            Ok(())
        })
        .unwrap();
    // A property of events that never occur would prove nothing.
    let expected = [
        "served",
        "not served",
        "served by a dead process",
        "crashed",
        "broken",
        "restored",
        "short",
        "killed",
        "start given up",
        "updated",
        "not updated",
        "postponed",
        "stopped",
        "attached later",
    ];
    let reached = reached.into_inner().0;
    let missing: Vec<_> = expected.iter().filter(|what| !reached.contains_key(**what)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?} in {reached:?}");
}
