//! What a host does with its plugins, for its callers that block and for its
//! tasks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::description::Description;
use ekuiper_core::message::SymbolKind;
use ekuiper_transport_ipc::wait::deadline_after;

use super::rescan::Problem;
use crate::catalog::{Catalog, Package};
use crate::plugin::{Origin, Plugin};
use crate::process::guard::Guard;
use crate::process::own_folder::OwnFolder;
use crate::site::Site;
use crate::status::EventKind;
use crate::sync::lock;
use crate::{Error, Result};

/// Maximum wait of a shutdown for the release of sockets, whose plugins have
/// ended.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A host, shared with the threads that work for its tasks.
pub(super) struct Core {
    members: Mutex<Members>,
    pub(super) site: Arc<Site>,
    folder: Mutex<Option<OwnFolder>>,
    /// The guard of the plugins' processes, until these have ended.
    guard: Mutex<Option<Arc<Guard>>>,
    /// Folders of plugins.
    pub(super) folders: Vec<PathBuf>,
    /// Held during a rescan, whose steps have deadlines.
    pub(super) rescanning: Mutex<()>,
}

/// Plugins and the catalog of their symbols, which change together.
pub(super) struct Members {
    pub(super) catalog: Catalog,
    pub(super) plugins: BTreeMap<String, Arc<Plugin>>,
    /// Plugins of the folders of plugins, as last read.
    pub(super) scanned: BTreeMap<String, Package>,
    pub(super) problems: Vec<Problem>,
    pub(super) is_shut_down: bool,
}

impl Members {
    pub(super) fn plugin(&self, name: &str) -> Result<Arc<Plugin>> {
        self.plugins.get(name).cloned().ok_or_else(|| {
            let problem = self.problems.iter().find(|problem| problem.is_of(name));
            problem.map_or_else(|| Error::NoSuchPlugin(name.to_owned()), |problem| problem.error.clone())
        })
    }

    fn owner(&self, kind: SymbolKind, symbol: &str) -> Result<Arc<Plugin>> {
        let owner = self.catalog.owner(kind, symbol).map_err(|error| match error {
            // Its plugin may be among those that cannot be used.
            Error::NoSuchSymbol { kind, symbol, mut known } => {
                if let Some(first) = self.problems.first() {
                    let others = match self.problems.len() - 1 {
                        0 => String::new(),
                        others => format!(" ({others} more in problems())"),
                    };
                    known = format!("{known}; a plugin could not be used: {first}{others}");
                }
                Error::NoSuchSymbol { kind, symbol, known }
            }
            error => error,
        })?;
        self.plugin(owner)
    }
}

impl Core {
    pub(super) fn new(
        members: Members,
        site: Arc<Site>,
        folder: Option<OwnFolder>,
        folders: Vec<PathBuf>,
        guard: Option<Arc<Guard>>,
    ) -> Self {
        let (members, folder, rescanning) = (Mutex::new(members), Mutex::new(folder), Mutex::default());
        Self { members, site, folder, guard: Mutex::new(guard), folders, rescanning }
    }

    pub(super) fn members(&self) -> std::sync::MutexGuard<'_, Members> {
        lock(&self.members)
    }

    pub(super) fn plugin(&self, name: &str) -> Result<Arc<Plugin>> {
        self.members().plugin(name)
    }

    pub(super) fn owner(&self, kind: SymbolKind, symbol: &str) -> Result<Arc<Plugin>> {
        self.members().owner(kind, symbol)
    }

    /// Returns the plugins, sorted by name.
    pub(super) fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.members().plugins.values().cloned().collect()
    }

    fn init_deadline(&self) -> Instant {
        deadline_after(self.site.options.init_timeout)
    }

    pub(super) fn start(&self, plugin: &str) -> Result<()> {
        self.plugin(plugin)?.running(self.init_deadline()).map(|_| ())
    }

    pub(super) fn description(&self, plugin: &str) -> Result<Option<Description>> {
        let running = self.plugin(plugin)?.running(self.init_deadline())?;
        Ok(running.description().cloned())
    }

    pub(super) fn start_all(&self) -> Result<()> {
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

    pub(super) fn add(&self, package: Package) -> Result<()> {
        let mut members = self.members();
        if members.is_shut_down {
            return Err(Error::Stopped);
        }
        members.catalog.add(package.clone())?;
        members.plugins.insert(package.name.clone(), Plugin::new(package, Origin::Started, self.site.clone()));
        Ok(())
    }

    pub(super) fn stop(&self, plugin: &str) -> Result<()> {
        self.plugin(plugin)?.stop()
    }

    pub(super) fn remove(&self, plugin: &str) -> Result<()> {
        let mut members = self.members();
        let removed = members.plugin(plugin)?;
        members.plugins.remove(plugin);
        members.catalog.remove(plugin);
        members.scanned.remove(plugin);
        drop(members);
        removed.remove();
        Ok(())
    }

    pub(super) fn update(&self, package: Package) -> Result<()> {
        let plugin = self.plugin(&package.name)?;
        let turn = plugin.begin_update()?;
        let from = plugin.version();
        let to = package.manifest.version.clone();
        let reserved = self.members().catalog.reserve(&package);
        let updated = reserved.and_then(|()| {
            turn.update(package.clone())?;
            plugin.update_members(&package);
            self.members().catalog.replace(package);
            Ok(())
        });
        self.members().catalog.release(plugin.name());
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

    pub(super) fn shutdown(&self) {
        self.members().is_shut_down = true;
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
        // The sockets of sources that were dropped: an engine may exit now.
        self.site.background.await_releases(RELEASE_TIMEOUT);
        drop(lock(&self.folder).take());
        drop(lock(&self.guard).take());
    }
}
