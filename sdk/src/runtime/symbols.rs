//! The table of symbols: it starts and stops them as the engine's commands say,
//! one command at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use ekuiper_core::Chain;
use ekuiper_core::address::{Address, Registry};
use ekuiper_core::codec::Format;
use ekuiper_core::message::{ANSWER_OK, Command, CommandKind, Control, SymbolKind};
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{Request, TransportError};
use ekuiper_transport_ipc::wait::deadline_after;

use super::bell::{Bell, Heed};
use super::command::{Key, key, refuse, span, title};
use super::live::{Launched, Live, Progress, Stopped, launch};
use super::site::Site;
use super::supervised::Link;
use super::watchdog::GRACE;
use super::{function, sink, source};
use crate::definition::Definition;
use crate::error::text_of;
use crate::invoke::Calls;
use crate::{BoxError, Result};

struct Entry {
    live: Live,
    /// The addresses that the symbol has claimed, released when it has ended.
    addresses: Vec<Address>,
}

/// The symbols of this process.
pub(super) struct Symbols {
    plugin: Definition,
    site: Site,
    bell: Arc<Bell>,
    /// The symbols that run or hang. While one hangs, starts of its instance
    /// are refused, so that no two share a channel.
    entries: HashMap<Key, Entry>,
    addresses: Registry,
    /// The channels of functions that connect without a start.
    dialled: HashMap<String, Box<dyn Request>>,
    /// The number of launches so far.
    launches: u64,
    /// Whether the current start restores a symbol of a previous worker.
    again: bool,
    refusals: Throttle,
}

impl Symbols {
    pub(super) fn new(plugin: Definition, site: Site, bell: Arc<Bell>) -> Self {
        let (entries, addresses, dialled) = (HashMap::new(), Registry::default(), HashMap::new());
        Self { plugin, site, bell, entries, addresses, dialled, launches: 0, again: false, refusals: Throttle::new() }
    }

    /// Appends the answer to a command.
    pub(super) fn answer(&mut self, command: &[u8], reply: &mut Vec<u8>) {
        match self.carry_out(command) {
            Ok(()) => reply.extend_from_slice(ANSWER_OK),
            Err(error) => {
                let text = text_of(&*error);
                if let Some(others) = self.refusals.pass(Instant::now()) {
                    tracing::error!(error = text, others, "command refused");
                }
                refuse(&text, reply);
            }
        }
    }

    /// Appends the answer to a command of the supervisor, which with `again`
    /// restores a symbol of a previous worker. Returns the number of the launch
    /// that the command caused, or 0.
    pub(super) fn answer_supervisor(&mut self, command: &[u8], again: bool, reply: &mut Vec<u8>) -> u64 {
        self.again = again;
        let launches = self.launches;
        self.answer(command, reply);
        if self.launches > launches { self.launches } else { 0 }
    }

    fn carry_out(&mut self, command: &[u8]) -> Result<()> {
        let Command { kind, control } = Command::decode(command)?;
        let (symbol, datasource) = (&control.symbol_name, control.datasource());
        tracing::debug!(symbol, meta = %control.meta, datasource, "command kind={kind}");
        let key = key(&control);
        let known = self.plugin.names(key.0);
        if !known.contains(&key.1.as_str()) {
            return Err(unknown(&key, &known));
        }
        self.forget_if_over(&key);
        match kind {
            CommandKind::Start => self.start(key, control),
            CommandKind::Stop => self.stop(&key),
        }
    }

    fn forget_if_over(&mut self, key: &Key) {
        if self.entries.get(key).is_some_and(|entry| entry.live.is_over())
            && let Some(entry) = self.entries.remove(key)
        {
            entry.addresses.iter().for_each(|address| self.addresses.release(address));
        }
    }

    fn start(&mut self, key: Key, control: Control) -> Result<()> {
        let name = title(&key);
        self.await_former(&key)?;
        if let Some(entry) = self.entries.get(&key) {
            return match key.0 {
                _ if entry.live.hangs => Err(format!("{name} has been hanging since an earlier start or stop").into()),
                // Engines start a function once per rule that uses it.
                SymbolKind::Function => Ok(()),
                _ => Err(format!("{name} is already running").into()),
            };
        }
        let channel = self.take_dialled(&key);
        self.begin(key, control, channel)
    }

    /// Whether a function runs.
    pub(super) fn serves(&self, function: &str) -> bool {
        let entry = self.entries.get(&key(&Control::function(function)));
        entry.is_some_and(|entry| !entry.live.is_over())
    }

    /// Whether the plugin is shutting down.
    pub(super) fn is_ending(&self) -> bool {
        self.bell.is_ending()
    }

    /// Tries, without blocking, to connect a function that does not run to the
    /// engine's socket, and to serve it there. Returns false if the caller
    /// should retry.
    pub(super) fn connect(
        &mut self,
        function: &str,
        dial: impl FnOnce() -> Result<Box<dyn Request>, TransportError>,
    ) -> bool {
        if self.serves(function) || self.is_ending() {
            self.give_up(function);
            return true;
        }
        let channel = match self.dialled.remove(function).map_or_else(dial, Ok) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::debug!(symbol = function, error = %Chain(&error), "not connected");
                return true;
            }
        };
        match channel.connect(Some(Instant::now())) {
            Err(TransportError::Timeout) => {
                self.dialled.insert(function.to_owned(), channel);
                return false;
            }
            Err(error) => tracing::debug!(symbol = function, error = %Chain(&error), "not connected"),
            Ok(_) => {
                tracing::debug!(
                    symbol = function,
                    "the engine already listens for this function: connected without a start"
                );
                let control = Control::function(function);
                let key = key(&control);
                self.forget_if_over(&key);
                if let Err(error) = self.begin(key, control, Some(channel)) {
                    tracing::error!(error = text_of(&*error), "function {function} was not started");
                }
            }
        }
        true
    }

    /// Abandons the attempt to connect a function without a start.
    pub(super) fn give_up(&mut self, function: &str) {
        self.dialled.remove(function);
    }

    /// Takes the connection that was opened for a function before its start. A
    /// second connection would be a second handshake at one socket, after which
    /// an engine sends a call twice (fault 2).
    fn take_dialled(&mut self, key: &Key) -> Option<Box<dyn Request>> {
        let dialled = (key.0 == SymbolKind::Function).then(|| self.dialled.remove(&key.1)).flatten();
        dialled.filter(|channel| channel.connect(Some(Instant::now())).is_ok())
    }

    /// Starts a symbol that does not run; a function on the given channel, or on
    /// a new one.
    fn begin(&mut self, key: Key, control: Control, channel: Option<Box<dyn Request>>) -> Result<()> {
        let name = title(&key);
        let addresses = self.claim(&key, &name)?;
        let launched = self.launch(&key, control, &addresses, channel);
        match launched {
            Launched::Runs(live) => {
                self.entries.insert(key, Entry { live, addresses });
                Ok(())
            }
            Launched::Refused(error) => {
                addresses.iter().for_each(|address| self.addresses.release(address));
                Err(error)
            }
            Launched::Late(live) => {
                self.entries.insert(key, Entry { live, addresses });
                if self.is_ending() {
                    return Err(format!("{name} was not started: the plugin is shutting down").into());
                }
                Err(format!("{name} did not start within {:?}", self.plugin.limits.start_timeout).into())
            }
        }
    }

    /// Waits for symbols that are ending and hold this one's addresses: two
    /// symbols of one instance run one after the other.
    fn await_former(&mut self, key: &Key) -> Result<()> {
        let addresses = self.addresses(key)?;
        let limits = &self.plugin.limits;
        for (former, entry) in self.entries.iter().filter(|(_, entry)| entry.live.is_ending()) {
            if !entry.addresses.iter().any(|address| addresses.contains(address)) {
                continue;
            }
            // A source that has failed or finished is only closing; a sink may
            // have many messages left to collect.
            let patience = if entry.live.drains { limits.start_timeout } else { limits.stop_timeout };
            if !entry.live.await_end(patience) && entry.live.drains {
                let name = title(former);
                return Err(format!("{name} is still collecting messages sent before its stop: start it later").into());
            }
        }
        self.forget_if_over(key);
        Ok(())
    }

    /// The addresses of a symbol's channels.
    fn addresses(&self, (kind, symbol, meta): &Key) -> Result<Vec<Address>> {
        let folder = &self.site.folder;
        Ok(match kind {
            SymbolKind::Source => vec![folder.data(meta)?],
            SymbolKind::Sink => vec![folder.data(meta)?, folder.ack(meta)?],
            SymbolKind::Function => vec![folder.function(symbol)?],
        })
    }

    /// Claims the addresses of a symbol's channels: two rules whose names map
    /// to one path would mix their traffic (fault 14).
    fn claim(&mut self, key: &Key, name: &str) -> Result<Vec<Address>> {
        // Symbols that have ended release their claims first.
        let over: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.live.is_over()).map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| self.forget_if_over(key));
        let addresses = self.addresses(key)?;
        for (position, address) in addresses.iter().enumerate() {
            if let Err(error) = self.addresses.claim(address, name) {
                addresses[..position].iter().for_each(|address| self.addresses.release(address));
                return Err(error.into());
            }
        }
        Ok(addresses)
    }

    fn launch(
        &mut self,
        key: &Key,
        control: Control,
        addresses: &[Address],
        channel: Option<Box<dyn Request>>,
    ) -> Launched {
        let (_, symbol, _) = key;
        let _entered = span(key).entered();
        let format = match control.format() {
            Ok(format) => format,
            Err(error) => return Launched::Refused(error.into()),
        };
        let site = match self.site.of_symbol(&control) {
            Ok(site) => site,
            Err(text) => return Launched::Refused(text.into()),
        };
        let Some(body) = self.body(site, key, control, format, addresses, channel) else { return gone() };
        self.launches += 1;
        let link = self.site.supervisor.as_ref().map(|supervisor| supervisor.link.clone());
        let notice = EndNotice { link, launch: self.launches };
        launch(symbol, &self.plugin.spawn, &self.bell, self.plugin.limits.start_timeout, move |progress| {
            let _notice = notice;
            body(progress)
        })
    }

    /// The code of a symbol's thread.
    fn body(
        &self,
        site: Site,
        (kind, symbol, _): &Key,
        control: Control,
        format: Format,
        addresses: &[Address],
        channel: Option<Box<dyn Request>>,
    ) -> Option<Body> {
        let again = self.again;
        Some(match (*kind, addresses) {
            (SymbolKind::Source, [data]) => {
                let (make, data) = (self.plugin.sources.get(symbol)?.make.clone(), data.clone());
                let described = self.plugin.configuration(*kind, symbol);
                Box::new(move |progress| source::live(&site, &make, &described, control, format, data, progress))
            }
            (SymbolKind::Sink, [data, ack]) => {
                let (make, both) = (self.plugin.sinks.get(symbol)?.make.clone(), [data.clone(), ack.clone()]);
                let described = self.plugin.configuration(*kind, symbol);
                Box::new(move |progress| sink::live(&site, &make, &described, control, both, again, progress))
            }
            (SymbolKind::Function, [address]) => {
                let function = self.plugin.functions.get(symbol)?;
                let (shared, address) = (function.shared.clone(), address.clone());
                let place = self.plugin.functions.keys().position(|name| name == symbol)?;
                let idempotent = function.declared.idempotent;
                let mark = site.supervisor.as_ref().map(|supervisor| supervisor.marks.function(place, idempotent));
                let (cancelled, limit) = (site.cancels.of(symbol), site.options.max_message);
                let calls = Calls { format, cancelled, limit };
                Box::new(move |progress| function::live(&site, &shared, address, channel, calls, mark, progress))
            }
            _ => return None,
        })
    }

    fn stop(&mut self, key: &Key) -> Result<()> {
        if key.0 == SymbolKind::Function {
            // Function channels live as long as the host.
            return Ok(());
        }
        let Some(entry) = self.entries.get_mut(key) else { return Ok(()) };
        let name = title(key);
        if entry.live.hangs {
            return Err(format!("{name} has been hanging since an earlier start or stop").into());
        }
        let patience = self.plugin.limits.stop_timeout;
        match entry.live.stop(patience) {
            Stopped::Over => {}
            Stopped::Drains => {
                let _entered = span(key).entered();
                tracing::info!("stopped: messages sent before the stop are still being collected");
            }
            Stopped::Hangs if self.bell.is_ending() => {
                return Err(format!("{name} was not stopped yet: the plugin is shutting down and stops it").into());
            }
            Stopped::Hangs => {
                return Err(format!("{name} did not stop within {patience:?}: {}", why_it_hangs(key.0)).into());
            }
        }
        self.forget_if_over(key);
        Ok(())
    }

    /// Stops all symbols, in the order of the data flow, within [`GRACE`].
    pub(super) fn stop_all(&mut self) {
        let end = deadline_after(GRACE);
        self.site.listening.stop();
        // Symbols that hang get no further time.
        self.entries.retain(|_, entry| {
            if entry.live.hangs {
                entry.live.give_up();
            }
            !entry.live.hangs
        });
        let all_over = |symbols: &Self, until: Instant, of: &[SymbolKind]| {
            let those = symbols.entries.iter().filter(|((kind, ..), _)| of.contains(kind));
            symbols.bell.wait(until, Heed::Nothing, || those.clone().all(|(_, entry)| entry.live.is_over()))
        };
        for (of, part) in [(&[SymbolKind::Source][..], 0.6), (&[SymbolKind::Function, SymbolKind::Sink], 0.2)] {
            let those = self.entries.iter().filter(|((kind, ..), _)| of.contains(kind));
            those.for_each(|(_, entry)| entry.live.ask());
            all_over(self, end - GRACE.mul_f64(part), of);
        }
        self.entries.values().for_each(|entry| entry.live.give_up());
        if !all_over(self, end, &SymbolKind::ALL) {
            for (key, _) in self.entries.iter().filter(|(_, entry)| !entry.live.is_over()) {
                tracing::warn!("{} did not stop in time", title(key));
            }
        }
    }
}

/// The method that keeps a symbol from stopping, and how an author corrects it.
fn why_it_hangs(kind: SymbolKind) -> &'static str {
    match kind {
        SymbolKind::Source => {
            "its open or close has not returned (wait with ctx.sleep, which returns at the stop, and unblock other waits \
             with ctx.on_stop, or in Python in close)"
        }
        _ => "its collect or close has not returned",
    }
}

/// The code that runs on a symbol's thread.
type Body = Box<dyn FnOnce(&Progress) -> Result<()> + Send>;

/// Reports a symbol's end to the supervisor when dropped, before any other
/// thread sees that end.
struct EndNotice {
    link: Option<Arc<Link>>,
    launch: u64,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        self.link.iter().for_each(|link| link.over(self.launch));
    }
}

fn unknown((kind, symbol, _): &Key, known: &[&str]) -> BoxError {
    let known = if known.is_empty() { format!("it has no {kind}") } else { format!("it has {}", known.join(", ")) };
    format!("this plugin has no {kind} {symbol}: {known}").into()
}

/// The refusal of an unknown symbol, which cannot occur: the caller has looked
/// the symbol up.
fn gone() -> Launched {
    Launched::Refused("this plugin has no such symbol".into())
}
