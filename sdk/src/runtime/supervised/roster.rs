//! The live symbols, and the worker's next command. A pure state machine,
//! without clock, socket or process: its caller passes events and instants.
//!
//! A symbol is live from the answer `ok` to its start until the engine stops
//! it or it ends by itself; a worker's death does not change that. Each
//! command of the engine has one answer; while the engine waits for it, it
//! sends no other.

use std::time::{Duration, Instant};

use ekuiper_core::instant::later;
use ekuiper_core::message::{ANSWER_OK, Command, CommandKind, Meta, SymbolKind};

use crate::runtime::command::{Key, key, title};

/// The delay before the first retry of a symbol that could not be restored; it
/// doubles with each retry.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest delay between retries.
const MAX_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Roster {
    live: Vec<Entry>,
    /// The engine's command that was not sent to the worker yet.
    waiting: Option<EngineCommand>,
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    /// The engine's start command.
    start: Vec<u8>,
    state: EntryState,
}

#[derive(Clone, Copy, Debug)]
enum EntryState {
    /// The symbol runs, with this launch number of the worker.
    Runs(u64),
    /// The symbol does not run in this worker; restoring it is not tried before
    /// `at`.
    Missing { at: Instant, pause: Duration },
}

/// A command of the engine.
#[derive(Debug)]
struct EngineCommand {
    bytes: Vec<u8>,
    /// `None` if the command cannot be decoded: the worker's answer says why.
    what: Option<(CommandKind, Key)>,
}

#[derive(Debug)]
struct InFlight {
    what: Task,
    /// Launches that ended meanwhile, possibly the one in flight.
    over: Vec<u64>,
}

#[derive(Debug)]
enum Task {
    Engine(EngineCommand),
    Again(Key),
}

/// A command for the worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) command: Vec<u8>,
    /// Whether the command restores a symbol of a previous worker.
    pub(super) again: bool,
}

impl Roster {
    /// Handles a command from the engine, and returns its answer if that needs
    /// no worker.
    pub(super) fn command(&mut self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let what = Command::decode(&bytes).ok().map(|command| (command.kind, key(&command.control)));
        self.waiting = Some(EngineCommand { bytes, what });
        self.answer_stop()
    }

    /// Answers a stop of a symbol that runs in no worker, and forgets the
    /// symbol.
    fn answer_stop(&mut self) -> Option<Vec<u8>> {
        let told = self.waiting.as_ref()?;
        let Some((CommandKind::Stop, key)) = &told.what else { return None };
        let place = self.missing(key).filter(|_| key.0 != SymbolKind::Function)?;
        if matches!(&self.in_flight, Some(InFlight { what: Task::Again(other), .. }) if other == key) {
            return None;
        }
        self.live.remove(place);
        self.waiting = None;
        Some(ANSWER_OK.to_vec())
    }

    /// The next command for the worker. Live symbols are restored before the
    /// engine's command is executed, which may take long.
    pub(super) fn next(&mut self, now: Instant) -> Option<Order> {
        if self.in_flight.is_some() {
            return None;
        }
        // Sinks before sources, so that data is received; functions first, since
        // calls may be waiting.
        let order = [SymbolKind::Function, SymbolKind::Sink, SymbolKind::Source];
        let due = |entry: &Entry| matches!(entry.state, EntryState::Missing { at, .. } if at <= now);
        let due = |kind: &SymbolKind| self.live.iter().position(|entry| entry.key.0 == *kind && due(entry));
        if let Some(place) = order.iter().find_map(due) {
            return Some(self.again(place));
        }
        // A second start of a live symbol restores that symbol.
        if let Some((CommandKind::Start, key)) = self.waiting.as_ref().and_then(|told| told.what.as_ref())
            && let Some(place) = self.missing(key)
        {
            return Some(self.again(place));
        }
        let told = self.waiting.take()?;
        let command = told.bytes.clone();
        self.begin(Task::Engine(told));
        Some(Order { command, again: false })
    }

    fn again(&mut self, place: usize) -> Order {
        let entry = &self.live[place];
        let (key, command) = (entry.key.clone(), entry.start.clone());
        self.begin(Task::Again(key));
        Order { command, again: true }
    }

    fn begin(&mut self, what: Task) {
        self.in_flight = Some(InFlight { what, over: Vec::new() });
    }

    /// Handles a command that could not be sent: it is kept for the next worker.
    pub(super) fn not_told(&mut self) {
        if let Some(InFlight { what: Task::Engine(told), .. }) = self.in_flight.take() {
            self.waiting = Some(told);
        }
    }

    /// The time at which the next restore is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let missing = self.live.iter().filter_map(|entry| match entry.state {
            EntryState::Missing { at, .. } => Some(at),
            EntryState::Runs(_) => None,
        });
        missing.min().filter(|_| self.in_flight.is_none())
    }

    /// Handles the worker's answer, and returns the answer for the engine.
    pub(super) fn answered(&mut self, launch: u64, answer: Vec<u8>, now: Instant) -> Option<Vec<u8>> {
        let InFlight { what, over } = self.in_flight.take()?;
        let ok = answer == ANSWER_OK;
        let over = over.contains(&launch);
        match what {
            Task::Engine(EngineCommand { bytes, what }) => {
                match what {
                    Some((CommandKind::Start, key)) if ok => self.started(key, bytes, launch, over),
                    Some((CommandKind::Stop, key)) => self.forget(&key),
                    _ => {}
                }
                Some(answer)
            }
            Task::Again(key) => {
                let place = self.place(&key)?;
                let entry = &mut self.live[place];
                if ok && over {
                    self.live.remove(place);
                } else if ok {
                    entry.state = EntryState::Runs(launch);
                } else {
                    let pause = match entry.state {
                        EntryState::Missing { pause, .. } => pause,
                        EntryState::Runs(_) => FIRST_PAUSE,
                    };
                    let error = String::from_utf8_lossy(&answer);
                    tracing::error!(%error, "{} could not be restarted, next attempt in {pause:?}", title(&key));
                    entry.state = EntryState::Missing { at: later(now, pause), pause: (pause * 2).min(MAX_PAUSE) };
                }
                None
            }
        }
    }

    fn started(&mut self, key: Key, start: Vec<u8>, launch: u64, over: bool) {
        match self.place(&key) {
            // An engine starts a function for each rule that uses it.
            Some(place) if launch == 0 => self.live[place].start = start,
            place => {
                place.map(|place| self.live.remove(place));
                if !over {
                    self.live.push(Entry { key, start, state: EntryState::Runs(launch) });
                }
            }
        }
    }

    /// Handles the end of a symbol that has ended by itself or was stopped.
    pub(super) fn over(&mut self, launch: u64) {
        self.live.retain(|entry| !matches!(entry.state, EntryState::Runs(of) if of == launch));
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.over.push(launch);
        }
    }

    /// Handles the worker's death. Returns the answer for the engine, if it
    /// waits, and the sink that is no longer live, if there is one.
    pub(super) fn worker_died(&mut self, how: &str, now: Instant) -> (Option<Vec<u8>>, Option<Meta>) {
        for entry in &mut self.live {
            entry.state = EntryState::Missing { at: now, pause: FIRST_PAUSE };
        }
        let Some(InFlight { what: Task::Engine(EngineCommand { what, .. }), .. }) = self.in_flight.take() else {
            let sink = self.waiting.as_ref().and_then(|told| told.what.clone()).map(|(_, key)| key);
            let answer = self.answer_stop();
            return (answer, sink.and_then(|key| self.gone_sink(key)));
        };
        let Some((kind, key)) = what else {
            return (Some(format!("the plugin's worker ended ({how}) during this command").into_bytes()), None);
        };
        if kind == CommandKind::Stop {
            self.forget(&key);
        }
        let text = format!("the plugin's worker ended ({how}) during the {kind} of {}", title(&key));
        (Some(text.into_bytes()), self.gone_sink(key))
    }

    /// The instance of a symbol, if it is a sink that is not live.
    fn gone_sink(&self, key: Key) -> Option<Meta> {
        (key.0 == SymbolKind::Sink && self.place(&key).is_none()).then_some(key.2)
    }

    /// All live sinks.
    pub(super) fn sinks(&self) -> impl Iterator<Item = &Meta> {
        self.live.iter().filter(|entry| entry.key.0 == SymbolKind::Sink).map(|entry| &entry.key.2)
    }

    /// The number of live symbols.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Removes a symbol whose stop was answered, or whose worker died during the
    /// stop.
    fn forget(&mut self, key: &Key) {
        // Function channels live as long as the host.
        if key.0 != SymbolKind::Function
            && let Some(place) = self.place(key)
        {
            self.live.remove(place);
        }
    }

    fn place(&self, key: &Key) -> Option<usize> {
        self.live.iter().position(|entry| entry.key == *key)
    }

    /// The index of a symbol that is live and does not run.
    fn missing(&self, key: &Key) -> Option<usize> {
        self.place(key).filter(|place| matches!(self.live[*place].state, EntryState::Missing { .. }))
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
