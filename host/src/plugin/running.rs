//! A running plugin process: starting and stopping its symbols over the control
//! channel, and the channels of its functions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::{Address, DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::codec::Format;
use ekuiper_core::exchange::NotReady;
use ekuiper_core::message::{ANSWER_OK, Command, CommandKind, Control, Feature, Hello, SymbolKind};
use ekuiper_core::transport::{Deadline, TransportError};
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::socket_file;

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
use crate::{Error, Result, Subject};

/// Time for a symbol to end after the plugin has answered its stop, before the
/// stop is repeated; doubles up to [`MAX_STOP_PAUSE`].
const FIRST_STOP_PAUSE: Duration = Duration::from_millis(20);
const MAX_STOP_PAUSE: Duration = Duration::from_millis(200);

/// Interval of the check whether all stops are over.
const STOPPING_LOOK: Duration = Duration::from_millis(5);

/// Interval of the check whether a plugin that has not answered a command
/// accepts another one.
const STRAY_LOOK: Duration = Duration::from_millis(100);

/// Outcome of stopping a source or a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The plugin has answered the stop.
    Answered,
    /// The symbol ends with its process.
    WithProcess,
    /// The plugin has answered the stop, and the symbol still runs.
    StillRuns,
}

/// A running plugin process.
pub(crate) struct Running {
    pub(crate) name: String,
    /// Number of the process, from 1.
    pub(crate) generation: u64,
    pub(crate) site: Arc<Site>,
    pub(crate) process: Process,
    /// When the handshake was complete.
    pub(crate) ready: Instant,
    /// Socket folder that the plugin's SDK uses.
    pub(crate) folder: SocketFolder,
    control: Arc<Channel>,
    /// Features beyond eKuiper's protocol; none unless the plugin announced
    /// them.
    hello: Hello,
    functions: Mutex<HashMap<String, Arc<FunctionSlot>>>,
    /// The process's sockets, whose waits end with the process.
    pub(crate) scope: Arc<ProcessScope>,
    /// The process is being replaced: whatever has not begun waits for the
    /// next.
    is_left: AtomicBool,
    /// The command that was not answered in time, in which the plugin may hang.
    hung: Mutex<Option<String>>,
    /// Sources and sinks to be stopped before the process is.
    live: Mutex<Vec<Control>>,
    /// Number of callers that stop symbols now.
    stopping: AtomicUsize,
    /// All symbols were told to stop, as the process is about to be ended.
    has_told_all: AtomicBool,
    /// Sources and sinks that may run without a handle: the outcome of their
    /// start or stop is unknown.
    strays: Mutex<Vec<Control>>,
    /// Held while strays are stopped, so that no start of the same symbol
    /// intervenes.
    stopping_strays: DeadlineLock<()>,
    /// Weak reference to this, for the thread that waits until strays can be
    /// stopped.
    own: Weak<Self>,
    /// Sockets on which the process listens, unless it is known to have closed
    /// them.
    sockets: Mutex<Vec<Address>>,
    /// Address of the control channel, released when the process is retired.
    claim: Mutex<Option<Claim>>,
    _watch: Watch,
}

struct FunctionChannel {
    channel: Arc<Channel>,
    _watch: Watch,
    _claim: Claim,
}

/// A function, or its start. Callers that come during a start share its
/// outcome.
#[derive(Default)]
struct FunctionSlot {
    /// Number of starts that have ended.
    ends: AtomicU64,
    state: DeadlineLock<SlotState>,
}

#[derive(Default)]
struct SlotState {
    function: Option<FunctionChannel>,
    /// Number of the failed start, and its error.
    failure: Option<(u64, Error)>,
}

impl FunctionSlot {
    /// Runs a start, for all callers that wait for it.
    fn start<R>(&self, state: &mut SlotState, start: impl FnOnce(&mut SlotState) -> Result<R>) -> Result<R> {
        state.failure = None;
        let started = start(state);
        let end = self.ends.fetch_add(1, Ordering::SeqCst) + 1;
        state.failure = started.as_ref().err().map(|error| (end, error.clone()));
        started
    }
}

impl Running {
    /// Starts the plugin's process. `on_exit` is called, from another thread,
    /// when the process has ended.
    pub(crate) fn start(
        package: &Package,
        generation: u64,
        site: &Arc<Site>,
        canceller: &Canceller,
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Arc<Self>> {
        let started = startup::start(package, site, canceller, on_exit)?;
        Self::new(&package.name, generation, site, started)
    }

    /// Creates the running process, after its handshake.
    ///
    /// # Errors
    /// Its control channel cannot be watched: the process is ended.
    pub(crate) fn new(name: &str, generation: u64, site: &Arc<Site>, started: Started) -> Result<Arc<Self>> {
        let Started { process, control, folder, claim, hello, scope } = started;
        let watched = site.idle_reader.watch(&Subject::of_plugin(name), control.clone());
        let watch = watched.inspect_err(|_| process.terminate(site.options.grace))?;
        process.mark_serving();
        let running = Arc::new_cyclic(|own| Self {
            name: name.to_owned(),
            generation,
            site: site.clone(),
            process,
            ready: Instant::now(),
            folder,
            control,
            hello: hello.unwrap_or_default(),
            functions: Mutex::default(),
            scope,
            is_left: AtomicBool::new(false),
            hung: Mutex::default(),
            live: Mutex::default(),
            stopping: AtomicUsize::new(0),
            has_told_all: AtomicBool::new(false),
            strays: Mutex::default(),
            stopping_strays: DeadlineLock::default(),
            own: own.clone(),
            sockets: Mutex::default(),
            claim: Mutex::new(Some(claim)),
            _watch: watch,
        });
        tracing::info!(plugin = running.name, pid = running.process.pid(), "plugin is ready");
        Ok(running)
    }

    /// Returns whether the plugin is on an official SDK, judged by its socket
    /// folder: an official SDK uses a fixed one, and our SDK the one it is
    /// given.
    pub(crate) fn uses_official_sdk(&self) -> bool {
        self.hello == Hello::default() && self.folder == SocketFolder::new(DEFAULT_FOLDER)
    }

    /// Returns the format of messages of symbols of this kind.
    pub(crate) fn format(&self, kind: SymbolKind) -> Format {
        let wanted = self.site.options.format;
        // A sink is given the engine's bytes unchanged, and expects JSON.
        if kind != SymbolKind::Sink && self.hello.speaks(wanted) { wanted } else { Format::Json }
    }

    /// Returns whether the plugin supports a feature beyond eKuiper's protocol.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.hello.has(feature)
    }

    /// Returns whether failed operations are to be retried with the next
    /// process: this one has ended, or is being replaced.
    pub(crate) fn is_over(&self) -> bool {
        self.is_left() || self.process.wait(EXIT_GRACE).is_some()
    }

    /// Returns whether a start or stop failed because the process ends or is
    /// being replaced; a plugin that has answered is alive.
    pub(crate) fn has_ended_with(&self, error: &Error) -> bool {
        !matches!(error, Error::Refused { .. }) && self.is_ending(None) == Some(true)
    }

    /// Returns whether a stop failed because the process ends: the symbol has
    /// ended with it. A process that did not answer in time was alive, and is
    /// ended because of that: the stop has failed, as on an SDK that answers
    /// that it cannot stop the symbol.
    pub(crate) fn has_ended_before(&self, error: &Error) -> bool {
        !matches!(error, Error::Timeout { .. } | Error::Replaced { .. }) && self.has_ended_with(error)
    }

    /// Returns whether the process runs no source or sink but this one, so that
    /// its work is that one's. Functions work only while they are called.
    pub(crate) fn runs_only(&self, control: &Control) -> bool {
        lock(&self.live).iter().all(|other| other == control)
    }

    /// Returns whether the process is being replaced.
    pub(crate) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::SeqCst)
    }

    /// Starts a source or a sink; [`Running::stop_symbol`] must follow. If the
    /// start fails but the symbol may run nevertheless, it is stopped as soon
    /// as the plugin accepts commands, and before it is started again.
    pub(crate) fn start_symbol(&self, control: &Control) -> Result<()> {
        self.stop_strays()?;
        let started = self.command(CommandKind::Start, control, self.site.options.init_timeout);
        started.map_err(Error::or_shortage)?;
        if control.plugin_type != SymbolKind::Function {
            lock(&self.live).push(control.clone());
        }
        Ok(())
    }

    /// Stops a source or a sink, and repeats the stop until it takes effect:
    /// the official Python SDK answers `ok` to a stop during a start, and
    /// ignores it (fault 13). `has_stopped` waits for the symbol's end, at most
    /// for the given time. A symbol that still runs keeps its addresses: it
    /// would write to whatever listens there.
    pub(crate) fn stop_symbol(
        &self,
        control: &Control,
        mut has_stopped: impl FnMut(Duration) -> bool,
    ) -> Result<Stopped> {
        let stopping = self.begin_stop();
        let mut live = lock(&self.live);
        let before = live.len();
        live.retain(|other| other != control);
        let is_ended = self.is_left() || self.has_told_all.load(Ordering::SeqCst);
        let is_told_by_others = live.len() == before && is_ended;
        drop(live);
        if is_told_by_others {
            drop(stopping);
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
                return Ok(Stopped::StillRuns);
            }
            tracing::debug!(plugin = self.name, symbol = control.symbol_name, "a stop was ignored: sending it again");
            pause = (pause * 2).min(MAX_STOP_PAUSE);
        }
        Ok(Stopped::WithProcess)
    }

    /// Returns the error of a stop after which the symbol still runs.
    pub(crate) fn still_runs(&self, control: &Control) -> Error {
        let words = format!("{} {}: it still runs after its stop", control.plugin_type, control.symbol_name);
        let what = Subject::from(words).about(&self.name, Some(&control.symbol_name));
        Error::Timeout { plugin: self.name.clone(), what, after: self.site.options.recv_timeout }
    }

    /// Stops the symbols that may run without a handle.
    ///
    /// # Errors
    /// The plugin accepts no command; the remaining strays are stopped later.
    fn stop_strays(&self) -> Result<()> {
        let patience = self.site.options.recv_timeout;
        let Some(_alone) = self.stopping_strays.lock(Instant::now() + patience) else {
            let what = Subject::from("the stop of a symbol without a handle").about(&self.name, None).not_sent();
            return Err(Error::Timeout { plugin: self.name.clone(), what, after: patience });
        };
        // A stray that is not stopped now is added again.
        let strays = std::mem::take(&mut *lock(&self.strays));
        let mut stopped = Ok(());
        for control in strays {
            match &stopped {
                Ok(()) => match self.command(CommandKind::Stop, &control, patience) {
                    // The symbol runs no more, or never did.
                    Ok(()) | Err(Error::Refused { .. }) => {}
                    failed => stopped = failed,
                },
                Err(_) => self.add_stray(&control),
            }
        }
        stopped
    }

    /// Records a source or a sink that may run without a handle, and has it
    /// stopped as soon as the plugin accepts commands.
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
            // The thread started for the first stray stops all.
            return;
        }
        let own = self.own.clone();
        let stop = move || {
            while let Some(running) = own.upgrade() {
                if running.scope.is_over() || lock(&running.strays).is_empty() {
                    return;
                }
                if running.control.is_ready() == Some(true) {
                    // A stray that is not stopped gets a new thread.
                    let _ = running.stop_strays();
                    return;
                }
                if running.process.wait(STRAY_LOOK).is_some() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("{}-stop", self.name)).spawn(stop) {
            // The next start stops the stray.
            tracing::debug!(plugin = self.name, error = %Chain(&error), "cannot start a thread");
        }
    }

    /// Returns whether a channel has ended because its process is ending;
    /// `None` if that is not known by the deadline. Our SDK closes the control
    /// channel first, then its symbols, which may take a while.
    pub(crate) fn is_ending(&self, deadline: Deadline) -> Option<bool> {
        if self.is_left() || self.process.wait(Duration::ZERO).is_some() {
            return Some(true);
        }
        // Otherwise it was neither the end of the process, which would be
        // visible, nor the start of a graceful one. Other transports report
        // ends in any order, and child processes may hold the channels open.
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

    /// Records that the process listens at `address` from now on.
    pub(crate) fn mark_listening(&self, address: &Address) {
        let mut sockets = lock(&self.sockets);
        if !sockets.contains(address) {
            sockets.push(address.clone());
        }
    }

    /// Records that the process has closed a socket after being told to.
    pub(crate) fn mark_closed(&self, address: &Address) {
        lock(&self.sockets).retain(|other| other != address);
    }

    /// Removes the sockets that the process left behind, if it has ended.
    pub(crate) fn sweep(&self) {
        if self.process.exit().is_none() {
            return;
        }
        for address in std::mem::take(&mut *lock(&self.sockets)) {
            let _ = socket_file::remove_stale(&address);
        }
    }

    fn command(&self, kind: CommandKind, control: &Control, patience: Duration) -> Result<()> {
        let words = || format!("{kind} {} {}", control.plugin_type, control.symbol_name);
        let what = || Subject::from(words()).about(&self.name, Some(&control.symbol_name));
        let reports =
            control.plugin_type == SymbolKind::Sink && !control.requires_ack() && self.has(Feature::Collected);
        let control = control.clone().with_format(self.format(control.plugin_type)).with_reports(reports);
        let encoded = Command { kind, control: control.clone() }
            .encode()
            .map_err(|source| Error::Message { what: what().not_sent(), source: source.into() })?;
        self.replace_if_hung()?;
        let now = Instant::now();
        let answer = self.control.exchange(&encoded, now + patience, now + patience, <[u8]>::to_vec);
        if let Err(Failure::Timeout) = answer {
            *lock(&self.hung) = Some(words());
            if lock(&self.live).is_empty() && lock(&self.functions).is_empty() {
                // Other plugins are not affected.
                self.replace(&words());
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
                // The process is gone, and with it whatever it may have
                // started.
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
            text: ekuiper_core::printable::lines(String::from_utf8_lossy(&answer).trim_end()).into_owned(),
        })
    }

    /// Replaces the process of a plugin that hangs in a command, since it
    /// cannot execute any other (fault 18).
    fn replace_if_hung(&self) -> Result<()> {
        let mut hung = lock(&self.hung);
        match self.control.is_ready() {
            Some(true) => *hung = None,
            Some(false) => {}
            // The plugin is executing a command.
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

    /// Returns the channel of a function, after starting it if necessary.
    pub(crate) fn function(&self, symbol: &str) -> Result<Arc<Channel>> {
        let slot = lock(&self.functions).entry(symbol.to_owned()).or_default().clone();
        let ended = slot.ends.load(Ordering::SeqCst);
        let patience = self.site.options.init_timeout;
        // Per function, so that one start does not block another's.
        let Some(mut state) = slot.state.lock(Instant::now() + patience) else {
            let what = self.function_subject(symbol, format!("function {symbol} (it is being started)")).not_sent();
            return Err(Error::Timeout { plugin: self.name.clone(), what, after: patience });
        };
        // The start has ended since this caller began to wait.
        if let Some((end, error)) = &state.failure
            && *end > ended
        {
            return Err(error.clone());
        }
        match state.function.as_ref().map(|function| function.channel.clone()) {
            Some(channel) if channel.is_lost() => {
                slot.start(&mut state, |_| self.reconnect_function(symbol, &channel))?;
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
        let what = || self.function_subject(symbol, format!("function {symbol} of plugin {}", self.name)).not_sent();
        let message = |source: ekuiper_core::Error| Error::Message { what: what(), source: source.into() };
        let claim = self.site.claim(self.folder.function(symbol).map_err(message)?, what())?;
        let channel = Channel::listen_for_function(&self.scope, &claim.address);
        let channel = Arc::new(channel.map_err(|source| self.channel_error(what(), source))?);
        // Read from now on: a plugin may send much before it answers.
        let watch = self.site.idle_reader.watch(&what(), channel.clone()).inspect_err(|_| channel.close())?;
        channel.enable_tasks(&watch);
        let started = self.start_symbol(&Control::function(symbol)).and_then(|()| {
            let patience = self.site.options.init_timeout;
            let ready = channel.wait_ready(Instant::now() + patience, false);
            ready.map_err(|failure| {
                self.explain(
                    failure,
                    self.function_subject(symbol, format!("the handshake of function {symbol}")),
                    patience,
                )
            })
        });
        match started {
            Ok(()) => Ok(FunctionChannel { channel, _watch: watch, _claim: claim }),
            Err(error) => {
                // Closed, since the idle reader may hold it a moment longer:
                // the address is free.
                channel.close();
                Err(error.or_shortage())
            }
        }
    }

    /// Waits for a function whose connection has ended to reconnect by itself,
    /// and otherwise starts it again: the official Python SDK ends the function
    /// with its connection.
    fn reconnect_function(&self, symbol: &str, channel: &Channel) -> Result<()> {
        match channel.await_reconnect() {
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
            ready.map_err(|failure| {
                self.explain(
                    failure,
                    self.function_subject(symbol, format!("the handshake of function {symbol}")),
                    patience,
                )
            })
        });
        match started {
            // The next process serves the function.
            Err(_) if self.is_over() => Ok(()),
            started => started,
        }
    }

    /// Returns the error of a failed exchange: the request, and the state of
    /// the process.
    pub(crate) fn explain(&self, failure: Failure, what: Subject, after: Duration) -> Error {
        let plugin = self.name.clone();
        match failure {
            Failure::OutcomeUnknown => Error::OutcomeUnknown { plugin, what, exit: self.process.exit_soon() },
            Failure::ProcessEnded => self.closed_error(),
            Failure::Timeout => Error::Timeout { plugin, what, after },
            Failure::NotReady(NotReady::NoPeer) | Failure::Lost => {
                let what = what.in_words(format!("{what} (it is not connected)")).not_sent();
                Error::Timeout { plugin, what, after }
            }
            Failure::NotReady(NotReady::Busy) => {
                let what = what.in_words(format!("{what} (it is still executing an earlier call)")).not_sent();
                Error::Timeout { plugin, what, after }
            }
            Failure::AnswerTooLong(length) => {
                let max = self.site.options.max_message as u64;
                let what = what.in_words(format!("plugin {plugin}: the answer to {what}")).answered();
                transport_error(what)(TransportError::TooLong { length, max })
            }
            Failure::Garbage(said) => Error::Garbage { plugin, said: String::from_utf8_lossy(&said).into_owned() },
            Failure::Transport(source) => {
                let what = what.in_words(format!("plugin {plugin}: {what}"));
                self.channel_error(what, source)
            }
        }
    }

    fn function_subject(&self, symbol: &str, words: String) -> Subject {
        Subject::from(words).about(&self.name, Some(symbol))
    }

    /// Returns the error of one of the process's channels other than its
    /// control and function channels: the end of the process, if that ended the
    /// channel.
    pub(crate) fn channel_error(&self, what: Subject, source: TransportError) -> Error {
        let plugin = || self.name.clone();
        match source {
            TransportError::Closed => self.closed_error(),
            TransportError::Disconnected => match self.process.exit_soon() {
                Some(exit) => Error::Exited { plugin: plugin(), exit },
                None => transport_error(what)(TransportError::Disconnected),
            },
            source => transport_error(what)(source),
        }
    }

    /// Returns the error of a channel that was closed on this side: with the
    /// process, or, while that is alive, because the host is shut down or the
    /// channel's handle was stopped.
    fn closed_error(&self) -> Error {
        match self.process.wait(EXIT_GRACE) {
            Some(exit) => Error::Exited { plugin: self.name.clone(), exit },
            None => Error::Stopped,
        }
    }

    /// Releases the addresses of the control and function channels of a process
    /// that has ended, for the next one, even while handles hold this.
    pub(crate) fn retire(&self) {
        self.control.close();
        for slot in std::mem::take(&mut *lock(&self.functions)).into_values() {
            // A start in progress ends with the process, and is closed with its
            // last reference.
            if let Some(mut state) = slot.state.lock(Instant::now() + EXIT_GRACE)
                && let Some(function) = state.function.take()
            {
                function.channel.close();
            }
        }
        lock(&self.claim).take();
        self.sweep();
    }

    /// Stops new work in a process that is being replaced, and waits for the
    /// calls in flight, at most until the deadline.
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

    /// Stops sources and sinks, then ends the process. Its output can still be
    /// read.
    pub(crate) fn end(&self) {
        self.stop_all();
        self.process.terminate(self.site.options.grace);
        self.retire();
    }

    /// Stops sources and sinks, ends every wait for the process, then ends it.
    /// Reports of its sinks are read until the end.
    pub(crate) fn shutdown(&self) {
        self.stop_all();
        self.scope.close_all_but_reports();
        self.process.terminate(self.site.options.grace);
        // In case the kernel still holds the process.
        self.scope.close();
        self.sweep();
    }

    /// Records that a caller stops symbols, until its guard is dropped.
    fn begin_stop(&self) -> Stopping<'_> {
        self.stopping.fetch_add(1, Ordering::SeqCst);
        Stopping(&self.stopping)
    }

    /// Stops all symbols that no other caller stops, then waits for those
    /// callers: a process that is ended meanwhile would refuse.
    fn stop_all(&self) {
        let deadline = Instant::now() + self.site.options.grace;
        self.stop_rest(deadline);
        while self.stopping.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            if self.process.wait(STOPPING_LOOK).is_some() {
                return;
            }
        }
    }

    fn stop_rest(&self, deadline: Instant) {
        let _stopping = self.begin_stop();
        let mut live = lock(&self.live);
        self.has_told_all.store(true, Ordering::SeqCst);
        let rest = std::mem::take(&mut *live);
        drop(live);
        for control in rest {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.process.exit().is_some() {
                break;
            }
            if let Err(error) = self.command(CommandKind::Stop, &control, left) {
                tracing::warn!(plugin = self.name, error = %Chain(&error), "a symbol was not stopped");
            }
        }
    }
}

/// Guard of a caller that stops symbols.
struct Stopping<'a>(&'a AtomicUsize);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sweep();
    }
}
