//! A running plugin process: its symbols started and stopped over the control
//! channel, its functions' channels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::address::{Address, DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::codec::Format;
use ekuiper_core::exchange::NotReady;
use ekuiper_core::message::{ANSWER_OK, Command, CommandKind, Control, Feature, Hello, SymbolKind};
use ekuiper_core::transport::{Deadline, TransportError};
use ekuiper_transport_ipc::lock::DeadlineLock;

use super::startup::{self, Canceller, Started};
use crate::catalog::Package;
use crate::channel::dependents::ProcessScope;
use crate::channel::idle_reader::Watch;
use crate::channel::{Channel, Failure};
use crate::error::transport_error;
use crate::process::group;
use crate::process::{EXIT_GRACE, Exit, Process};
use crate::site::{Claim, Site};
use crate::sync::lock;
use crate::{Error, Result};

/// How long a symbol may take to end after it has answered a stop, before it
/// is told again; it doubles up to [`MAX_STOP_PAUSE`].
const FIRST_STOP_PAUSE: Duration = Duration::from_millis(20);
const MAX_STOP_PAUSE: Duration = Duration::from_millis(200);

/// How often it is looked whether a plugin that has not answered a command
/// takes another one.
const STRAY_LOOK: Duration = Duration::from_millis(100);

/// What became of a source or a sink that was to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The plugin has answered that.
    Answered,
    /// It ends, or is stopped, with its process.
    WithProcess,
}

/// A running plugin process.
pub(crate) struct Running {
    pub(crate) name: String,
    /// Which process of the plugin it is, from 1.
    pub(crate) generation: u64,
    pub(crate) site: Arc<Site>,
    pub(crate) process: Process,
    /// The folder that its SDK uses.
    pub(crate) folder: SocketFolder,
    control: Arc<Channel>,
    /// What it can do beyond eKuiper's protocol; nothing, unless it says so.
    hello: Hello,
    functions: Mutex<HashMap<String, Arc<FunctionSlot>>>,
    /// Its sockets, whose waits end with it.
    pub(crate) scope: Arc<ProcessScope>,
    /// Another process is to follow: whatever has not begun waits for it.
    is_left: AtomicBool,
    /// A command that was not answered in time: the plugin may hang in it.
    hung: Mutex<Option<String>>,
    /// Sources and sinks that are to be stopped before the process is.
    live: Mutex<Vec<Control>>,
    /// Sources and sinks that may run and that nobody holds: they were told to
    /// start or to stop, and it is not known what became of that.
    strays: Mutex<Vec<Control>>,
    /// Held while strays are stopped: no start of the same symbol comes
    /// between.
    stopping_strays: DeadlineLock<()>,
    /// Itself, for the thread that waits until strays can be stopped.
    own: Weak<Self>,
    /// Sockets that it listens on, as far as it has not been seen to close
    /// them.
    sockets: Mutex<Vec<Address>>,
    /// Its control channel's address; free once the process is retired.
    claim: Mutex<Option<Claim>>,
    _watch: Watch,
}

struct FunctionChannel {
    channel: Arc<Channel>,
    _watch: Watch,
    _claim: Claim,
}

/// A function, or its start: those who come while it is under way share what
/// becomes of it.
#[derive(Default)]
struct FunctionSlot {
    /// How many starts have ended.
    ends: AtomicU64,
    state: DeadlineLock<SlotState>,
}

#[derive(Default)]
struct SlotState {
    function: Option<FunctionChannel>,
    /// Which start has failed, and why.
    failure: Option<(u64, Error)>,
}

impl FunctionSlot {
    /// Starts it, for all who wait for that.
    fn start<R>(&self, state: &mut SlotState, start: impl FnOnce(&mut SlotState) -> Result<R>) -> Result<R> {
        state.failure = None;
        let started = start(state);
        let end = self.ends.fetch_add(1, Ordering::SeqCst) + 1;
        state.failure = started.as_ref().err().map(|error| (end, error.for_another_caller()));
        started
    }
}

impl Running {
    /// Starts the plugin's process. `on_exit` is called, from another thread,
    /// when it has ended.
    pub(crate) fn start(
        package: &Package,
        generation: u64,
        site: &Arc<Site>,
        canceller: &Canceller,
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Arc<Self>> {
        let started = startup::start(package, site, canceller, on_exit)?;
        Ok(Self::new(&package.name, generation, site, started))
    }

    /// A process that has shaken hands.
    pub(crate) fn new(name: &str, generation: u64, site: &Arc<Site>, started: Started) -> Arc<Self> {
        let Started { process, control, folder, claim, hello, scope } = started;
        process.serves();
        let running = Arc::new_cyclic(|own| Self {
            name: name.to_owned(),
            generation,
            site: site.clone(),
            process,
            folder,
            control: control.clone(),
            hello: hello.unwrap_or_default(),
            functions: Mutex::default(),
            scope,
            is_left: AtomicBool::new(false),
            hung: Mutex::default(),
            live: Mutex::default(),
            strays: Mutex::default(),
            stopping_strays: DeadlineLock::default(),
            own: own.clone(),
            sockets: Mutex::default(),
            claim: Mutex::new(Some(claim)),
            _watch: site.idle_reader.watch(control),
        });
        tracing::info!(plugin = running.name, pid = running.process.pid(), "plugin is ready");
        running
    }

    /// Whether it is on an official SDK, as far as that can be told: those know
    /// one socket folder, and ours takes another when it is told one.
    pub(crate) fn uses_official_sdk(&self) -> bool {
        self.hello == Hello::default() && self.folder == SocketFolder::new(DEFAULT_FOLDER)
    }

    /// How the messages of its symbols are written.
    pub(crate) fn format(&self, kind: SymbolKind) -> Format {
        let wanted = self.site.options.format;
        // A sink is given the engine's bytes as they are, and expects JSON.
        if kind != SymbolKind::Sink && self.hello.speaks(wanted) { wanted } else { Format::Json }
    }

    /// Whether it can do more than eKuiper's protocol knows.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.hello.has(feature)
    }

    /// Whether whatever fails with this process goes on with the next: it has
    /// ended, or another is to follow.
    pub(crate) fn is_over(&self) -> bool {
        self.is_left() || self.process.wait(EXIT_GRACE).is_some()
    }

    /// Whether a symbol could not be started or stopped because the process
    /// ends, or is left: what has answered lives.
    pub(crate) fn has_ended_with(&self, error: &Error) -> bool {
        !matches!(error, Error::Refused { .. }) && self.is_ending(None) == Some(true)
    }

    /// Whether another process is to follow.
    pub(crate) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::SeqCst)
    }

    /// Starts a source or a sink; [`Running::stop_symbol`] must follow. Where
    /// it fails, and the symbol may run all the same, it is stopped as soon as
    /// the plugin can be told so, and before it is started again.
    pub(crate) fn start_symbol(&self, control: &Control) -> Result<()> {
        self.stop_strays()?;
        let started = self.command(CommandKind::Start, control, self.site.options.init_timeout);
        started.map_err(Error::or_shortage)?;
        if control.plugin_type != SymbolKind::Function {
            lock(&self.live).push(control.clone());
        }
        Ok(())
    }

    /// Stops a source or a sink, and tells it again until it has: the official
    /// Python SDK answers `ok` to a stop that meets a start, and ignores it
    /// (fault 13). `has_stopped` waits for the symbol's end, at most so long.
    pub(crate) fn stop_symbol(
        &self,
        control: &Control,
        mut has_stopped: impl FnMut(Duration) -> bool,
    ) -> Result<Stopped> {
        let mut live = lock(&self.live);
        let before = live.len();
        live.retain(|other| other != control);
        let is_told_by_others = live.len() == before && self.is_left();
        drop(live);
        if is_told_by_others {
            self.process.wait(self.site.options.grace);
            return Ok(Stopped::WithProcess);
        }
        let patience = self.site.options.recv_timeout;
        let give_up = Instant::now() + patience;
        let mut pause = FIRST_STOP_PAUSE;
        let mut told = false;
        while self.process.exit().is_none() {
            match self.command(CommandKind::Stop, control, patience) {
                Ok(()) => told = true,
                // The official Go SDK's answer to a second stop.
                Err(Error::Refused { .. }) if told => return Ok(Stopped::Answered),
                Err(error) => return Err(error),
            }
            if has_stopped(pause) {
                return Ok(Stopped::Answered);
            }
            if Instant::now() >= give_up {
                let what = format!("{} {} still runs after its stop", control.plugin_type, control.symbol_name);
                return Err(Error::Timeout { plugin: self.name.clone(), what, after: patience });
            }
            tracing::debug!(plugin = self.name, symbol = control.symbol_name, "a stop was ignored: sending it again");
            pause = (pause * 2).min(MAX_STOP_PAUSE);
        }
        Ok(Stopped::WithProcess)
    }

    /// Stops what may run though nobody holds it.
    ///
    /// # Errors
    /// The plugin takes no command: what was not stopped is stopped later.
    fn stop_strays(&self) -> Result<()> {
        let patience = self.site.options.recv_timeout;
        let Some(_alone) = self.stopping_strays.lock(Instant::now() + patience) else {
            let what = "the stop of a symbol without a handle".into();
            return Err(Error::Timeout { plugin: self.name.clone(), what, after: patience });
        };
        // One that is not stopped now is a stray again.
        let strays = std::mem::take(&mut *lock(&self.strays));
        let mut stopped = Ok(());
        for control in strays {
            match &stopped {
                Ok(()) => match self.command(CommandKind::Stop, &control, patience) {
                    // It runs no more, or never did.
                    Ok(()) | Err(Error::Refused { .. }) => {}
                    failed => stopped = failed,
                },
                Err(_) => self.add_stray(&control),
            }
        }
        stopped
    }

    /// Notes that a source or a sink may run which nobody holds, and has it
    /// stopped as soon as the plugin can be told so.
    fn add_stray(&self, control: &Control) {
        if self.scope.is_over() {
            return;
        }
        let mut strays = lock(&self.strays);
        if !strays.contains(control) {
            strays.push(control.clone());
        }
        let is_first = strays.len() == 1;
        drop(strays);
        if !is_first {
            // The thread that was started with the first stops all.
            return;
        }
        let own = self.own.clone();
        let stop = move || {
            while let Some(running) = own.upgrade() {
                if running.scope.is_over() || lock(&running.strays).is_empty() {
                    return;
                }
                if running.control.is_ready() == Some(true) {
                    // What is not stopped has a thread of its own again.
                    let _ = running.stop_strays();
                    return;
                }
                if running.process.wait(STRAY_LOOK).is_some() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("{}-stop", self.name)).spawn(stop) {
            // The next start stops it.
            tracing::debug!(plugin = self.name, %error, "cannot start a thread");
        }
    }

    /// Whether a channel of the process has ended because the process does;
    /// `None` when that is not known by the deadline. Our SDK lets go of the
    /// control channel first, then closes its symbols, and may take its time.
    pub(crate) fn is_ending(&self, deadline: Deadline) -> Option<bool> {
        if self.is_left() || self.process.wait(Duration::ZERO).is_some() {
            return Some(true);
        }
        // Then it was neither the process's end, which could be seen, nor the
        // beginning of one in order. Other transports tell ends in any order,
        // and other processes of its own may hold its channels.
        let is_in_order = self.site.transport_name() == "uds";
        if is_in_order && group::lives_alone(self.process.pid()) && self.control.still_has_peer() {
            return Some(false);
        }
        let noticed = Instant::now() + EXIT_GRACE;
        let until = deadline.map_or(noticed, |deadline| deadline.min(noticed));
        if self.process.wait(until.saturating_duration_since(Instant::now())).is_some() {
            return Some(true);
        }
        if self.control.has_peer() {
            return (until == noticed).then_some(false);
        }
        let give_up = Instant::now() + self.site.options.grace;
        let until = deadline.map_or(give_up, |deadline| deadline.min(give_up));
        if self.process.wait(until.saturating_duration_since(Instant::now())).is_some() {
            return Some(true);
        }
        (until == give_up).then_some(false)
    }

    /// Notes that the process listens at `address` from now on.
    pub(crate) fn listens_at(&self, address: &Address) {
        let mut sockets = lock(&self.sockets);
        if !sockets.contains(address) {
            sockets.push(address.clone());
        }
    }

    /// Notes that it has been told to close that socket, and has.
    pub(crate) fn has_closed(&self, address: &Address) {
        lock(&self.sockets).retain(|other| other != address);
    }

    /// Removes the sockets that the process has left behind, if it has ended.
    pub(crate) fn sweep(&self) {
        if self.process.exit().is_none() {
            return;
        }
        let sockets = std::mem::take(&mut *lock(&self.sockets));
        let left = sockets.into_iter().filter(|address| address.path().exists());
        left.for_each(|address| self.site.remove_socket(address));
    }

    fn command(&self, kind: CommandKind, control: &Control, patience: Duration) -> Result<()> {
        let what = || format!("{kind} {} {}", control.plugin_type, control.symbol_name);
        let reports =
            control.plugin_type == SymbolKind::Sink && !control.requires_ack() && self.has(Feature::Collected);
        let control = control.clone().with_format(self.format(control.plugin_type)).with_reports(reports);
        let encoded = Command { kind, control: control.clone() }
            .encode()
            .map_err(|source| Error::Message { what: what(), source })?;
        self.replace_if_hung()?;
        let now = Instant::now();
        let answer = self.control.exchange(&encoded, now + patience, now + patience, <[u8]>::to_vec);
        if let Err(Failure::Timeout) = answer {
            *lock(&self.hung) = Some(what());
            if lock(&self.live).is_empty() && lock(&self.functions).is_empty() {
                // Nobody else is disturbed.
                self.replace(&what());
            }
        }
        let answer = answer.map_err(|failure| {
            let may_run = match kind {
                CommandKind::Start => failure.may_be_carried_out(),
                CommandKind::Stop => !matches!(failure, Failure::ProcessEnded),
            };
            if may_run && control.plugin_type != SymbolKind::Function {
                self.add_stray(&control);
            }
            match self.explain(failure, what(), patience) {
                // Nothing that it may have started is left.
                Error::OutcomeUnknown { plugin, exit: Some(exit), .. } if kind == CommandKind::Start => {
                    Error::Exited { plugin, exit }
                }
                error => error,
            }
        })?;
        if answer == ANSWER_OK {
            return Ok(());
        }
        Err(Error::Refused {
            plugin: self.name.clone(),
            command: kind.to_string(),
            kind: control.plugin_type,
            symbol: control.symbol_name.clone(),
            text: crate::printable::lines(String::from_utf8_lossy(&answer).trim_end()).into_owned(),
        })
    }

    /// A plugin that hangs in one command can carry out no other (fault 18):
    /// its process is replaced.
    fn replace_if_hung(&self) -> Result<()> {
        let mut hung = lock(&self.hung);
        match self.control.is_ready() {
            Some(true) => *hung = None,
            Some(false) => {}
            // It carries out a command.
            None => return Ok(()),
        }
        let Some(what) = hung.clone() else { return Ok(()) };
        drop(hung);
        self.replace(&what);
        Err(Error::Replaced { plugin: self.name.clone(), hung: what })
    }

    fn replace(&self, hung: &str) {
        tracing::warn!(plugin = self.name, hung, "the plugin hangs: replacing its process");
        self.process.terminate(self.site.options.grace);
    }

    /// The channel of a function, started if it is not.
    pub(crate) fn function(&self, symbol: &str) -> Result<Arc<Channel>> {
        let slot = lock(&self.functions).entry(symbol.to_owned()).or_default().clone();
        let ended = slot.ends.load(Ordering::SeqCst);
        let patience = self.site.options.init_timeout;
        // One function's start does not hold up another's.
        let Some(mut state) = slot.state.lock(Instant::now() + patience) else {
            let what = format!("function {symbol} (it is being started)");
            return Err(Error::Timeout { plugin: self.name.clone(), what, after: patience });
        };
        // It has ended since this caller came.
        if let Some((end, error)) = &state.failure
            && *end > ended
        {
            return Err(error.for_another_caller());
        }
        match state.function.as_ref().map(|function| function.channel.clone()) {
            Some(channel) if channel.is_lost() => {
                slot.start(&mut state, |_| self.bring_back(symbol, &channel))?;
                Ok(channel)
            }
            Some(channel) => Ok(channel),
            None => slot.start(&mut state, |state| {
                let function = self.start_function(symbol)?;
                let channel = function.channel.clone();
                state.function = Some(function);
                Ok(channel)
            }),
        }
    }

    fn start_function(&self, symbol: &str) -> Result<FunctionChannel> {
        let what = || format!("function {symbol} of plugin {}", self.name);
        let message = |source| Error::Message { what: what(), source };
        let claim = self.site.claim(self.folder.function(symbol).map_err(message)?, what(), Duration::ZERO)?;
        let channel = Channel::listen_for_function(&self.scope, &claim.address);
        let channel = Arc::new(channel.map_err(|source| self.channel_error(what(), source))?);
        // Read from now on: a plugin may say much there before it answers.
        let watch = self.site.idle_reader.watch(channel.clone());
        let started = self.start_symbol(&Control::function(symbol)).and_then(|()| {
            let patience = self.site.options.init_timeout;
            let ready = channel.wait_ready(Instant::now() + patience, false);
            ready.map_err(|failure| self.explain(failure, format!("the handshake of function {symbol}"), patience))
        });
        match started {
            Ok(()) => Ok(FunctionChannel { channel, _watch: watch, _claim: claim }),
            Err(error) => {
                // The idle reader may have it for a moment more: the address is free.
                channel.close();
                Err(error.or_shortage())
            }
        }
    }

    /// A function's connection has ended. The official Python SDK ends the
    /// function then, and a start is all that brings it back; whoever connects
    /// again by himself gets none.
    fn bring_back(&self, symbol: &str, channel: &Channel) -> Result<()> {
        match channel.wait_back() {
            Ok(()) | Err(Failure::ProcessEnded) => return Ok(()),
            Err(failure) => tracing::warn!(
                plugin = self.name,
                function = symbol,
                ?failure,
                "the function's connection ended: restarting the function"
            ),
        }
        let patience = self.site.options.init_timeout;
        let started = self.start_symbol(&Control::function(symbol)).and_then(|()| {
            let ready = channel.wait_ready(Instant::now() + patience, false);
            ready.map_err(|failure| self.explain(failure, format!("the handshake of function {symbol}"), patience))
        });
        match started {
            // The next process has it.
            Err(_) if self.is_over() => Ok(()),
            started => started,
        }
    }

    /// The error for a failed exchange: what was asked, and what became of the
    /// process.
    pub(crate) fn explain(&self, failure: Failure, what: String, after: Duration) -> Error {
        let plugin = self.name.clone();
        match failure {
            Failure::OutcomeUnknown => Error::OutcomeUnknown { plugin, what, exit: self.process.exit_soon() },
            Failure::ProcessEnded => match self.process.wait(EXIT_GRACE) {
                Some(exit) => Error::Exited { plugin, exit },
                None => Error::Stopped,
            },
            Failure::Timeout => Error::Timeout { plugin, what, after },
            Failure::NotReady(NotReady::NoPeer) | Failure::Lost => {
                Error::Timeout { plugin, what: format!("{what} (it is not connected)"), after }
            }
            Failure::NotReady(NotReady::Busy) => {
                Error::Timeout { plugin, what: format!("{what} (it is still executing an earlier call)"), after }
            }
            Failure::AnswerTooLong(length) => {
                let max = self.site.options.max_message as u64;
                transport_error(format!("plugin {plugin}: the answer to {what}"))(TransportError::TooLong {
                    length,
                    max,
                })
            }
            Failure::Garbage(said) => Error::Garbage { plugin, said: String::from_utf8_lossy(&said).into_owned() },
            Failure::Transport(source) => self.channel_error(format!("plugin {plugin}: {what}"), source),
        }
    }

    /// The error for one of the process's channels, other than its control
    /// channel and its functions': what became of the process, where the
    /// channel has ended with it.
    pub(crate) fn channel_error(&self, what: String, source: TransportError) -> Error {
        let plugin = || self.name.clone();
        match source {
            // Its scope was closed: with the process, or with the host.
            TransportError::Closed => match self.process.wait(EXIT_GRACE) {
                Some(exit) => Error::Exited { plugin: plugin(), exit },
                None => Error::Stopped,
            },
            TransportError::Disconnected => match self.process.exit_soon() {
                Some(exit) => Error::Exited { plugin: plugin(), exit },
                None => transport_error(what)(TransportError::Disconnected),
            },
            source => transport_error(what)(source),
        }
    }

    /// The process has ended: frees the addresses of its control and function
    /// channels for the next one, whoever still holds this.
    pub(crate) fn retire(&self) {
        self.control.close();
        for slot in std::mem::take(&mut *lock(&self.functions)).into_values() {
            // A start that is under way ends with the process, and is closed
            // with the last that holds it.
            if let Some(mut state) = slot.state.lock(Instant::now() + EXIT_GRACE)
                && let Some(function) = state.function.take()
            {
                function.channel.close();
            }
        }
        lock(&self.claim).take();
        self.sweep();
    }

    /// Another process is to follow: nothing new begins in this one, and the
    /// calls that are under way come to their end, if they do by the deadline.
    pub(crate) fn leave(&self, deadline: Instant) {
        self.is_left.store(true, Ordering::SeqCst);
        let slots: Vec<_> = lock(&self.functions).values().cloned().collect();
        for slot in slots {
            let state = slot.state.lock(deadline);
            let channel = state.and_then(|state| state.function.as_ref().map(|function| function.channel.clone()));
            if let Some(channel) = channel {
                channel.leave(deadline);
            }
        }
    }

    /// Stops sources and sinks, then ends the process. What it has sent can be
    /// read on.
    pub(crate) fn end(&self) {
        self.stop_all();
        self.process.terminate(self.site.options.grace);
        self.retire();
    }

    /// The same, and ends every wait for it. What its sinks have collected is
    /// told until its end.
    pub(crate) fn shutdown(&self) {
        self.stop_all();
        self.scope.close_all_but_reports();
        self.process.terminate(self.site.options.grace);
        // Where the kernel still holds the process.
        self.scope.close();
        self.sweep();
    }

    fn stop_all(&self) {
        let deadline = Instant::now() + self.site.options.grace;
        let live = std::mem::take(&mut *lock(&self.live));
        for control in live {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.process.exit().is_some() {
                break;
            }
            if let Err(error) = self.command(CommandKind::Stop, &control, left) {
                tracing::warn!(plugin = self.name, %error, "a symbol was not stopped");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sweep();
    }
}
