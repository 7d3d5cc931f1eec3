//! The host: its plugins, its settings, its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::codec::Format;
use ekuiper_core::message::SymbolKind;

use crate::catalog::{Catalog, Package};
use crate::channel::idle_reader::IdleReader;
use crate::error::folder_error;
use crate::function::Function;
use crate::options::Options;
use crate::plugin::Plugin;
use crate::process::own_folder::OwnFolder;
use crate::sink::SinkBuilder;
use crate::site::{Site, socket_folder};
use crate::source::SourceBuilder;
use crate::source::backlog::Bounds;
use crate::status::{Event, EventKind, Events, Status};
use crate::sync::lock;
use crate::{Error, Result, transports};
use ekuiper_core::restart::RestartPolicy;

/// Runs portable plugins. Dropping it ends them all.
///
/// A plugin is started when one of its symbols is first needed, or by
/// [`Host::start`].
pub struct Host {
    members: Mutex<Members>,
    site: Arc<Site>,
    init_timeout: Duration,
    folder: Mutex<Option<OwnFolder>>,
}

/// The plugins, and who serves what: one changes with the other.
struct Members {
    catalog: Catalog,
    plugins: BTreeMap<String, Arc<Plugin>>,
    is_shut_down: bool,
}

impl Host {
    /// A host with eKuiper's settings and no plugins yet.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// The plugins, in the order of their names.
    pub fn packages(&self) -> Vec<Package> {
        lock(&self.members).catalog.packages().cloned().collect()
    }

    /// Starts a plugin now, if it does not run.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be started.
    pub fn start(&self, plugin: &str) -> Result<()> {
        let plugin = self.plugin(plugin)?;
        plugin.running(self.init_deadline()).map(|_| ())
    }

    fn init_deadline(&self) -> Instant {
        Instant::now() + self.init_timeout
    }

    /// Starts all plugins, side by side.
    ///
    /// # Errors
    /// The first failure, in the order of names; the others run.
    pub fn start_all(&self) -> Result<()> {
        let plugins = self.plugins();
        std::thread::scope(|scope| {
            let start = |plugin: &Arc<Plugin>| plugin.running(self.init_deadline()).map(|_| ());
            let starts: Vec<_> = plugins
                .iter()
                .map(|plugin| {
                    let started = std::thread::Builder::new().spawn_scoped(scope, move || start(plugin));
                    // One after the other where there can be no more threads.
                    started.map_err(|_| start(plugin))
                })
                .collect();
            let outcomes: Vec<_> = starts
                .into_iter()
                .map(|start| match start {
                    Ok(start) => start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    Err(outcome) => outcome,
                })
                .collect();
            outcomes.into_iter().collect()
        })
    }

    /// Adds a plugin; it is started when it is first needed.
    ///
    /// # Errors
    /// [`Error::DuplicatePlugin`], [`Error::DuplicateSymbol`]: nothing has
    /// changed. [`Error::Stopped`] after a shutdown.
    pub fn add(&self, package: Package) -> Result<()> {
        let mut members = lock(&self.members);
        if members.is_shut_down {
            return Err(Error::Stopped);
        }
        members.catalog.add(package.clone())?;
        members.plugins.insert(package.name.clone(), Plugin::new(package, self.site.clone()));
        Ok(())
    }

    /// Removes a plugin: its process is ended in order, once its sinks have
    /// collected what they were sent. Handles of its symbols return
    /// [`Error::Stopped`] from then on. Other plugins are not disturbed.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove(&self, plugin: &str) -> Result<()> {
        let mut members = lock(&self.members);
        let removed = members.plugin(plugin)?;
        members.plugins.remove(plugin);
        members.catalog.remove(plugin);
        drop(members);
        removed.remove();
        Ok(())
    }

    /// Replaces the plugin of the package's name by this version of it.
    ///
    /// The new version is tried first, in a process of its own beside the one
    /// that runs: it must shake hands, and start every function that has been
    /// used. Then the old process is ended in order, and the new one goes on
    /// under the same handles: calls and messages wait meanwhile, at most their
    /// `send_timeout`. The package must have a folder of its own, or the old
    /// version could not be started again.
    ///
    /// A plugin of the official SDKs can only be tried up to its handshake
    /// while another process of it runs. What it still cannot do then is seen
    /// when it takes over; the old version is started again in that case.
    ///
    /// # Errors
    /// [`Error::Update`] with the reason: the plugin is as it was, and unless
    /// the new version failed after its trial, its process is the same.
    /// [`Error::NoSuchPlugin`].
    pub fn update(&self, package: Package) -> Result<()> {
        let plugin = self.plugin(&package.name)?;
        let turn = plugin.begin_update()?;
        let from = plugin.version();
        let to = package.manifest.version.clone();
        let reserved = lock(&self.members).catalog.reserve(&package);
        let updated = reserved.and_then(|()| {
            turn.update(package.clone())?;
            lock(&self.members).catalog.replace(package);
            Ok(())
        });
        lock(&self.members).catalog.release(plugin.name());
        match updated {
            Ok(()) => {
                self.site.events.tell(plugin.name(), EventKind::Updated { from, to });
                Ok(())
            }
            Err(Error::Stopped) => Err(Error::Stopped),
            Err(source) => {
                self.site.events.tell(plugin.name(), EventKind::UpdateFailed { error: source.to_string() });
                Err(Error::Update { plugin: plugin.name().to_owned(), from, to, source: Box::new(source) })
            }
        }
    }

    /// The process id of a plugin, if it runs.
    pub fn pid(&self, plugin: &str) -> Option<u32> {
        self.plugin(plugin).ok()?.pid()
    }

    /// What is known of a plugin.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn status(&self, plugin: &str) -> Result<Status> {
        Ok(self.plugin(plugin)?.status())
    }

    /// Forgets a plugin's crashes: one that is backing off or broken is
    /// started now.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn reset(&self, plugin: &str) -> Result<()> {
        self.plugin(plugin)?.reset();
        Ok(())
    }

    /// What happens to the plugins from now on. A subscriber that does not read
    /// misses what no longer fits its [queue](HostBuilder::event_queue).
    pub fn events(&self) -> Receiver<Event> {
        self.site.events.subscribe()
    }

    fn plugin(&self, name: &str) -> Result<Arc<Plugin>> {
        lock(&self.members).plugin(name)
    }

    /// The plugins, in the order of their names.
    fn plugins(&self) -> Vec<Arc<Plugin>> {
        lock(&self.members).plugins.values().cloned().collect()
    }

    /// A function; its plugin is started, and so is it.
    ///
    /// # Errors
    /// No plugin serves it, or it cannot be started.
    pub fn function(&self, symbol: &str) -> Result<Function> {
        Function::new(self.owner(SymbolKind::Function, symbol)?, symbol)
    }

    /// A source, to be configured and opened.
    pub fn source(&self, symbol: &str) -> SourceBuilder {
        SourceBuilder::new(self.owner(SymbolKind::Source, symbol), symbol)
    }

    /// A sink, to be configured and opened.
    pub fn sink(&self, symbol: &str) -> SinkBuilder {
        SinkBuilder::new(self.owner(SymbolKind::Sink, symbol), symbol)
    }

    fn owner(&self, kind: SymbolKind, symbol: &str) -> Result<Arc<Plugin>> {
        let members = lock(&self.members);
        members.plugin(members.catalog.owner(kind, symbol)?)
    }

    /// Stops all sources and sinks, ends all plugins, and removes the sockets.
    /// Ends every wait on this host's handles. May be called from any thread,
    /// and again.
    pub fn shutdown(&self) {
        lock(&self.members).is_shut_down = true;
        let plugins = self.plugins();
        std::thread::scope(|scope| {
            for plugin in &plugins {
                // One after the other where there can be no more threads.
                if std::thread::Builder::new().spawn_scoped(scope, || plugin.shutdown()).is_err() {
                    plugin.shutdown();
                }
            }
        });
        drop(lock(&self.folder).take());
    }
}

impl Members {
    fn plugin(&self, name: &str) -> Result<Arc<Plugin>> {
        self.plugins.get(name).cloned().ok_or_else(|| Error::NoSuchPlugin(name.to_owned()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Settings of a [`Host`]; names and defaults are eKuiper's.
#[derive(Debug, Default)]
#[must_use = "it does nothing until it is built"]
pub struct HostBuilder {
    options: Options,
    transport: Option<String>,
    folders: Vec<PathBuf>,
    plugins: Vec<PathBuf>,
    packages: Vec<Package>,
}

impl HostBuilder {
    /// A folder of plugins, each in a folder of its own: eKuiper's
    /// `plugins/portable`.
    pub fn plugins_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// The folder of one plugin.
    pub fn plugin(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plugins.push(folder.into());
        self
    }

    /// A plugin that was read already.
    pub fn package(mut self, package: Package) -> Self {
        self.packages.push(package);
        self
    }

    /// The transport: `uds`, `nng` or `zeromq`. Default: `uds`. Plugins on an
    /// official SDK do not know `zeromq`, and it needs a folder of mode 0700.
    pub fn transport(mut self, name: impl Into<String>) -> Self {
        self.transport = Some(name.into());
        self
    }

    /// The folder of all sockets. Default: a folder of the host's own that
    /// only this user can enter, and `/tmp` for plugins that know no other
    /// (the official SDKs').
    pub fn ipc_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.ipc_dir = Some(folder.into());
        self
    }

    /// The Python interpreter, for plugins in Python. Default: `python`, or
    /// `python3` where there is no `python`.
    pub fn python_bin(mut self, program: impl Into<String>) -> Self {
        self.options.python_bin = Some(program.into());
        self
    }

    /// How long a plugin may take from its start to its handshake, and a
    /// symbol for its start. Default: 60 s.
    pub fn init_timeout(mut self, timeout: Duration) -> Self {
        self.options.init_timeout = timeout;
        self
    }

    /// How long a plugin may take to accept a message. Default: 5 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.options.send_timeout = timeout;
        self
    }

    /// How long a plugin may take to answer or to acknowledge. Default: 5 s.
    pub fn recv_timeout(mut self, timeout: Duration) -> Self {
        self.options.recv_timeout = timeout;
        self
    }

    /// What becomes of a plugin that has crashed. Default: see
    /// [`RestartPolicy`].
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.options.restart = policy;
        self
    }

    /// How long a plugin may take to end before it is killed. Default: 3 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// The longest message, in bytes. Default: 64 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.options.max_message = bytes;
        self
    }

    /// How functions' and sources' messages are written where the plugin knows
    /// more than JSON. Default: MessagePack.
    pub fn format(mut self, format: Format) -> Self {
        self.options.format = format;
        self
    }

    /// How many messages of [`Sink::send_async`](crate::Sink::send_async) may
    /// have no acknowledgement yet: the next one waits. Default: 1024.
    pub fn ack_window(mut self, messages: u64) -> Self {
        self.options.ack_window = messages;
        self
    }

    /// For how long at most the end of a sink waits until everything that was
    /// sent has been collected: [`Sink::close`](crate::Sink::close), its drop,
    /// and an [update](Host::update) of its plugin. Default: 10 minutes.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.options.drain_timeout = timeout;
        self
    }

    /// For how long that wait goes on while the sink makes no progress: the
    /// longest time that one message may take. Default: 10 s.
    pub fn drain_stall(mut self, timeout: Duration) -> Self {
        self.options.drain_stall = timeout;
        self
    }

    /// For how long a plugin may pause in the middle of a message, in either
    /// direction, before its connection is closed. Default: 10 s. libnng has
    /// no such limit.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.options.stall_timeout = timeout;
        self
    }

    /// For how long at most whoever waits for an answer, a tuple or an
    /// acknowledgement looks for it before it sleeps, where that has paid
    /// lately (`uds`); zero: never. Default: 20 µs.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.options.spin = spin;
        self
    }

    /// How many [events](Host::events) wait for a subscriber that does not
    /// read; those that come then are dropped for it. Default: 1024.
    pub fn event_queue(mut self, events: usize) -> Self {
        self.options.event_queue = events;
        self
    }

    /// How much is kept of a source on an official SDK while nobody reads it,
    /// in messages and bytes: it cannot wait for longer than a second, as all
    /// others do. When this is full, the source is started again, and whoever
    /// reads is told: see [`Error::Overrun`]. Default: 10,000 messages, 64 MiB.
    pub fn source_queue(mut self, messages: usize, bytes: usize) -> Self {
        self.options.source_queue = Bounds { messages, bytes };
        self
    }

    /// What plugins of our SDK log: `error` to `trace`. Default: `info`.
    pub fn log_level(mut self, level: impl Into<String>) -> Self {
        self.options.log_level = Some(level.into());
        self
    }

    /// Reads the plugins' manifests. Starts nothing yet.
    ///
    /// # Errors
    /// A folder or manifest cannot be read, two plugins share a symbol, the
    /// transport is not built in, or the socket folder cannot be written.
    pub fn build(self) -> Result<Host> {
        let mut catalog = Catalog::default();
        self.folders.iter().try_for_each(|folder| catalog.add_all(folder))?;
        self.plugins.iter().try_for_each(|folder| catalog.add(Package::read(folder)?))?;
        self.packages.into_iter().try_for_each(|package| catalog.add(package))?;
        let transport = match &self.transport {
            Some(name) => transports::by_name(name)?,
            None => transports::default()?,
        };
        let (folder, own) = socket_folder(self.options.ipc_dir.as_deref())?;
        let idle_reader =
            IdleReader::start(self.options.stall_timeout).map_err(folder_error(folder.path().to_owned()))?;
        let idle_reader = Arc::new(idle_reader);
        let events = Events::new(self.options.event_queue);
        let site = Site::new(self.options, transport, idle_reader, (folder, own.as_ref()), events);
        let plugins = catalog
            .packages()
            .map(|package| (package.name.clone(), Plugin::new(package.clone(), site.clone())))
            .collect();
        let init_timeout = site.options.init_timeout;
        let members = Mutex::new(Members { catalog, plugins, is_shut_down: false });
        Ok(Host { members, site, init_timeout, folder: Mutex::new(own) })
    }
}
