//! Starting the plugin, and trying each of its symbols, as an engine would.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ekuiper_core::description::{Description, FunctionDescription};
use ekuiper_core::message::SymbolKind;
use ekuiper_core::{Chain, printable};
use ekuiper_host::{Error as HostError, Event, EventKind, Function, Host, Package, Sink, Source};
use serde_json::{Map, Value};

use super::report::{Area, Level, Report};
use super::{engine_files, samples};
use crate::check::leftovers::Leftovers;
use crate::error::excerpt;
use crate::process_state;
use crate::session::Session;

/// Maximum time until the host tells of the end of a process.
const TOLD: Duration = Duration::from_secs(10);

/// Maximum number of arguments of a function that does not describe itself.
const MOST_ARGUMENTS: usize = 3;

/// How often sources and sinks are started and stopped.
const ROUNDS: usize = 2;

/// Texts by which a symbol says that it misses a service that is elsewhere.
const SERVICE_MISSING: [&str; 14] = [
    "connection refused",
    "no route to host",
    "network is unreachable",
    "host is unreachable",
    "host unreachable",
    "name or service not known",
    "temporary failure in name resolution",
    "no such host",
    "failed to lookup address",
    "nodename nor servname",
    "connection reset",
    "connection timed out",
    "could not connect",
    "cannot connect",
];

/// What is wanted of a trial.
pub(super) struct Wanted {
    /// How long a source has time for its first tuple.
    pub(super) try_for: Duration,
    /// Configurations that the user gives, by symbol.
    pub(super) configs: BTreeMap<String, Value>,
    /// Why this machine may be none that starts the program.
    pub(super) elsewhere: Option<String>,
}

/// A plugin that is tried.
pub(super) struct Trial<'a> {
    session: &'a Session,
    package: &'a Package,
    described: Option<&'a Description>,
    wanted: &'a Wanted,
    events: Receiver<Event>,
    leftovers: Leftovers,
    rule: String,
}

/// Starts the plugin and tries it. The session has nothing else.
pub(super) fn run(
    session: &Session,
    package: &Package,
    described: Option<&Description>,
    wanted: &Wanted,
    report: &mut Report,
) {
    let rule = format!("check{}", std::process::id());
    let events = session.host.events();
    let leftovers = Leftovers::before_start();
    let mut trial = Trial { session, package, described, wanted, events, leftovers, rule };
    if trial.start(report) {
        trial.try_symbols(report);
        if !session.interrupt.is_set() {
            trial.end(report);
        }
    }
    session.host.shutdown();
    let Trial { leftovers, rule, .. } = trial;
    leftovers.report(&package.name, &package.manifest.functions, &rule, report);
}

impl Trial<'_> {
    fn host(&self) -> &Host {
        &self.session.host
    }

    fn start(&self, report: &mut Report) -> bool {
        let since = Instant::now();
        match self.host().start(&self.package.name) {
            Ok(()) => {
                let time = since.elapsed().as_millis();
                let sdk = self.described.map_or(String::new(), |description| {
                    format!("; SDK {} {}", description.sdk.name, description.sdk.version)
                });
                report.fact(Area::Start, printable::excerpt(&format!("handshake after {time} ms{sdk}")));
                true
            }
            Err(error) => {
                if let Some(reason) = &self.wanted.elsewhere {
                    let text = format!("was not started: {reason} ({})", Chain(&error));
                    report.note(Area::Start, &self.package.name, text, "check it there");
                    return false;
                }
                let advice = match error {
                    HostError::NoHandshake { .. } => {
                        "call the SDK's run or start with the plugin's name, which is the manifest's"
                    }
                    _ => "",
                };
                report.error(Area::Start, &self.package.name, Chain(&error).to_string(), advice);
                false
            }
        }
    }

    fn try_symbols(&mut self, report: &mut Report) {
        let mut good: HashMap<SymbolKind, usize> = HashMap::new();
        let functions_first = [SymbolKind::Function, SymbolKind::Source, SymbolKind::Sink];
        for kind in functions_first {
            for symbol in self.package.manifest.symbols(kind) {
                if self.session.interrupt.is_set() {
                    return;
                }
                // Its absence was reported already.
                if self.described.is_some_and(|description| !description.names(kind).contains(&symbol.as_str())) {
                    continue;
                }
                let before = report.problems();
                let process = self.host().pid(&self.package.name);
                let is_tried = match kind {
                    SymbolKind::Function => {
                        self.try_function(symbol, report);
                        true
                    }
                    SymbolKind::Source => self.try_source(symbol, report),
                    SymbolKind::Sink => self.try_sink(symbol, report),
                };
                self.leftovers.look(self.host().pid(&self.package.name));
                self.tell_crashes(kind, symbol, process, before < report.problems(), report);
                *good.entry(kind).or_default() += usize::from(is_tried && before == report.problems());
            }
        }
        let words = functions_first.iter().filter_map(|kind| {
            let all = self.package.manifest.symbols(*kind).len();
            let good = good.get(kind).copied().unwrap_or(0);
            (all > 0).then(|| format!("{good} of {}", super::counted_symbols(*kind, all)))
        });
        report.fact(Area::Symbols, format!("{} tried and found good", words.collect::<Vec<_>>().join(", ")));
    }

    /// Reports crashes that no other finding tells of. The end of the process
    /// that a symbol was tried with may be told later than its outcome, and is
    /// not that of the next symbol.
    fn tell_crashes(&self, kind: SymbolKind, symbol: &str, process: Option<u32>, is_told: bool, report: &mut Report) {
        let give_up = Instant::now() + TOLD;
        let mut last = None;
        loop {
            let is_awaited = last.is_none() && process.is_some_and(has_ended);
            let left = give_up.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(if is_awaited { left } else { Duration::ZERO }) {
                Ok(event) if matches!(event.kind, EventKind::Crashed { .. }) => last = Some(event),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if let Some(crash) = last.filter(|_| !is_told) {
            let text = format!("the plugin crashed meanwhile: {crash}");
            report.error(Area::Symbols, &format!("{kind} {symbol}"), text, "");
        }
    }

    /// Stops the plugin as an engine does, when it removes it.
    fn end(&self, report: &mut Report) {
        if let Err(error) = self.host().stop(&self.package.name) {
            let text = format!("does not end in order: {}", Chain(&error));
            report.warning(Area::End, &self.package.name, text, "end at SIGTERM");
        }
    }

    fn try_function(&self, symbol: &str, report: &mut Report) {
        let subject = format!("function {symbol}");
        let described = self
            .described
            .and_then(|description| description.functions.iter().find(|function| function.name == symbol));
        let asked = self.host().function(symbol).and_then(|function| Ok((function.is_aggregate()?, function)));
        let (is_aggregate, function) = match asked {
            Ok(asked) => asked,
            Err(error) => return failed(&subject, "cannot be asked whether it is an aggregate", &error, report),
        };
        if let Some(described) = described.filter(|function| function.aggregate != is_aggregate) {
            let (says, answers) = match described.aggregate {
                true => ("an aggregate", "that it is none"),
                false => ("no aggregate", "that it is one"),
            };
            let text = format!("describes itself as {says}, and answers {answers}");
            report.error(Area::Symbols, &subject, text, "let both say the same");
        }
        match described.filter(|function| !samples::is_unknown(function)) {
            Some(described) => try_described(&subject, &function, described, report),
            None => try_undescribed(&subject, &function, is_aggregate, report),
        }
    }

    /// The configuration to try a source or sink with, and whether it was
    /// given; `None` if a field that it must have is missing, which is
    /// reported.
    fn config(&self, kind: SymbolKind, symbol: &str, report: &mut Report) -> Option<(Map<String, Value>, bool)> {
        let mut config = match kind {
            SymbolKind::Source => engine_files::default_configuration(self.package, symbol).unwrap_or_default(),
            _ => Map::new(),
        };
        let given = self.wanted.configs.get(symbol).and_then(Value::as_object);
        config.extend(given.cloned().unwrap_or_default());
        let fields = self.described.and_then(|description| description.config(kind, symbol));
        let missing = fields.and_then(|fields| {
            fields
                .fields
                .iter()
                .find(|field| !field.optional && field.default.is_none() && !config.contains_key(&field.name))
        });
        let Some(missing) = missing else { return Some((config, given.is_some())) };
        let subject = format!("{kind} {symbol}");
        let advice = format!("--config '{symbol}={{{:?}:…}}' tries it", missing.name);
        match kind {
            SymbolKind::Source => {
                let text = format!(
                    "was not tried: its configuration needs {:?}, which sources/{symbol}.yaml does not set: a stream \
                     without CONF_KEY cannot start",
                    missing.name
                );
                report.warning(Area::Symbols, &subject, text, &format!("set it there; {advice}"));
            }
            _ => {
                let text = format!("was not tried: its configuration needs {:?}", missing.name);
                report.note(Area::Symbols, &subject, text, &advice);
            }
        }
        None
    }

    /// Returns whether the source was tried.
    fn try_source(&self, symbol: &str, report: &mut Report) -> bool {
        let subject = format!("source {symbol}");
        let Some((config, _)) = self.config(SymbolKind::Source, symbol, report) else { return false };
        for round in 0..ROUNDS {
            let builder = self.host().source(symbol).rule(self.rule.clone()).config(config.clone().into());
            let source = match builder.open() {
                Ok(source) => source,
                Err(error) => {
                    failed(&subject, &again("cannot be started", round), &error, report);
                    return true;
                }
            };
            if !self.read_source(&subject, source, round, report) {
                break;
            }
        }
        true
    }

    /// Reads a source until its first tuple, and closes it. Returns whether it
    /// is worth another round.
    fn read_source(&self, subject: &str, mut source: Source, round: usize, report: &mut Report) -> bool {
        let before = report.problems();
        match source.next_within(self.wanted.try_for) {
            Ok(Some(_)) => {}
            Ok(None) if round == 0 => report.note(Area::Symbols, subject, "ended without a tuple", ""),
            Err(HostError::Timeout { .. }) if round == 0 => {
                let text = format!("gave no tuple within {:?}, and no error", self.wanted.try_for);
                report.note(Area::Symbols, subject, text, "--try-for gives it more time");
            }
            Ok(None) | Err(HostError::Timeout { .. }) => {}
            Err(error) => failed(subject, &again("reports an error", round), &error, report),
        }
        if let Err(error) = source.close() {
            not_stopped(subject, &error, report);
        }
        before == report.problems()
    }

    /// Returns whether the sink was tried.
    fn try_sink(&self, symbol: &str, report: &mut Report) -> bool {
        let subject = format!("sink {symbol}");
        let Some((config, is_given)) = self.config(SymbolKind::Sink, symbol, report) else { return false };
        for round in 0..ROUNDS {
            let builder =
                self.host().sink(symbol).rule(self.rule.clone()).require_ack(true).config(config.clone().into());
            let sink = match builder.open() {
                Ok(sink) => sink,
                // Which configuration a rule would give, nobody knows.
                Err(error @ HostError::Refused { .. }) if !is_given => {
                    let text = format!("cannot be started without a configuration: {}", Chain(&error));
                    let advice = format!("--config '{symbol}={{…}}' tries it with one");
                    report.warning(Area::Symbols, &subject, text, &advice);
                    return true;
                }
                Err(error) => {
                    failed(&subject, &again("cannot be started", round), &error, report);
                    return true;
                }
            };
            if !feed_sink(&subject, sink, round, report) {
                break;
            }
        }
        true
    }
}

/// Sends rows to a sink, which must acknowledge each, and closes it. Returns
/// whether it is worth another round.
fn feed_sink(subject: &str, sink: Sink, round: usize, report: &mut Report) -> bool {
    let before = report.problems();
    for row in samples::rows() {
        match sink.send(&row) {
            Ok(()) => {}
            // It may be made for other rows.
            Err(HostError::Sink { text, .. }) => {
                let text = format!("refuses the row {row}: {text}");
                report.warning(Area::Symbols, subject, text, "");
                break;
            }
            Err(error) => {
                failed(subject, &again("does not take a row with an acknowledgement", round), &error, report);
                break;
            }
        }
    }
    match sink.close() {
        Ok(()) => {}
        // The row is told of already.
        Err(HostError::NotCollected { .. }) if before < report.problems() => {}
        Err(error) => not_stopped(subject, &error, report),
    }
    before == report.problems()
}

fn try_described(subject: &str, function: &Function, described: &FunctionDescription, report: &mut Report) {
    let arguments = samples::arguments(described);
    let call = call_of(function, &arguments);
    if let Err(error) = function.validate(samples::expressions(&arguments).as_slice()) {
        return failed(subject, &format!("does not accept the arguments that it describes, {call}"), &error, report);
    }
    match function.call::<Value>(arguments.as_slice()) {
        Ok(_) => {}
        // The samples have the right types, but it may want more than that.
        Err(HostError::Function { text, .. }) => {
            let text = format!("answers {call} with an error: {text}");
            report.warning(Area::Symbols, subject, text, "give the description an example of a good call");
        }
        Err(error) => return failed(subject, &format!("cannot be called as {call}"), &error, report),
    }
    try_misfits(subject, function, &arguments, report);
}

/// Calls a function with arguments that it does not describe: its answer may be
/// an error, but there must be one. A number of arguments that it does not
/// accept is not passed on, as no engine does.
fn try_misfits(subject: &str, function: &Function, fitting: &[Value], report: &mut Report) {
    for arguments in samples::misfits(fitting) {
        let accepted = match arguments.len() == fitting.len() {
            true => Ok(()),
            false => function.validate(samples::expressions(&arguments).as_slice()),
        };
        match accepted.and_then(|()| function.call::<Value>(arguments.as_slice()).map(drop)) {
            Ok(()) | Err(HostError::Function { .. }) => {}
            Err(error) => {
                let call = call_of(function, &arguments);
                let advice = "answer such a call with an error: rows have NULL, and values of other types";
                let text = format!("does not answer when it is called as {call}: {}", Chain(&error));
                return report.error(Area::Symbols, subject, text, advice);
            }
        }
    }
}

/// Returns whether a process has ended.
fn has_ended(process: u32) -> bool {
    matches!(process_state::of(process), None | Some('Z' | 'X'))
}

fn try_undescribed(subject: &str, function: &Function, is_aggregate: bool, report: &mut Report) {
    let kinds: [Value; 4] = ["sample".into(), 2.into(), 1.5.into(), serde_json::json!({ "a": 1 })];
    let of = |kind: &Value, count| -> Vec<Value> {
        let argument = if is_aggregate { Value::from(vec![kind.clone(); 2]) } else { kind.clone() };
        vec![argument; count]
    };
    let (mut refusal, mut last) = (None, None);
    for count in [1, 2, 3, 0].into_iter().filter(|count| *count <= MOST_ARGUMENTS) {
        match function.validate(samples::expressions(&of(&kinds[0], count)).as_slice()) {
            Ok(()) => {}
            Err(HostError::Function { text, .. }) => {
                refusal = Some(text);
                continue;
            }
            Err(error) => return failed(subject, "cannot be asked whether it accepts arguments", &error, report),
        }
        for kind in &kinds {
            let arguments = of(kind, count);
            match function.call::<Value>(arguments.as_slice()) {
                Ok(_) => return,
                Err(HostError::Function { text, .. }) => last = Some((call_of(function, &arguments), text)),
                Err(error) => {
                    let call = call_of(function, &arguments);
                    return failed(subject, &format!("cannot be called as {call}"), &error, report);
                }
            }
        }
    }
    let text = match (last, refusal) {
        (Some((call, text)), _) => format!("answers made-up arguments with errors, {call} with: {text}"),
        (None, Some(text)) => {
            format!("was not called: it accepts none of up to {MOST_ARGUMENTS} made-up arguments: {text}")
        }
        (None, None) => return,
    };
    report.note(Area::Symbols, subject, text, "try it with `ekuiper-plugin call`");
}

fn call_of(function: &Function, arguments: &[Value]) -> String {
    let texts: Vec<_> = arguments.iter().map(|value| excerpt(value.to_string().as_bytes(), 0)).collect();
    format!("{}({})", function.name(), texts.join(", "))
}

fn again(problem: &str, round: usize) -> String {
    if round == 0 { problem.into() } else { format!("{problem} a second time, after it was stopped") }
}

/// Reports a failure. One that only says that a service is missing is none of
/// the plugin's.
fn failed(subject: &str, what: &str, error: &HostError, report: &mut Report) {
    let is_own = matches!(
        error,
        HostError::Refused { .. } | HostError::Source { .. } | HostError::Sink { .. } | HostError::Function { .. }
    );
    let text = Chain(error).to_string();
    let lower = text.to_lowercase();
    let (level, advice) = match is_own && SERVICE_MISSING.iter().any(|said| lower.contains(said)) {
        true => (Level::Warning, "start the service that it needs, and check again"),
        false => (Level::Error, ""),
    };
    report.add(level, Area::Symbols, subject, format!("{what}: {text}"), advice);
}

fn not_stopped(subject: &str, error: &HostError, report: &mut Report) {
    let advice = "return from open when the context is stopped, and from close soon: an engine waits for it";
    report.error(Area::Symbols, subject, format!("does not stop: {}", Chain(error)), advice);
}
