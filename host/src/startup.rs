//! The start of a plugin: its process, its handshake, and which socket folder
//! its SDK uses.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use ekuiper_core::address::{DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::transport::TransportError;

use crate::catalog::Package;
use crate::channel::{Channel, Failure};
use crate::command::CommandLine;
use crate::dependents::{Dependent, Dependents};
use crate::error::transport_error;
use crate::process::{EXIT_GRACE, Exit, Process};
use crate::site::{Claim, Site, lock};
use crate::{Error, Result};

/// How long a plugin may take to shake hands when somebody else has its
/// control address in `/tmp`: one that takes the folder from its launch
/// options needs far less, and any other must be refused soon.
const PATIENCE_IN_A_CLASH: Duration = Duration::from_secs(5);

/// A process that has shaken hands.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) control: Arc<Channel>,
    /// The folder that its SDK uses.
    pub(crate) folder: SocketFolder,
    pub(crate) claim: Claim,
    /// Those who are told of the process's end.
    pub(crate) dependents: Arc<Mutex<Dependents>>,
}

/// Ends the start that is under way, and every later one.
#[derive(Default)]
pub(crate) struct Canceller(Mutex<Cancelled>);

#[derive(Default)]
struct Cancelled {
    is_set: bool,
    under_way: Option<mpsc::Sender<Report>>,
}

impl Canceller {
    pub(crate) fn cancel(&self) {
        let mut cancelled = lock(&self.0);
        cancelled.is_set = true;
        if let Some(start) = cancelled.under_way.take() {
            let _ = start.send(Report::Cancelled);
        }
    }

    fn watch(&self, start: &mpsc::Sender<Report>) -> Result<()> {
        let mut cancelled = lock(&self.0);
        if cancelled.is_set {
            return Err(Error::Stopped);
        }
        cancelled.under_way = Some(start.clone());
        Ok(())
    }

    fn is_over(&self) {
        lock(&self.0).under_way = None;
    }
}

/// Starts a plugin, and waits for its handshake.
/// `on_exit` is called, from another thread, when its process has ended.
pub(crate) fn start(
    package: &Package,
    site: &Arc<Site>,
    canceller: &Canceller,
    on_exit: impl FnOnce() + Send + 'static,
) -> Result<Started> {
    let name = &package.name;
    let options = &site.options;
    let line = CommandLine::new(package, options.python_bin.as_deref(), &launch_json(name, site)?)?;
    let (mut candidates, clash) = listen(name, site)?;

    let dependents = Arc::new(Mutex::new(Dependents::default()));
    let (report, reports) = mpsc::channel();
    let (told, exited) = (dependents.clone(), report.clone());
    canceller.watch(&report)?;
    let process = Process::spawn(name, &line, move || {
        lock(&told).process_has_ended();
        let _ = exited.send(Report::Exited);
        on_exit();
    })?;
    let patience = match clash {
        Some(_) => options.init_timeout.min(PATIENCE_IN_A_CLASH),
        None => options.init_timeout,
    };
    let deadline = Instant::now() + patience;
    for (index, candidate) in candidates.iter().enumerate() {
        let (channel, report) = (candidate.channel.clone(), report.clone());
        // Only the plugin reaches a folder of the host's own.
        let strict = index == 0 && options.ipc_dir.is_none();
        let wait = move || {
            let outcome = channel.wait_ready(deadline, strict);
            let _ = report.send(Report::Waited(index, outcome));
        };
        let spawned = std::thread::Builder::new().name(format!("{name}-handshake")).spawn(wait);
        spawned.map_err(|source| Error::Spawn { plugin: name.clone(), command: line.display(), source })?;
    }
    let handshake = await_handshake(&reports, candidates.len());
    canceller.is_over();

    if let Handshake::From(index) = handshake {
        let Candidate { folder, channel: control, claim } = candidates.swap_remove(index);
        candidates.into_iter().for_each(|other| other.channel.close());
        return Ok(Started { process, control, folder, claim, dependents });
    }
    let error = match (handshake, clash) {
        (Handshake::Nobody, Some(source)) => transport_error(format!("plugin {name}"))(source),
        (handshake, _) => failure(name, handshake, &candidates, &process, patience),
    };
    candidates.iter().for_each(|candidate| candidate.channel.close());
    process.terminate(options.grace);
    Err(error)
}

/// What the plugin is told on its command line.
fn launch_json(name: &str, site: &Site) -> Result<String> {
    let mut launch = LaunchOptions::default();
    launch.ipc_dir = Some(site.folder.path().to_owned());
    launch.log_level = site.options.log_level.clone();
    launch.supervises = true;
    if site.transport.name() != "uds" {
        launch.transport = Some(site.transport.name().to_owned());
    }
    launch.to_argument().map_err(|source| Error::Message { what: format!("plugin {name}"), source })
}

/// A plugin dials its control channel in the host's own folder or in `/tmp`:
/// listens in both. What stands against the second matters only to a plugin
/// that needs it.
fn listen(name: &str, site: &Arc<Site>) -> Result<(Vec<Candidate>, Option<TransportError>)> {
    let what = || format!("plugin {name}");
    let mut folders = vec![site.folder.clone()];
    if site.options.ipc_dir.is_none() {
        folders.push(SocketFolder::new(DEFAULT_FOLDER));
    }
    let mut candidates = Vec::new();
    let mut clash = None;
    for folder in folders {
        let address = folder.control(name).map_err(|source| Error::Message { what: what(), source })?;
        let claim = site.claim(address, what())?;
        match Channel::listen(&*site.transport, &claim.address, &site.options.transport()) {
            Ok(channel) => candidates.push(Candidate { folder, channel: Arc::new(channel), claim }),
            Err(error) if candidates.is_empty() => return Err(transport_error(what())(error)),
            Err(error) => clash = Some(error),
        }
    }
    Ok((candidates, clash))
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
    Cancelled,
}

enum Handshake {
    From(usize),
    /// The process has ended.
    Exited,
    Cancelled,
    /// Somebody in the host's own folder said this instead.
    Garbage(Vec<u8>),
    /// None by the deadline.
    Nobody,
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
            Ok(Report::Cancelled) => return Handshake::Cancelled,
            Err(_) => break,
        }
    }
    Handshake::Nobody
}

/// Why there is no handshake, for people.
fn failure(name: &str, handshake: Handshake, candidates: &[Candidate], process: &Process, patience: Duration) -> Error {
    let plugin = name.to_owned();
    let garbage = match handshake {
        Handshake::Cancelled => return Error::Stopped,
        Handshake::Exited => {
            let unknown = || Exit { code: None, signal: None, tail: process.tail() };
            return Error::EarlyExit { plugin, exit: process.wait(EXIT_GRACE).unwrap_or_else(unknown) };
        }
        Handshake::Garbage(said) => Some(said),
        Handshake::From(_) | Handshake::Nobody => {
            candidates.iter().find_map(|candidate| candidate.channel.take_garbage())
        }
    };
    if let Some(said) = garbage {
        return Error::Garbage { plugin, said: String::from_utf8_lossy(&said).into_owned() };
    }
    let tail = process.tail();
    let note = if tail.is_empty() { String::new() } else { format!(" (it wrote: {tail})") };
    Error::NoHandshake { plugin, after: patience, note }
}
