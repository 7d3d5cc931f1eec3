//! The start of a plugin: its process, its handshake, and the socket folder
//! that its SDK uses.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use ekuiper_core::Chain;
use ekuiper_core::address::SocketFolder;
use ekuiper_core::exchange::HostEnd;
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::message::{Hello, SymbolKind};
use ekuiper_core::transport::TransportError;
use ekuiper_transport_ipc::platform::ProcessHandle;
use ekuiper_transport_ipc::wait::deadline_after;
use rustix::process::Pid;

use crate::catalog::Package;
use crate::channel::dependents::ProcessScope;
use crate::channel::{Channel, Failure};
use crate::error::{system_error, transport_error};
use crate::options::Options;
use crate::process::command::CommandLine;
use crate::process::kin::Kin;
use crate::process::{EXIT_GRACE, Exit, Process};
use crate::site::{Claim, Site};
use crate::sync::lock;
use crate::{Error, Result, Subject};

/// Maximum time to the handshake when another process holds the plugin's
/// control address in `/tmp`. A plugin that takes the folder from its launch
/// options needs far less, and any other must be refused soon.
const PATIENCE_IN_A_CLASH: Duration = Duration::from_secs(5);

/// A process that completed its handshake.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) control: Arc<Channel>,
    /// Socket folder that the plugin's SDK uses.
    pub(crate) folder: SocketFolder,
    pub(crate) claim: Claim,
    /// The plugin's announcement of its features, if any.
    pub(crate) hello: Option<Hello>,
    /// The process's sockets, whose waits end with the process.
    pub(crate) scope: Arc<ProcessScope>,
}

/// Aborts the start in progress, and every later one if it is to.
#[derive(Default)]
pub(crate) struct Canceller(Mutex<Cancelled>);

#[derive(Default)]
struct Cancelled {
    is_set: bool,
    under_way: Option<mpsc::Sender<Report>>,
}

impl Canceller {
    /// Aborts the start in progress, and every later one.
    pub(crate) fn cancel(&self) {
        lock(&self.0).is_set = true;
        self.end_current();
    }

    /// Aborts the start in progress, if its process is there already.
    pub(crate) fn end_current(&self) {
        if let Some(start) = lock(&self.0).under_way.take() {
            let _ = start.send(Report::Cancelled);
        }
    }

    pub(super) fn watch(&self, start: &mpsc::Sender<Report>) -> Result<()> {
        let mut cancelled = lock(&self.0);
        if cancelled.is_set {
            return Err(Error::Stopped);
        }
        cancelled.under_way = Some(start.clone());
        Ok(())
    }

    pub(super) fn end_start(&self) {
        lock(&self.0).under_way = None;
    }

    fn is_set(&self) -> bool {
        lock(&self.0).is_set
    }
}

/// Starts a plugin, and waits for its handshake. `on_exit` is called, from
/// another thread, when its process has ended.
pub(crate) fn start(
    package: &Package,
    site: &Arc<Site>,
    canceller: &Canceller,
    on_exit: impl FnOnce(&Exit) + Send + 'static,
) -> Result<Started> {
    let common = site.common_folder();
    let common = (common != site.folder).then_some(common);
    launch(package, site, common, None, canceller, on_exit)?.started(package, &site.options)
}

/// Starts a plugin on a separate site, beside a running process of it, and
/// waits for its handshake: on that site, or in the `common` folder. If the
/// running process holds the control channel in the common folder, the new
/// process is not admitted there; its connection attempt is all that can be
/// tested, after which it is ended.
pub(crate) fn start_beside(
    former: Option<&Arc<Kin>>,
    package: &Package,
    site: &Arc<Site>,
    common: Option<SocketFolder>,
    canceller: &Canceller,
) -> Result<Option<Started>> {
    let launched = launch(package, site, common, former, canceller, |_| {})?;
    if let Some(former) = former {
        former.expect_no_visitor();
    }
    if let Handshake::WithFormer = launched.handshake {
        launched.end(&site.options);
        return Ok(None);
    }
    launched.started(package, &site.options).map(Some)
}

/// A started process, and the outcome of its handshake.
struct Launched {
    line: CommandLine,
    process: Process,
    scope: Arc<ProcessScope>,
    candidates: Vec<Candidate>,
    handshake: Handshake,
    /// Why the host cannot listen in the common folder.
    clash: Option<TransportError>,
    patience: Duration,
}

impl Launched {
    fn started(mut self, package: &Package, options: &Options) -> Result<Started> {
        let name = &package.name;
        let error = match self.handshake {
            Handshake::From(index) => {
                let hello = self.candidates[index].channel.hello();
                match hello.as_ref().map_or(Ok(()), |hello| check_symbols(package, hello)) {
                    Ok(()) => {
                        let Candidate { folder, channel: control, claim } = self.candidates.swap_remove(index);
                        self.candidates.into_iter().for_each(|other| other.channel.close());
                        let (process, scope) = (self.process, self.scope);
                        return Ok(Started { process, control, folder, claim, hello, scope });
                    }
                    Err(error) => error,
                }
            }
            Handshake::Nobody => match self.clash.take() {
                // Without the common folder, a plugin on an official SDK cannot
                // complete its handshake.
                Some(source) => {
                    let words = format!(
                        "plugin {name} did not complete its handshake within {:?}, and on an official SDK it cannot",
                        self.patience
                    );
                    transport_error(Subject::of_plugin(name).in_words(words).not_sent())(source)
                }
                None => self.failure(name),
            },
            // The other host closes its connection, which may be why it ended.
            Handshake::Exited => match (self.failure(name), self.clash.take()) {
                (error @ Error::EarlyExit { .. }, Some(source)) => {
                    let words = Chain(&error).to_string();
                    transport_error(Subject::of_plugin(name).in_words(words).not_sent())(source)
                }
                (error, _) => error,
            },
            _ => self.failure(name),
        };
        self.end(options);
        Err(error)
    }

    fn end(self, options: &Options) {
        self.candidates.iter().for_each(|candidate| candidate.channel.close());
        self.process.terminate(options.grace);
    }

    /// Returns the reason of a failed handshake.
    fn failure(&self, name: &str) -> Error {
        let (plugin, process) = (name.to_owned(), &self.process);
        let garbage = match &self.handshake {
            Handshake::Cancelled => return Error::Stopped,
            Handshake::Exited => {
                let exit = process.wait(EXIT_GRACE).unwrap_or_else(|| Exit::unknown(process.tail()));
                let reason = self.line.ended_for(name, &exit);
                return reason.unwrap_or_else(|| Error::EarlyExit { plugin, hint: self.line.hint(&exit), exit });
            }
            Handshake::Garbage(said) => Some(said.clone()),
            Handshake::From(_) | Handshake::WithFormer | Handshake::Nobody => {
                self.candidates.iter().find_map(|candidate| candidate.channel.take_garbage())
            }
        };
        if let Some(said) = garbage {
            return Error::Garbage { plugin, said: String::from_utf8_lossy(&said).into_owned() };
        }
        let tail = process.tail();
        let note = if tail.is_empty() { String::new() } else { format!(" (it wrote: {tail})") };
        Error::NoHandshake { plugin, after: self.patience, note }
    }
}

/// Checks that the plugin serves what its manifest lists; further symbols
/// cannot be used.
pub(super) fn check_symbols(package: &Package, hello: &Hello) -> Result<()> {
    for kind in SymbolKind::ALL {
        let (promised, served) = (package.manifest.symbols(kind), hello.symbols(kind));
        if let Some(missing) = promised.iter().find(|symbol| !served.contains(symbol)) {
            let instead = SymbolKind::ALL.into_iter().find(|other| hello.symbols(*other).contains(missing));
            return Err(Error::NotServed { plugin: package.name.clone(), kind, symbol: missing.clone(), instead });
        }
        if let Some(beyond) = not_promised(kind, promised, served) {
            tracing::warn!(plugin = package.name, "{beyond}");
        }
    }
    Ok(())
}

/// Describes the symbols that a plugin serves beyond its manifest, naming a
/// few.
fn not_promised(kind: SymbolKind, promised: &[String], served: &[String]) -> Option<String> {
    const NAMED: usize = 5;
    const LETTERS: usize = 40;
    let promised: HashSet<_> = promised.iter().collect();
    let mut beyond = served.iter().filter(|symbol| !promised.contains(symbol));
    let short = |name: &String| match name.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.clone(),
    };
    let named: Vec<_> = beyond.by_ref().take(NAMED).map(short).collect();
    if named.is_empty() {
        return None;
    }
    let named = named.join(", ");
    Some(match beyond.count() {
        0 => format!("{kind} {named}: not in its manifest, cannot be used"),
        more => format!("{kind} {named} and {more} more: not in its manifest, cannot be used"),
    })
}

fn launch(
    package: &Package,
    site: &Arc<Site>,
    common: Option<SocketFolder>,
    former: Option<&Arc<Kin>>,
    canceller: &Canceller,
    on_exit: impl FnOnce(&Exit) + Send + 'static,
) -> Result<Launched> {
    let name = &package.name;
    let options = &site.options;
    let is_cancelled = || canceller.is_set();
    let mut line = CommandLine::new(package, options.python_bin.as_deref(), &launch_json(name, site)?, &is_cancelled)?;
    let own = options.plugin_options.get(name).cloned().unwrap_or_default();
    line.directory = own.dir_or(&line.directory).to_owned();
    // Without another candidate folder, this one may not be the plugin's alone.
    let is_private = common.is_some() || former.is_some();
    let scope = site.process_scope(name);
    let (candidates, clash) = listen(name, site, &scope, common)?;

    let (report, reports) = mpsc::channel();
    let (sockets, exited) = (scope.clone(), report.clone());
    canceller.watch(&report)?;
    if let Some(former) = former {
        let report = report.clone();
        former.expect_visitor(scope.kin(), move || {
            let _ = report.send(Report::Visited);
        });
    }
    let on_exit = move |exit: &Exit| {
        // Sent before the waits for the handshake end, which would report only
        // that.
        let _ = exited.send(Report::Exited);
        sockets.process_ended();
        on_exit(exit);
        sockets.kin().end();
    };
    let process = scope.kin().start(|| Process::spawn(name, &line, &own, &options.plugin_log, on_exit))?;
    let patience = match clash {
        Some(_) => options.init_timeout.min(PATIENCE_IN_A_CLASH),
        None => options.init_timeout,
    };
    let deadline = deadline_after(patience);
    for (index, candidate) in candidates.iter().enumerate() {
        let (channel, report) = (candidate.channel.clone(), report.clone());
        // Only the plugin can reach a folder of the host's own.
        let strict = index == 0 && is_private;
        let wait = move || {
            let outcome = channel.wait_ready(deadline, strict);
            let _ = report.send(Report::Waited(index, outcome));
        };
        let spawned = std::thread::Builder::new().name(format!("{name}-handshake")).spawn(wait);
        spawned.map_err(system_error(Subject::of_plugin(name), "a thread"))?;
    }
    let handshake = await_handshake(&reports, candidates.len());
    canceller.end_start();
    Ok(Launched { line, process, scope, candidates, handshake, clash, patience })
}

/// Returns the launch options, passed on the command line.
fn launch_json(name: &str, site: &Site) -> Result<String> {
    let mut launch = LaunchOptions::default();
    launch.ipc_dir = Some(site.folder.path().to_owned());
    launch.log_level = site.options.log_level.clone();
    launch.supervises = true;
    launch.hello = Some(Hello::VERSION);
    launch.max_message = Some(site.options.max_message);
    if site.transport_name() != "uds" {
        launch.transport = Some(site.transport_name().to_owned());
    }
    launch
        .to_argument()
        .map_err(|source| Error::Message { what: Subject::of_plugin(name).not_sent(), source: source.into() })
}

/// Listens in the site's own folder and in the common one, since a plugin
/// connects to its control channel in either. A failure in the second matters
/// only to a plugin that needs it.
fn listen(
    name: &str,
    site: &Arc<Site>,
    scope: &Arc<ProcessScope>,
    common: Option<SocketFolder>,
) -> Result<(Vec<Candidate>, Option<TransportError>)> {
    let what = || Subject::of_plugin(name).not_sent();
    let mut candidates = Vec::new();
    let mut clash = None;
    for folder in std::iter::once(site.folder.clone()).chain(common) {
        let address = folder.control(name).map_err(|source| Error::Message { what: what(), source: source.into() })?;
        let claim = site.claim(address, what())?;
        match Channel::listen(scope, &claim.address, HostEnd::hearing_hello()) {
            Ok(channel) => candidates.push(Candidate { folder, channel: Arc::new(channel), claim }),
            Err(error) if candidates.is_empty() => return Err(transport_error(what())(error)),
            Err(error) => clash = Some(error),
        }
    }
    Ok((candidates, clash))
}

/// A control channel that the plugin may connect to.
struct Candidate {
    folder: SocketFolder,
    channel: Arc<Channel>,
    claim: Claim,
}

pub(super) enum Report {
    Waited(usize, Result<(), Failure>),
    /// A process of an attached plugin has completed its handshake. With a handle
    /// of it.
    Came(Pid, ProcessHandle),
    Exited,
    Cancelled,
    /// The process has connected to the channel of the running process.
    Visited,
}

enum Handshake {
    From(usize),
    /// The handshake was with the running process.
    WithFormer,
    /// The process has ended.
    Exited,
    Cancelled,
    /// A connection in the host's own folder sent this instead.
    Garbage(Vec<u8>),
    /// No handshake by the deadline.
    Nobody,
}

fn await_handshake(reports: &mpsc::Receiver<Report>, candidates: usize) -> Handshake {
    let mut over = 0;
    // Every wait has a deadline, so there is one report per candidate.
    while over < candidates {
        match reports.recv() {
            Ok(Report::Waited(index, Ok(()))) => return Handshake::From(index),
            Ok(Report::Waited(_, Err(Failure::Garbage(said)))) => return Handshake::Garbage(said),
            Ok(Report::Waited(_, Err(_))) => over += 1,
            Ok(Report::Exited) => return Handshake::Exited,
            Ok(Report::Cancelled) => return Handshake::Cancelled,
            Ok(Report::Visited) => return Handshake::WithFormer,
            Ok(Report::Came(..)) => unreachable!("a process that was started is not waited for in this way"),
            Err(_) => break,
        }
    }
    Handshake::Nobody
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_symbols_are_one_short_sentence() {
        let served: Vec<_> = (0..1_000_000).map(|number| format!("{number}{}", "x".repeat(90))).collect();
        let said = not_promised(SymbolKind::Function, &served[..2], &served).unwrap();
        assert!(said.len() < 400 && said.ends_with("and 999993 more: not in its manifest, cannot be used"), "{said}");
        assert_eq!(not_promised(SymbolKind::Sink, &served[..9], &served[..9]), None);
        let few = ["a", "b", "c"].map(String::from);
        let said = not_promised(SymbolKind::Sink, &few[..1], &few).unwrap();
        assert_eq!(said, "sink b, c: not in its manifest, cannot be used");
    }
}
