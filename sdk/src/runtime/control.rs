//! The control channel: starts and stops symbols, in order.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ekuiper_core::message::{ANSWER_OK, Command, CommandKind, Control, Meta, SymbolKind};
use ekuiper_core::transport::TransportError;

use super::{HOST_ABSENCE, Site, channel, function, sink, source, watchdog};
use crate::{Error, Plugin, Result};

/// How long a symbol's start may take: far less than the engine waits.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a symbol's stop may take: less than the 5 s that hosts wait.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Which instance of which symbol.
pub(crate) type Key = (SymbolKind, String, Meta);

/// A symbol that runs on a thread of its own.
pub(crate) struct Live {
    /// Asks it to end; does not wait.
    pub(crate) stop: Box<dyn Fn() + Send>,
    /// Ends when its thread has.
    pub(crate) done: mpsc::Receiver<()>,
}

impl Live {
    fn is_over(&self) -> bool {
        matches!(self.done.try_recv(), Err(mpsc::TryRecvError::Disconnected))
    }

    /// Whether it has ended in time.
    fn wait(&self, patience: Duration) -> bool {
        matches!(self.done.recv_timeout(patience), Err(mpsc::RecvTimeoutError::Disconnected))
    }
}

/// What a symbol's thread reports once it runs, or why it does not.
pub(crate) type Started = Result<Box<dyn Fn() + Send>>;

/// Starts a symbol's thread and waits until it runs.
pub(crate) fn launch(
    key: &Key,
    body: impl FnOnce(&mpsc::Sender<Started>) -> Result<()> + Send + 'static,
) -> Result<Live, StartFailure> {
    let (report, started) = mpsc::channel();
    let (alive, done) = mpsc::channel::<()>();
    let (kind, symbol, meta) = key.clone();
    let span = tracing::info_span!("symbol", %kind, name = symbol, rule = meta.rule_id, op = meta.op_id, instance = meta.instance_id);
    let thread = std::thread::Builder::new().name(symbol).spawn(move || {
        let _entered = span.enter();
        // Dropped, and thereby told, when the thread ends, however it does.
        let _alive = alive;
        if let Err(error) = body(&report) {
            // Whoever waits for the start is told; a running symbol has its
            // own way to report.
            let _ = report.send(Err(error));
        }
    });
    thread.map_err(|error| StartFailure::Refused(error.into()))?;
    match started.recv_timeout(START_TIMEOUT) {
        Ok(Ok(stop)) => Ok(Live { stop, done }),
        Ok(Err(error)) => Err(StartFailure::Refused(error)),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(StartFailure::Refused("it ended at once".into())),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(StartFailure::Hangs),
    }
}

/// Why a symbol does not run.
pub(crate) enum StartFailure {
    /// It, or the SDK, said no.
    Refused(crate::BoxError),
    /// It has not said anything in time, and may still hold its channels.
    Hangs,
}

struct Symbols {
    plugin: Plugin,
    site: Site,
    live: HashMap<Key, Live>,
    /// Those that did not end or begin in time: their names are refused, so
    /// that no two instances meet on one channel.
    quarantined: HashSet<Key>,
}

/// Serves the control channel until the host ends it.
pub(crate) fn serve(plugin: Plugin, site: Site) -> Result<()> {
    let address = site.folder.control(&plugin.name)?;
    let what = format!("the control channel {address}");
    let fail = |source| Error::Transport { what: what.clone(), source };
    let request = Arc::from(site.transport.request(&address, &site.options).map_err(fail)?);
    watchdog::watch(Arc::clone(&request))?;
    let mut symbols = Symbols { plugin, site, live: HashMap::new(), quarantined: HashSet::new() };
    let served = channel::serve(&*request, Some(HOST_ABSENCE), |command, answer| {
        match symbols.carry_out(command) {
            Ok(()) => answer.extend_from_slice(ANSWER_OK),
            Err(error) => {
                tracing::error!(%error, "command refused");
                // Exactly these bytes would be taken for success.
                answer.extend_from_slice(error.to_string().as_bytes());
            }
        }
    });
    symbols.stop_all();
    match served {
        Err(TransportError::Timeout) => {
            tracing::warn!("the host has been gone for {HOST_ABSENCE:?}, the plugin ends");
            Ok(())
        }
        served => Ok(served.map_err(fail)?),
    }
}

impl Symbols {
    fn carry_out(&mut self, command: &[u8]) -> Result<()> {
        let Command { kind, control } = Command::decode(command)?;
        tracing::debug!(%kind, symbol = control.symbol_name, meta = %control.meta, "command");
        let key = (control.plugin_type, control.symbol_name.clone(), control.meta.clone());
        match kind {
            CommandKind::Start => self.start(key, control),
            CommandKind::Stop => self.stop(&key),
        }
    }

    fn start(&mut self, key: Key, control: Control) -> Result<()> {
        let (kind, symbol, meta) = &key;
        if self.quarantined.contains(&key) {
            return Err(
                format!("{kind} {symbol} ({meta}) hangs since an earlier start or stop: restart the plugin").into()
            );
        }
        if let Some(live) = self.live.get(&key) {
            if !live.is_over() {
                return match kind {
                    // Engines start a function once per rule that uses it.
                    SymbolKind::Function => Ok(()),
                    _ => Err(format!("{kind} {symbol} ({meta}) runs already").into()),
                };
            }
            self.live.remove(&key);
        }
        if !matches!(kind, SymbolKind::Function) && (meta.rule_id.is_empty() || meta.op_id.is_empty()) {
            return Err(format!("{kind} {symbol} needs a ruleId and an opId").into());
        }
        let started = match kind {
            SymbolKind::Source => match self.plugin.sources.get(symbol) {
                Some(make) => source::start(&self.site, &key, make(), control),
                None => return Err(unknown(*kind, symbol, self.plugin.sources.keys())),
            },
            SymbolKind::Sink => match self.plugin.sinks.get(symbol) {
                Some(make) => sink::start(&self.site, &key, make(), control),
                None => return Err(unknown(*kind, symbol, self.plugin.sinks.keys())),
            },
            SymbolKind::Function => match self.plugin.functions.get(symbol) {
                Some(shared) => function::start(&self.site, &key, shared.clone()),
                None => return Err(unknown(*kind, symbol, self.plugin.functions.keys())),
            },
        };
        match started {
            Ok(live) => {
                self.live.insert(key, live);
                Ok(())
            }
            Err(StartFailure::Refused(error)) => Err(error),
            Err(StartFailure::Hangs) => {
                let text = format!("{kind} {symbol} ({meta}) did not start within {START_TIMEOUT:?}");
                self.quarantined.insert(key);
                Err(text.into())
            }
        }
    }

    fn stop(&mut self, key: &Key) -> Result<()> {
        let (kind, symbol, meta) = key;
        if *kind == SymbolKind::Function {
            // Function channels live as long as the host.
            return Ok(());
        }
        if self.quarantined.contains(key) {
            return Err(format!("{kind} {symbol} ({meta}) hangs since an earlier start or stop").into());
        }
        let Some(live) = self.live.remove(key) else { return Ok(()) };
        (live.stop)();
        if live.wait(STOP_TIMEOUT) {
            return Ok(());
        }
        self.quarantined.insert(key.clone());
        Err(format!("{kind} {symbol} ({meta}) did not stop within {STOP_TIMEOUT:?}").into())
    }

    /// Stops everything at once, and waits for all together.
    fn stop_all(&mut self) {
        self.live.values().for_each(|live| (live.stop)());
        let deadline = std::time::Instant::now() + STOP_TIMEOUT;
        for ((kind, symbol, meta), live) in self.live.drain() {
            if !live.wait(deadline.saturating_duration_since(std::time::Instant::now())) {
                tracing::warn!("{kind} {symbol} ({meta}) did not stop in time");
            }
        }
    }
}

fn unknown<'a>(kind: SymbolKind, symbol: &str, known: impl Iterator<Item = &'a String>) -> crate::BoxError {
    let known = known.map(String::as_str).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { format!("it has no {kind}") } else { format!("it has {known}") };
    format!("this plugin has no {kind} {symbol}: {known}").into()
}
