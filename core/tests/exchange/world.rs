//! A model of one channel and all its processes, driven by a script, with the
//! invariants that hold at every step.

use std::collections::BTreeMap;

use ekuiper_core::exchange::Arrival;
use ekuiper_core::transport::ConnectionId;

use crate::host::{Host, Outcome, Told};
use crate::plugin::Process;
use crate::wire::Wire;

/// One step of a script. A number selects one of the existing processes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A process starts, in addition to those that live.
    Spawn { official: bool },
    /// A process performs its next action.
    Run(u8),
    /// A process of an official SDK repeats its handshake.
    Keepalive(u8),
    /// A process's socket repeats its latest request.
    Repeat(u8),
    /// A process's connection ends, with or without losing what it sent last.
    Break { process: u8, lose: bool },
    /// A process dies.
    Kill { process: u8, lose: bool },
    /// A stranger, which is not a plugin, connects, or sends more.
    Stranger { stranger: u8, words: usize },
    /// A stranger disconnects.
    StrangerLeaves(u8),
    /// An item in flight arrives at the host's socket.
    Arrive(u8),
    /// The host handles the oldest item.
    Tend,
    /// A caller has a command for the plugin.
    Call,
    /// The caller gives up.
    GiveUp,
    /// The next command cannot be sent in time.
    FailNextSend,
}

/// The messages of strangers, after a request id: never a handshake.
const WORDS: [&[u8]; 4] = [b"ok", b"", b"handshake ", b"handshakes:1:1"];

#[derive(Default)]
pub(crate) struct World {
    host: Host,
    wire: Wire,
    processes: Vec<Process>,
    generations: u32,
    strangers: Vec<ConnectionId>,
    commands: u32,
    executed: BTreeMap<u32, u32>,
    outcomes: BTreeMap<u32, Outcome>,
    pub(crate) reached: Reached,
}

/// The number of times that each thing happened.
#[derive(Debug, Default)]
pub(crate) struct Reached(BTreeMap<&'static str, u32>);

impl Reached {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn assert_all(&self) {
        let all = ["answered", "not sent", "timed out", "unknown", "send again", "stale", "rival", "garbage"];
        let missing: Vec<_> = all.iter().filter(|what| !self.0.contains_key(**what)).collect();
        assert!(missing.is_empty(), "never seen: {missing:?}");
    }
}

fn choose<T>(all: &mut [T], which: u8) -> Option<&mut T> {
    let count = all.len();
    all.get_mut(usize::from(which) % count.max(1))
}

impl World {
    pub(crate) fn new(reads_ahead: bool) -> Self {
        let mut world = Self::default();
        world.wire.reads_ahead = reads_ahead;
        world
    }

    pub(crate) fn apply(&mut self, step: Step) {
        match step {
            Step::Spawn { official } => {
                self.generations += 1;
                self.processes.push(Process::new(self.generations, official));
            }
            Step::Run(which) => {
                let ran = choose(&mut self.processes, which).and_then(|process| process.run(&mut self.wire));
                if let Some(command) = ran {
                    self.executed(command);
                }
            }
            Step::Keepalive(which) => {
                if let Some(process) = choose(&mut self.processes, which) {
                    process.keepalive(&mut self.wire);
                }
            }
            Step::Repeat(which) => {
                if let Some(process) = choose(&mut self.processes, which) {
                    process.repeat(&mut self.wire);
                }
            }
            Step::Break { process, lose } => {
                if let Some(process) = choose(&mut self.processes, process) {
                    process.disconnect(&mut self.wire, lose);
                }
            }
            Step::Kill { process, lose } => {
                if !self.processes.is_empty() {
                    let mut dead = self.processes.remove(usize::from(process) % self.processes.len());
                    dead.disconnect(&mut self.wire, lose);
                }
            }
            Step::Stranger { stranger, words } => self.stranger(stranger, WORDS[words]),
            Step::StrangerLeaves(which) => {
                if !self.strangers.is_empty() {
                    let gone = self.strangers.remove(usize::from(which) % self.strangers.len());
                    self.wire.close(gone, false);
                }
            }
            Step::Arrive(which) => {
                self.wire.arrive(which);
            }
            Step::Tend => {
                self.tend();
            }
            Step::Call => self.call(),
            Step::GiveUp => {
                let told = self.host.give_up();
                self.told(told);
            }
            Step::FailNextSend => self.wire.fail_next_send = true,
        }
    }

    fn stranger(&mut self, which: u8, words: &[u8]) {
        if which < 128 || self.strangers.is_empty() {
            self.strangers.push(self.wire.connect());
        }
        if let Some(connection) = choose(&mut self.strangers, which) {
            self.wire.send_to_host(*connection, &[&0x8000_0001u32.to_be_bytes(), words].concat());
        }
    }

    /// Handles all queued events first, like the host's channel.
    fn call(&mut self) {
        if !self.host.is_idle() {
            return;
        }
        while self.tend() {}
        self.commands += 1;
        let told = self.host.call(self.commands, &mut self.wire);
        self.told(told);
    }

    fn tend(&mut self) -> bool {
        match self.host.tend(&mut self.wire) {
            None => false,
            Some(told) => {
                told.into_iter().for_each(|told| self.told(told));
                true
            }
        }
    }

    fn executed(&mut self, command: u32) {
        let times = self.executed.entry(command).or_default();
        *times += 1;
        assert_eq!(*times, 1, "command {command} is executed once");
        let outcome = self.outcomes.get(&command);
        assert_ne!(outcome, Some(&Outcome::NotSent), "command {command} was reported as not sent");
    }

    fn told(&mut self, told: Told) {
        let (command, outcome) = match told {
            Told::Nothing => return,
            Told::Arrival(arrival) => {
                return match arrival {
                    Arrival::SendAgain => self.reached.note("send again"),
                    Arrival::Stale => self.reached.note("stale"),
                    Arrival::Rival => self.reached.note("rival"),
                    Arrival::Garbage => self.reached.note("garbage"),
                    Arrival::Handshake | Arrival::Answer => {}
                };
            }
            Told::Done(command, outcome) => (command, outcome),
        };
        let times = self.executed.get(&command).copied().unwrap_or(0);
        match outcome {
            Outcome::Answered(answered) => {
                assert_eq!(answered, command, "the answer to another command");
                assert_eq!(times, 1, "command {command} was answered, so it was executed");
                self.reached.note("answered");
            }
            Outcome::NotSent => {
                assert_eq!(times, 0, "command {command} was executed, and is reported as not sent");
                self.reached.note("not sent");
            }
            Outcome::TimedOut => self.reached.note("timed out"),
            Outcome::Unknown => self.reached.note("unknown"),
        }
        assert_eq!(self.outcomes.insert(command, outcome), None, "one outcome for command {command}");
    }

    /// Lets every process continue for a while, and delivers all data in
    /// flight.
    pub(crate) fn let_everything_arrive(&mut self) {
        for _ in 0..10 {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        for process in 0..self.processes.len() as u8 {
            self.apply(Step::Run(process));
        }
        while self.wire.arrive(0) {}
        while self.tend() {}
    }

    pub(crate) fn kill_everybody(&mut self) {
        while !self.processes.is_empty() {
            self.apply(Step::Kill { process: 0, lose: false });
        }
        while !self.strangers.is_empty() {
            self.apply(Step::StrangerLeaves(0));
        }
    }

    /// Asserts that a plugin is connected and answers the next command.
    pub(crate) fn must_answer_a_command(&mut self) {
        self.wire.fail_next_send = false;
        if self.processes.is_empty() {
            self.apply(Step::Spawn { official: true });
        }
        // Keepalives come only after everything else has continued for long: an
        // official plugin whose connection broke sends its handshake again with
        // its next keepalive.
        for round in 0..60 {
            self.go_on();
            if round % 20 == 18 {
                (0..self.processes.len() as u8).for_each(|process| self.apply(Step::Keepalive(process)));
            }
        }
        assert!(self.host.is_idle(), "stuck with an earlier command");
        self.call();
        let command = self.commands;
        for _ in 0..20 {
            self.go_on();
        }
        assert_eq!(self.outcomes.get(&command), Some(&Outcome::Answered(command)), "stuck");
    }
}
