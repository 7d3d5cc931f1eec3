//! The host: its plugins, its settings and its shutdown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::codec::Format;
use ekuiper_core::message::SymbolKind;

use crate::background::Task;
use crate::catalog::{Catalog, Package};
use crate::channel::idle_reader::IdleReader;
use crate::error::system_error;
use crate::function::Function;
use crate::options::Options;
use crate::plugin::Plugin;
use crate::process::group;
use crate::process::own_folder::OwnFolder;
use crate::sink::SinkBuilder;
use crate::site::{Site, socket_folder};
use crate::source::SourceBuilder;
use crate::source::backlog::Bounds;
use crate::status::{Event, EventKind, Events, Status};
use crate::sync::lock;
use crate::{Error, Result, transports};
use ekuiper_core::restart::RestartPolicy;

/// A host for portable plugins. Dropping the host ends all plugins.
///
/// A plugin starts when one of its symbols is first needed, or with
/// [`Host::start`].
pub struct Host {
    members: Mutex<Members>,
    site: Arc<Site>,
    init_timeout: Duration,
    folder: Mutex<Option<OwnFolder>>,
}

/// Plugins and the catalog of their symbols, which change together.
struct Members {
    catalog: Catalog,
    plugins: BTreeMap<String, Arc<Plugin>>,
    is_shut_down: bool,
}

impl Host {
    /// Returns a builder with eKuiper's default settings and no plugins.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Returns the plugins, sorted by name.
    pub fn packages(&self) -> Vec<Package> {
        lock(&self.members).catalog.packages().cloned().collect()
    }

    /// Starts a plugin now, unless it is running.
    ///
    /// # Errors
    /// No plugin has this name, or the plugin cannot be started.
    pub fn start(&self, plugin: &str) -> Result<()> {
        let plugin = self.plugin(plugin)?;
        plugin.running(self.init_deadline()).map(|_| ())
    }

    fn init_deadline(&self) -> Instant {
        Instant::now() + self.init_timeout
    }

    /// Starts all plugins in parallel.
    ///
    /// # Errors
    /// The first failure, in the order of names; the other plugins run.
    pub fn start_all(&self) -> Result<()> {
        let plugins = self.plugins();
        std::thread::scope(|scope| {
            let start = |plugin: &Arc<Plugin>| plugin.running(self.init_deadline()).map(|_| ());
            let starts: Vec<_> = plugins
                .iter()
                .map(|plugin| {
                    let started = std::thread::Builder::new().spawn_scoped(scope, move || start(plugin));
                    // Sequential where no more threads can be created.
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

    /// Adds a plugin, which starts when it is first needed.
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

    /// Removes a plugin: stops its process gracefully, after its sinks have
    /// collected everything sent to them. From then on, handles of its symbols
    /// return [`Error::Stopped`]. Other plugins are not affected.
    ///
    /// # Errors
    /// No plugin has this name.
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
    /// The host first tries the new version in a separate process beside the
    /// running one: it must complete the handshake and start every function
    /// that has been used. Then the old process is stopped gracefully, and the
    /// new one takes over under the same handles: calls and messages wait
    /// meanwhile, for at most their `send_timeout`. The package must have a
    /// folder of its own, or the old version could not be restarted.
    ///
    /// A plugin on an official SDK can only be tried up to its handshake while
    /// another process of it runs. A later failure shows when the new version
    /// takes over; the host then restarts the old version.
    ///
    /// # Errors
    /// [`Error::Update`] with the reason: the plugin is unchanged, and unless
    /// the new version failed after its trial, so is its process.
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
                self.site.events.tell(plugin.name(), EventKind::UpdateFailed { error: Chain(&source).to_string() });
                Err(Error::Update { plugin: plugin.name().to_owned(), from, to, source: source.into() })
            }
        }
    }

    /// Returns the process id of a plugin, if it is running.
    pub fn pid(&self, plugin: &str) -> Option<u32> {
        self.plugin(plugin).ok()?.pid()
    }

    /// Returns the status of all plugins with the health of their symbols,
    /// sorted by name. Disturbs no call: what it reads is counted without
    /// locks.
    pub fn health(&self) -> Vec<Status> {
        let resident = group::resident();
        self.plugins().iter().map(|plugin| plugin.status(&resident)).collect()
    }

    /// Returns the status of one plugin, as [`Host::health`] does of all.
    ///
    /// # Errors
    /// No plugin has this name.
    pub fn status(&self, plugin: &str) -> Result<Status> {
        Ok(self.plugin(plugin)?.status(&group::resident()))
    }

    /// Forgets a plugin's crashes: a plugin that is backing off or broken is
    /// restarted now.
    ///
    /// # Errors
    /// No plugin has this name.
    pub fn reset(&self, plugin: &str) -> Result<()> {
        self.plugin(plugin)?.reset();
        Ok(())
    }

    /// Subscribes to the events of all plugins from now on. A subscriber that
    /// does not read misses the events that exceed its
    /// [queue](HostBuilder::event_queue).
    pub fn events(&self) -> Receiver<Event> {
        self.site.events.subscribe()
    }

    fn plugin(&self, name: &str) -> Result<Arc<Plugin>> {
        lock(&self.members).plugin(name)
    }

    /// Returns the plugins, sorted by name.
    fn plugins(&self) -> Vec<Arc<Plugin>> {
        lock(&self.members).plugins.values().cloned().collect()
    }

    /// Returns a function, after starting its plugin and the function itself.
    ///
    /// # Errors
    /// No plugin serves the function, or it cannot be started.
    pub fn function(&self, symbol: &str) -> Result<Function> {
        Function::new(self.owner(SymbolKind::Function, symbol)?, symbol)
    }

    /// The same in a thread of the host, for a caller that must not block.
    ///
    /// # Errors
    /// As [`Host::function`].
    pub fn function_async(&self, symbol: &str) -> Task<Result<Function>> {
        match self.owner(SymbolKind::Function, symbol) {
            Ok(plugin) => {
                let symbol = symbol.to_owned();
                self.site.openings.start(move || Function::new(plugin, &symbol))
            }
            Err(error) => Task::done(Err(error)),
        }
    }

    /// Returns the builder of a source.
    pub fn source(&self, symbol: &str) -> SourceBuilder {
        SourceBuilder::new(self.owner(SymbolKind::Source, symbol), symbol)
    }

    /// Returns the builder of a sink.
    pub fn sink(&self, symbol: &str) -> SinkBuilder {
        SinkBuilder::new(self.owner(SymbolKind::Sink, symbol), symbol)
    }

    fn owner(&self, kind: SymbolKind, symbol: &str) -> Result<Arc<Plugin>> {
        let members = lock(&self.members);
        members.plugin(members.catalog.owner(kind, symbol)?)
    }

    /// Stops all sources and sinks, ends all plugins, and removes the sockets.
    /// Ends every wait on this host's handles. Sinks that were dropped are
    /// drained first. May be called from any thread,
    /// and more than once.
    pub fn shutdown(&self) {
        lock(&self.members).is_shut_down = true;
        self.site.background.await_closings();
        let plugins = self.plugins();
        std::thread::scope(|scope| {
            for plugin in &plugins {
                // Sequential where no more threads can be created.
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

/// Settings of a [`Host`], with eKuiper's names and defaults.
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
    /// Adds all plugins of a folder that has one folder per plugin: eKuiper's
    /// `plugins/portable`.
    pub fn plugins_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// Adds one plugin, by its folder.
    pub fn plugin(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plugins.push(folder.into());
        self
    }

    /// Adds a plugin whose manifest has been read already.
    pub fn package(mut self, package: Package) -> Self {
        self.packages.push(package);
        self
    }

    /// Sets the transport: `uds`, `nng` or `zeromq`. Default: `uds`. Plugins on
    /// an official SDK do not support `zeromq`, which needs a folder of mode
    /// 0700.
    pub fn transport(mut self, name: impl Into<String>) -> Self {
        self.transport = Some(name.into());
        self
    }

    /// Sets the folder of all sockets. Default: a private folder of the host
    /// that only this user can enter, and `/tmp` for plugins that support no
    /// other folder (those on an official SDK).
    pub fn ipc_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.ipc_dir = Some(folder.into());
        self
    }

    /// Sets the interpreter of Python plugins. Default: `python`, or `python3`
    /// where there is no `python`.
    pub fn python_bin(mut self, program: impl Into<String>) -> Self {
        self.options.python_bin = Some(program.into());
        self
    }

    /// Sets the maximum time from a plugin's start to its handshake, and for
    /// the start of a symbol. Default: 60 s.
    pub fn init_timeout(mut self, timeout: Duration) -> Self {
        self.options.init_timeout = timeout;
        self
    }

    /// Sets the maximum time until a plugin accepts a message. Default: 5 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.options.send_timeout = timeout;
        self
    }

    /// Sets the maximum time until a plugin answers or acknowledges. Default: 5
    /// s.
    pub fn recv_timeout(mut self, timeout: Duration) -> Self {
        self.options.recv_timeout = timeout;
        self
    }

    /// Sets when a crashed plugin is restarted. Default: see [`RestartPolicy`].
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.options.restart = policy;
        self
    }

    /// Sets the time from SIGTERM to SIGKILL when a plugin is ended. Default: 3
    /// s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Sets the maximum length of a message, in bytes. Default: 64 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.options.max_message = bytes;
        self
    }

    /// Sets the format of functions' and sources' messages, where the plugin
    /// supports more than JSON. Default: MessagePack.
    pub fn format(mut self, format: Format) -> Self {
        self.options.format = format;
        self
    }

    /// Sets the maximum number of unacknowledged messages of
    /// [`Sink::send_async`](crate::Sink::send_async), beyond which sending
    /// blocks. Default: 1024.
    pub fn ack_window(mut self, messages: u64) -> Self {
        self.options.ack_window = messages;
        self
    }

    /// Sets the maximum size of the calls of
    /// [`Function::call_async`] that wait to be sent, in bytes, of all
    /// functions together: beyond, it fails with [`Error::QueueFull`].
    /// Default: 64 MiB.
    pub fn call_queue(mut self, bytes: usize) -> Self {
        self.options.call_queue = bytes;
        self
    }

    /// Sets the maximum time to drain a sink, until everything that was sent to
    /// it has been collected: in [`Sink::close`](crate::Sink::close), on its
    /// drop, and in an [update](Host::update) of its plugin. Default: 10
    /// minutes.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.options.drain_timeout = timeout;
        self
    }

    /// Sets the maximum time to drain a sink without progress: no message is
    /// known to have been collected (or read, if that is all that is known),
    /// and the plugin's process does not work. Its work counts if the plugin
    /// reports nothing, or has no other source or sink; a row that waits
    /// without any work must not take longer than this. Default: 10 s.
    pub fn drain_stall(mut self, timeout: Duration) -> Self {
        self.options.drain_stall = timeout;
        self
    }

    /// Sets how long a plugin may pause in the middle of a message, in either
    /// direction, before its connection is closed. Default: 10 s. libnng has no
    /// such limit.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.options.stall_timeout = timeout;
        self
    }

    /// Sets the maximum time to busy-poll for an answer, a tuple or an
    /// acknowledgement before blocking, where busy-polling has recently paid
    /// off (`uds`). Zero disables busy-polling. Default: 20 µs.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.options.spin = spin;
        self
    }

    /// Sets how many [events](Host::events) are queued for a subscriber that
    /// does not read; further events are dropped for this subscriber. Default:
    /// 1024.
    pub fn event_queue(mut self, events: usize) -> Self {
        self.options.event_queue = events;
        self
    }

    /// Sets how much is queued for a source on an official SDK that is not
    /// read, in messages and bytes. Other sources block; a source on an
    /// official SDK can do so for only a second. When the queue is full, the
    /// source is restarted, and its reader gets [`Error::Overrun`]. Default:
    /// 10,000 messages, 64 MiB.
    pub fn source_queue(mut self, messages: usize, bytes: usize) -> Self {
        self.options.source_queue = Bounds { messages, bytes };
        self
    }

    /// Sets the log level of plugins on our SDK: `error` to `trace`. Default:
    /// `info`.
    pub fn log_level(mut self, level: impl Into<String>) -> Self {
        self.options.log_level = Some(level.into());
        self
    }

    /// Reads the plugins' manifests and creates the host. Starts no plugin.
    ///
    /// # Errors
    /// A folder or manifest cannot be read, two plugins share a symbol, the
    /// transport is not built in, or the socket folder is not writable.
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
            IdleReader::start(self.options.stall_timeout).map_err(system_error("the host", "an idle reader"))?;
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
