//! The host: its plugins, its handles and its shutdown.

mod builder;
mod core;
mod rescan;

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use ekuiper_core::description::Description;
use ekuiper_core::message::SymbolKind;

use self::core::Core;
use crate::Result;
use crate::background::Task;
use crate::catalog::Package;
use crate::event_stream::EventStream;
use crate::function::Function;
use crate::function::pool::{FunctionPool, FunctionPoolBuilder};
use crate::sink::SinkBuilder;
use crate::source::SourceBuilder;
use crate::status::{Event, Status};
pub use builder::HostBuilder;
pub use rescan::{Problem, Rescan};

/// A host for portable plugins. Dropping the host ends all plugins.
///
/// A plugin starts when one of its symbols is first needed, or with
/// [`Host::start`]. Methods that wait for a plugin have a twin whose name ends
/// in `_async`, for callers that must not block: it does the same in a thread
/// of the host, whether or not the returned future is awaited.
pub struct Host {
    core: Arc<Core>,
}

impl Host {
    /// Returns a builder with eKuiper's default settings and no plugins.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Returns the plugins, sorted by name.
    pub fn packages(&self) -> Vec<Package> {
        self.core.members().catalog.packages().cloned().collect()
    }

    /// Returns the folders of [`plugins_dir`](HostBuilder::plugins_dir) whose
    /// plugins could not be used when they were last read, by
    /// [`HostBuilder::build`] or [`Host::rescan`].
    pub fn problems(&self) -> Vec<Problem> {
        self.core.members().problems.clone()
    }

    /// Starts a plugin now, unless it is running.
    ///
    /// # Errors
    /// No plugin has this name, or the plugin cannot be started.
    pub fn start(&self, plugin: &str) -> Result<()> {
        self.core.start(plugin)
    }

    /// [Starts](Host::start) a plugin in a thread of the host.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn start_async(&self, plugin: &str) -> Task<Result<()>> {
        let plugin = plugin.to_owned();
        self.task(move |core| core.start(&plugin))
    }

    /// Returns what a plugin says about itself: its symbols, their types and
    /// their configuration; `None` for a plugin on an official SDK. Starts the
    /// plugin, unless it is running.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn description(&self, plugin: &str) -> Result<Option<Description>> {
        self.core.description(plugin)
    }

    /// Returns a plugin's [description](Host::description), in a thread of the
    /// host.
    ///
    /// # Errors
    /// As [`Host::description`].
    pub fn description_async(&self, plugin: &str) -> Task<Result<Option<Description>>> {
        let plugin = plugin.to_owned();
        self.task(move |core| core.description(&plugin))
    }

    /// Starts all plugins in parallel.
    ///
    /// # Errors
    /// The first failure, in the order of names; the other plugins run.
    pub fn start_all(&self) -> Result<()> {
        self.core.start_all()
    }

    /// [Starts all plugins](Host::start_all) in a thread of the host.
    ///
    /// # Errors
    /// As [`Host::start_all`].
    pub fn start_all_async(&self) -> Task<Result<()>> {
        self.task(Core::start_all)
    }

    /// Adds a plugin, which starts when it is first needed. Never blocks.
    ///
    /// # Errors
    /// [`Error::DuplicatePlugin`](crate::Error::DuplicatePlugin),
    /// [`Error::DuplicateSymbol`](crate::Error::DuplicateSymbol): nothing has
    /// changed. [`Error::Stopped`](crate::Error::Stopped) after a shutdown.
    pub fn add(&self, package: Package) -> Result<()> {
        self.core.add(package)
    }

    /// Stops a plugin: ends its process gracefully, after its sinks have
    /// collected everything sent to them. The plugin is started again when it
    /// is next needed: by a call of one of its functions, whose handles stay
    /// valid, or by an open. Its sources and sinks end with the process: their
    /// handles return [`Error::Stopped`](crate::Error::Stopped), a source after
    /// what it has sent, and their places are free. Calls that are made
    /// meanwhile wait for the next process, at most `send_timeout`. Other
    /// plugins are not affected.
    ///
    /// # Errors
    /// No plugin has this name. [`Error::Stopped`](crate::Error::Stopped) when
    /// the plugin is removed, or the host shut down.
    pub fn stop(&self, plugin: &str) -> Result<()> {
        self.core.stop(plugin)
    }

    /// [Stops](Host::stop) a plugin in a thread of the host.
    ///
    /// # Errors
    /// As [`Host::stop`].
    pub fn stop_async(&self, plugin: &str) -> Task<Result<()>> {
        let plugin = plugin.to_owned();
        self.task(move |core| core.stop(&plugin))
    }

    /// Removes a plugin: stops its process gracefully, after its sinks have
    /// collected everything sent to them. From then on, handles of its symbols
    /// return [`Error::Stopped`](crate::Error::Stopped). Other plugins are not
    /// affected.
    ///
    /// # Errors
    /// No plugin has this name.
    pub fn remove(&self, plugin: &str) -> Result<()> {
        self.core.remove(plugin)
    }

    /// [Removes](Host::remove) a plugin in a thread of the host.
    ///
    /// # Errors
    /// As [`Host::remove`].
    pub fn remove_async(&self, plugin: &str) -> Task<Result<()>> {
        let plugin = plugin.to_owned();
        self.task(move |core| core.remove(&plugin))
    }

    /// Replaces the plugin of the package's name by this version of it.
    ///
    /// The host first tries the new version in a separate process beside the
    /// running one: it must complete the handshake and start every function
    /// that has been used. It may lack those that have neither a handle nor a
    /// call any more. Then the old process is stopped gracefully, and the new
    /// one takes over under the same handles: calls and messages wait
    /// meanwhile, for at most their `send_timeout`. The package must have a
    /// folder of its own, or the old version could not be restarted.
    ///
    /// A plugin on an official SDK can only be tried up to its handshake while
    /// another process of it runs. A later failure shows when the new version
    /// takes over; the host then restarts the old version.
    ///
    /// # Errors
    /// [`Error::Update`](crate::Error::Update) with the reason: the plugin is
    /// unchanged, and unless the new version failed after its trial, so is its
    /// process. [`Error::NoSuchPlugin`](crate::Error::NoSuchPlugin).
    pub fn update(&self, package: Package) -> Result<()> {
        self.core.update(package)
    }

    /// [Updates](Host::update) a plugin in a thread of the host.
    ///
    /// # Errors
    /// As [`Host::update`].
    pub fn update_async(&self, package: Package) -> Task<Result<()>> {
        self.task(move |core| core.update(package))
    }

    /// Gives up the process that is being started of a plugin: its first one, or
    /// that of an [update](Host::update), which fails then as any other. A
    /// process that serves is not affected, nor is the restart of one that has
    /// served. Never blocks. What is prepared before a process is started, as an
    /// environment, is not given up: call it again until the start or the update
    /// has returned.
    ///
    /// # Errors
    /// No plugin has this name.
    pub fn give_up_start(&self, plugin: &str) -> Result<()> {
        self.core.plugin(plugin)?.give_up_start();
        Ok(())
    }

    /// Reads the folders of [`plugins_dir`](HostBuilder::plugins_dir) again:
    /// [removes](Host::remove) plugins whose folders are gone,
    /// [updates](Host::update) those whose manifests have changed, and
    /// [adds](Host::add) new ones, one after the other. Plugins that were added
    /// in another way, and those that have not changed, are not affected.
    ///
    /// A program that has changed is noticed only with its manifest, which has
    /// the version. An update within the same folder cannot go back to the old
    /// program.
    ///
    /// A folder that cannot be used is a [`Problem`] of the result, and nothing
    /// else fails for it; a plugin that was read from it before stays.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) after a shutdown.
    pub fn rescan(&self) -> Result<Rescan> {
        self.core.rescan()
    }

    /// [Reads the folders again](Host::rescan) in a thread of the host.
    ///
    /// # Errors
    /// As [`Host::rescan`].
    pub fn rescan_async(&self) -> Task<Result<Rescan>> {
        self.task(Core::rescan)
    }

    /// Returns the process id of a plugin, if it is running.
    pub fn pid(&self, plugin: &str) -> Option<u32> {
        self.core.plugin(plugin).ok()?.pid()
    }

    /// Returns the status of all plugins with the health of their symbols,
    /// sorted by name. Disturbs no call: what it reads is counted without
    /// locks.
    pub fn health(&self) -> Vec<Status> {
        self.core.plugins().iter().map(|plugin| plugin.status()).collect()
    }

    /// Returns the status of one plugin, as [`Host::health`] does of all.
    ///
    /// # Errors
    /// No plugin has this name.
    pub fn status(&self, plugin: &str) -> Result<Status> {
        Ok(self.core.plugin(plugin)?.status())
    }

    /// Forgets a plugin's crashes: a plugin that is backing off or broken is
    /// restarted now.
    ///
    /// # Errors
    /// No plugin has this name.
    pub fn reset(&self, plugin: &str) -> Result<()> {
        self.core.plugin(plugin)?.reset();
        Ok(())
    }

    /// Subscribes to the events of all plugins from now on. A subscriber that
    /// does not read misses the events that exceed its
    /// [queue](HostBuilder::event_queue).
    pub fn events(&self) -> Receiver<Event> {
        self.core.site.events.subscribe()
    }

    /// Subscribes to the events of all plugins from now on, for tasks: as
    /// [`Host::events`], without a thread that waits.
    pub fn event_stream(&self) -> EventStream {
        self.core.site.events.stream()
    }

    /// Returns a function, after starting its plugin and the function itself.
    ///
    /// # Errors
    /// No plugin serves the function, or it cannot be started.
    pub fn function(&self, symbol: &str) -> Result<Function> {
        Function::new(self.core.owner(SymbolKind::Function, symbol)?, symbol)
    }

    /// The same in a thread of the host, for a caller that must not block.
    ///
    /// # Errors
    /// As [`Host::function`].
    pub fn function_async(&self, symbol: &str) -> Task<Result<Function>> {
        match self.core.owner(SymbolKind::Function, symbol) {
            Ok(plugin) => {
                let symbol = symbol.to_owned();
                self.core.site.openings.start(move || Function::new(plugin, &symbol))
            }
            Err(error) => Task::done(Err(error)),
        }
    }

    /// Returns whether a pool is the same that would be opened now
    /// [as described](FunctionPoolBuilder::as_described): its plugin is there,
    /// serves the function, and says the same of it. For those who keep pools
    /// while plugins come and go.
    pub fn is_current(&self, pool: &FunctionPool) -> bool {
        let owner = self.core.owner(SymbolKind::Function, pool.name());
        owner.is_ok_and(|owner| pool.is_as_described_by(&owner))
    }

    /// Returns the builder of a pool: of a function that several processes of
    /// its plugin execute at the same time.
    pub fn function_pool(&self, symbol: &str) -> FunctionPoolBuilder {
        FunctionPoolBuilder::new(self.core.owner(SymbolKind::Function, symbol), symbol)
    }

    /// Returns the builder of a source.
    pub fn source(&self, symbol: &str) -> SourceBuilder {
        SourceBuilder::new(self.core.owner(SymbolKind::Source, symbol), symbol)
    }

    /// Returns the builder of a sink.
    pub fn sink(&self, symbol: &str) -> SinkBuilder {
        SinkBuilder::new(self.core.owner(SymbolKind::Sink, symbol), symbol)
    }

    /// Does work in a thread of the host.
    fn task<T: Send + 'static>(&self, work: impl FnOnce(&Core) -> T + Send + 'static) -> Task<T> {
        let core = self.core.clone();
        self.core.site.openings.start(move || work(&core))
    }

    /// Stops all sources and sinks, ends all plugins, and removes the sockets.
    /// Ends every wait on this host's handles. Sinks that were dropped are
    /// drained first. May be called from any thread,
    /// and more than once.
    pub fn shutdown(&self) {
        self.core.shutdown();
    }

    /// [Shuts the host down](Host::shutdown) in a thread of it. Await this
    /// before the host is dropped, where that must not block.
    pub fn shutdown_async(&self) -> Task<()> {
        self.task(Core::shutdown)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shutdown();
        self.core.site.events.close();
    }
}
