//! A plugin and its running process: started when first needed, its symbols
//! started and stopped over the control channel.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use ekuiper_core::address::{Address, DEFAULT_FOLDER, Registry, SocketFolder};
use ekuiper_core::exchange::NotReady;
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::message::{ANSWER_OK, Command, CommandKind, Control, SymbolKind};
use ekuiper_core::transport::{Transport, TransportError};

use crate::catalog::Package;
use crate::channel::{Channel, Failure};
use crate::command::CommandLine;
use crate::keeper::{Keeper, Watch};
use crate::options::Options;
use crate::process::{Exit, Process};
use crate::{Error, Result};

/// How long a plugin may take to shake hands when somebody else has its
/// control address in `/tmp`: one that takes the folder from its launch
/// options needs far less, and any other must be refused soon.
const PATIENCE_IN_A_CLASH: Duration = Duration::from_secs(5);

/// How long the process's end may follow its connection's.
const EXIT_GRACE: Duration = Duration::from_millis(100);

/// What all plugins of a host share.
pub(crate) struct Site {
    pub(crate) options: Options,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) keeper: Keeper,
    /// The host's own socket folder.
    pub(crate) folder: SocketFolder,
    pub(crate) addresses: Mutex<Registry>,
}

impl Site {
    pub(crate) fn claim(self: &Arc<Self>, address: Address, owner: String) -> Result<Claim> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.claim(&address, &owner).map_err(|source| Error::Message { what: owner, source })?;
        Ok(Claim { site: self.clone(), address })
    }
}

/// An address that nobody else of this host uses meanwhile.
pub(crate) struct Claim {
    site: Arc<Site>,
    pub(crate) address: Address,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.site.addresses.lock().unwrap_or_else(PoisonError::into_inner).release(&self.address);
    }
}

/// A plugin of a host, whether it runs or not.
pub(crate) struct Plugin {
    pub(crate) package: Package,
    site: Arc<Site>,
    state: Mutex<PluginState>,
}

enum PluginState {
    Idle,
    Running(Arc<Running>),
    /// The host is shut down.
    Closed,
}

impl Plugin {
    pub(crate) fn new(package: Package, site: Arc<Site>) -> Self {
        Self { package, site, state: Mutex::new(PluginState::Idle) }
    }

    fn lock(&self) -> MutexGuard<'_, PluginState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running process, started if there is none.
    pub(crate) fn running(&self) -> Result<Arc<Running>> {
        // Held while it starts: others who need this plugin wait for the same
        // start, those who need another plugin do not.
        let mut state = self.lock();
        match &*state {
            PluginState::Closed => return Err(Error::Stopped),
            PluginState::Running(running) if running.process.exit().is_none() => return Ok(running.clone()),
            PluginState::Running(_) | PluginState::Idle => {}
        }
        *state = PluginState::Idle;
        let running = Running::start(&self.package, &self.site)?;
        *state = PluginState::Running(running.clone());
        Ok(running)
    }

    /// The process id, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &*self.lock() {
            PluginState::Running(running) if running.process.exit().is_none() => Some(running.process.pid()),
            _ => None,
        }
    }

    /// Ends the process; it is not started again.
    pub(crate) fn shutdown(&self) {
        let former = std::mem::replace(&mut *self.lock(), PluginState::Closed);
        if let PluginState::Running(running) = former {
            running.shutdown();
        }
    }
}

/// Something that waits for a running plugin, and must not outlive it.
pub(crate) trait Dependent: Send + Sync {
    /// The process has ended: nothing new will come.
    fn process_ended(&self);
    /// End every wait now.
    fn close(&self);
}

impl Dependent for Channel {
    fn process_ended(&self) {
        Channel::process_ended(self);
    }

    fn close(&self) {
        Channel::close(self);
    }
}

/// A running plugin process.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) site: Arc<Site>,
    pub(crate) process: Process,
    /// The folder that its SDK uses.
    pub(crate) folder: SocketFolder,
    control: Arc<Channel>,
    functions: Mutex<HashMap<String, Arc<Mutex<Option<FunctionChannel>>>>>,
    dependents: Arc<Mutex<Dependents>>,
    /// Sources and sinks that are to be stopped before the process is.
    live: Mutex<Vec<Control>>,
    _claims: Vec<Claim>,
    _watch: Watch,
}

#[derive(Default)]
struct Dependents {
    process_ended: bool,
    all: Vec<Weak<dyn Dependent>>,
}

#[derive(Clone)]
struct FunctionChannel {
    channel: Arc<Channel>,
    _watch: Arc<Watch>,
    _claim: Arc<Claim>,
}

impl Running {
    fn start(package: &Package, site: &Arc<Site>) -> Result<Arc<Self>> {
        let name = package.name.clone();
        let (transport, options) = (&site.transport, &site.options);
        let mut launch = LaunchOptions::default();
        launch.ipc_dir = Some(site.folder.path().to_owned());
        launch.log_level = options.log_level.clone();
        if transport.name() != "uds" {
            launch.transport = Some(transport.name().to_owned());
        }
        let what = || format!("plugin {name}");
        let message = |source| Error::Message { what: what(), source };
        let line = CommandLine::new(package, options.python_bin.as_deref(), &launch.to_argument().map_err(message)?)?;

        // It dials either the host's own folder or /tmp: listen on both.
        let mut folders = vec![site.folder.clone()];
        if options.ipc_dir.is_none() {
            folders.push(SocketFolder::new(DEFAULT_FOLDER));
        }
        let mut candidates = Vec::new();
        let mut clash = None;
        for folder in folders {
            let address = folder.control(&name).map_err(message)?;
            let claim = site.claim(address, format!("plugin {name}"))?;
            match Channel::listen(&**transport, &claim.address, &options.transport()) {
                Ok(channel) => candidates.push(Candidate { folder, channel: Arc::new(channel), claim }),
                Err(error) if candidates.is_empty() => return Err(transport_error(what())(error)),
                Err(error) => clash = Some(error),
            }
        }

        let dependents = Arc::new(Mutex::new(Dependents::default()));
        let (report, reports) = mpsc::channel();
        let (on_exit, exited) = (dependents.clone(), report.clone());
        let process = Process::spawn(&name, &line, move || {
            lock(&on_exit).process_has_ended();
            let _ = exited.send(Report::Exited);
        })?;

        let patience = match clash {
            Some(_) => options.init_timeout.min(PATIENCE_IN_A_CLASH),
            None => options.init_timeout,
        };
        let deadline = Instant::now() + patience;
        for (index, candidate) in candidates.iter().enumerate() {
            let (channel, report) = (candidate.channel.clone(), report.clone());
            // Only the plugin reaches the host's own folder.
            let strict = index == 0;
            std::thread::Builder::new()
                .name(format!("{name}-handshake"))
                .spawn(move || {
                    let outcome = channel.wait_ready(deadline, strict);
                    let _ = report.send(Report::Waited(index, outcome));
                })
                .map_err(|source| Error::Spawn { plugin: name.clone(), command: line.display(), source })?;
        }
        drop(report);
        let chosen = await_handshake(&reports, candidates.len());
        let fail = |error| {
            candidates.iter().for_each(|candidate| candidate.channel.close());
            process.terminate(options.grace);
            Err(error)
        };
        let chosen = match chosen {
            Handshake::From(index) => index,
            Handshake::Exited => {
                let exit = process.wait(EXIT_GRACE).unwrap_or_else(|| unknown_exit(&process));
                return fail(Error::EarlyExit { plugin: name.clone(), exit });
            }
            Handshake::Garbage(said) => {
                let said = String::from_utf8_lossy(&said).into_owned();
                return fail(Error::Garbage { plugin: name.clone(), said });
            }
            Handshake::None => {
                if let Some(source) = clash {
                    return fail(Error::Transport { what: what(), source });
                }
                let garbage = candidates.iter().find_map(|candidate| candidate.channel.take_garbage());
                if let Some(said) = garbage {
                    let said = String::from_utf8_lossy(&said).into_owned();
                    return fail(Error::Garbage { plugin: name.clone(), said });
                }
                let tail = process.tail();
                let note = if tail.is_empty() { String::new() } else { format!(" (it wrote: {tail})") };
                return fail(Error::NoHandshake { plugin: name.clone(), after: patience, note });
            }
        };
        let Candidate { folder, channel: control, claim } = candidates.swap_remove(chosen);
        candidates.into_iter().for_each(|other| other.channel.close());
        let watch = site.keeper.watch(control.clone());
        let running = Arc::new(Self {
            name,
            site: site.clone(),
            process,
            folder,
            control: control.clone(),
            functions: Mutex::default(),
            dependents,
            live: Mutex::default(),
            _claims: vec![claim],
            _watch: watch,
        });
        running.depends(&(control as Arc<dyn Dependent>));
        tracing::info!(plugin = running.name, pid = running.process.pid(), "plugin is ready");
        Ok(running)
    }

    /// Tells `dependent` when the process ends.
    pub(crate) fn depends(&self, dependent: &Arc<dyn Dependent>) {
        let mut dependents = lock(&self.dependents);
        dependents.all.retain(|other| other.strong_count() > 0);
        dependents.all.push(Arc::downgrade(dependent));
        if dependents.process_ended {
            dependent.process_ended();
        }
    }

    /// Starts a source or a sink; [`Running::stop_symbol`] must follow.
    pub(crate) fn start_symbol(&self, control: &Control) -> Result<()> {
        self.command(CommandKind::Start, control, self.site.options.init_timeout)?;
        if control.plugin_type != SymbolKind::Function {
            lock(&self.live).push(control.clone());
        }
        Ok(())
    }

    /// Stops a source or a sink.
    pub(crate) fn stop_symbol(&self, control: &Control) -> Result<()> {
        lock(&self.live).retain(|other| other != control);
        if self.process.exit().is_some() {
            return Ok(());
        }
        self.command(CommandKind::Stop, control, self.site.options.recv_timeout)
    }

    fn command(&self, kind: CommandKind, control: &Control, patience: Duration) -> Result<()> {
        let what = || format!("{kind} {} {}", control.plugin_type, control.symbol_name);
        let encoded = Command { kind, control: control.clone() }
            .encode()
            .map_err(|source| Error::Message { what: what(), source })?;
        let now = Instant::now();
        let answer = self.control.exchange(&encoded, now + patience, now + patience, <[u8]>::to_vec);
        let answer = answer.map_err(|failure| self.explain(failure, what(), patience))?;
        if answer == ANSWER_OK {
            return Ok(());
        }
        Err(Error::Refused {
            plugin: self.name.clone(),
            command: kind.to_string(),
            kind: control.plugin_type,
            symbol: control.symbol_name.clone(),
            text: String::from_utf8_lossy(&answer).trim_end().to_owned(),
        })
    }

    /// The channel of a function, started if it is not.
    pub(crate) fn function(&self, symbol: &str) -> Result<Arc<Channel>> {
        let slot = lock(&self.functions).entry(symbol.to_owned()).or_default().clone();
        // One function's start does not hold up another's.
        let mut slot = lock(&slot);
        if let Some(function) = &*slot {
            return Ok(function.channel.clone());
        }
        let what = || format!("function {symbol} of plugin {}", self.name);
        let message = |source| Error::Message { what: what(), source };
        let claim = self.site.claim(self.folder.function(symbol).map_err(message)?, what())?;
        let channel = Channel::listen(&*self.site.transport, &claim.address, &self.site.options.transport());
        let channel = Arc::new(channel.map_err(transport_error(what()))?);
        self.depends(&(channel.clone() as Arc<dyn Dependent>));
        self.start_symbol(&Control::function(symbol))?;
        let patience = self.site.options.init_timeout;
        channel
            .wait_ready(Instant::now() + patience, false)
            .map_err(|failure| self.explain(failure, format!("the handshake of function {symbol}"), patience))?;
        let watch = Arc::new(self.site.keeper.watch(channel.clone()));
        *slot = Some(FunctionChannel { channel: channel.clone(), _watch: watch, _claim: Arc::new(claim) });
        Ok(channel)
    }

    /// The error for a failed exchange: what was asked, and what became of the
    /// process.
    pub(crate) fn explain(&self, failure: Failure, what: String, after: Duration) -> Error {
        let plugin = self.name.clone();
        match failure {
            Failure::OutcomeUnknown => Error::OutcomeUnknown { plugin, what, exit: self.process.wait(EXIT_GRACE) },
            Failure::ProcessEnded => match self.process.wait(EXIT_GRACE) {
                Some(exit) => Error::Exited { plugin, exit },
                None => Error::Stopped,
            },
            Failure::Timeout => Error::Timeout { plugin, what, after },
            Failure::NotReady(NotReady::NoPeer) => {
                Error::Timeout { plugin, what: format!("{what} (it is not connected)"), after }
            }
            Failure::NotReady(NotReady::Busy) => {
                Error::Timeout { plugin, what: format!("{what} (it still works on an earlier call)"), after }
            }
            Failure::AnswerTooLong(length) => {
                let max = self.site.options.max_message as u64;
                transport_error(format!("plugin {plugin}: the answer to {what}"))(TransportError::TooLong {
                    length,
                    max,
                })
            }
            Failure::Garbage(said) => Error::Garbage { plugin, said: String::from_utf8_lossy(&said).into_owned() },
            Failure::Transport(source) => transport_error(format!("plugin {plugin}: {what}"))(source),
        }
    }

    /// Stops sources and sinks, then ends the process.
    fn shutdown(&self) {
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
        let dependents = std::mem::take(&mut lock(&self.dependents).all);
        dependents.iter().filter_map(Weak::upgrade).for_each(|dependent| dependent.close());
        self.control.close();
        self.process.terminate(self.site.options.grace);
    }
}

impl Dependents {
    fn process_has_ended(&mut self) {
        self.process_ended = true;
        self.all.iter().filter_map(Weak::upgrade).for_each(|dependent| dependent.process_ended());
    }
}

/// A control channel that the plugin may choose.
struct Candidate {
    folder: SocketFolder,
    channel: Arc<Channel>,
    claim: Claim,
}

enum Report {
    Waited(usize, Result<(), Failure>),
    Exited,
}

enum Handshake {
    From(usize),
    Exited,
    Garbage(Vec<u8>),
    None,
}

fn await_handshake(reports: &mpsc::Receiver<Report>, candidates: usize) -> Handshake {
    let mut over = 0;
    // Every wait has a deadline: as many reports come as there are candidates.
    while over < candidates {
        match reports.recv() {
            Ok(Report::Waited(index, Ok(()))) => return Handshake::From(index),
            Ok(Report::Waited(_, Err(Failure::Garbage(said)))) => return Handshake::Garbage(said),
            Ok(Report::Waited(_, Err(_))) => over += 1,
            Ok(Report::Exited) => return Handshake::Exited,
            Err(_) => break,
        }
    }
    Handshake::None
}

fn unknown_exit(process: &Process) -> Exit {
    Exit { code: None, signal: None, tail: process.tail() }
}

pub(crate) fn transport_error(what: String) -> impl FnOnce(TransportError) -> Error {
    move |source| Error::Transport { what, source }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the folder for a host's own sockets, or uses the one that was given.
pub(crate) fn socket_folder(given: Option<&Path>) -> Result<(SocketFolder, Option<tempfile::TempDir>)> {
    match given {
        Some(path) => {
            let fail = |source| Error::SocketFolder { path: path.to_owned(), source };
            let path = std::path::absolute(path).map_err(fail)?;
            std::fs::create_dir_all(&path).map_err(fail)?;
            // Writable by this process, whatever its permissions look like.
            tempfile::Builder::new().prefix(".ekuiper-").tempfile_in(&path).map_err(fail)?;
            Ok((SocketFolder::new(path), None))
        }
        None => {
            let fail = |source| Error::SocketFolder { path: std::env::temp_dir(), source };
            // tempfile makes it 0700.
            let folder = tempfile::Builder::new().prefix("ekuiper-").tempdir().map_err(fail)?;
            Ok((SocketFolder::new(folder.path()), Some(folder)))
        }
    }
}
