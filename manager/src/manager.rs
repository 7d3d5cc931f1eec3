//! Installing, updating and removing plugins while they are used.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use ekuiper_core::{Chain, printable};
use ekuiper_host::{Host, HostBuilder, Package, Status, SymbolHealth, SymbolKind};
use serde_json::json;

use crate::archive::{Archive, ArchiveError, Limits};
use crate::audit::{Audit, Entry, Goal};
use crate::changes::{Changes, Changing};
#[cfg(feature = "rest")]
use crate::ending::Stage;
use crate::error::{Error, Result};
use crate::origin::{FetchLimits, LOOK, Origin};
use crate::script::{self, SCRIPT};
use crate::settings;
use crate::store::{NewVersion, Store};

/// Maximum length of a plugin's name: that of its symbols is part of the path of
/// a socket, which has 107 bytes.
const LONGEST: usize = 64;

/// Maximum number of plugins, or users, named in an error.
const NAMED: usize = 10;

/// Maximum time for the changes under way to be undone, when the manager is shut
/// down.
const PATIENCE: Duration = Duration::from_secs(5);

/// Settings of a [`Manager`].
#[derive(Debug)]
#[must_use = "it does nothing until it is opened"]
pub struct ManagerBuilder {
    folder: PathBuf,
    host: HostBuilder,
    limits: Limits,
    fetch: FetchLimits,
    script_timeout: Duration,
}

impl ManagerBuilder {
    /// Sets the host's settings. Plugins of its own are used, and not managed.
    pub fn host(mut self, host: HostBuilder) -> Self {
        self.host = host;
        self
    }

    /// Sets what a package may take, unpacked.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the maximum size of a package that is fetched, in bytes. Default: 1
    /// GiB.
    pub fn fetch_size(mut self, bytes: u64) -> Self {
        self.fetch.size = bytes;
        self
    }

    /// Sets the maximum time of a fetch. Default: 10 minutes.
    pub fn fetch_timeout(mut self, time: Duration) -> Self {
        self.fetch.time = time;
        self
    }

    /// Sets whether packages may be fetched from this machine and from private
    /// networks, which a stranger's URL could otherwise reach. Default: no.
    pub fn allow_private_addresses(mut self, allows: bool) -> Self {
        self.fetch.allows_private = allows;
        self
    }

    /// Sets the maximum time of a package's `install.sh`. Default: 10 minutes.
    pub fn script_timeout(mut self, time: Duration) -> Self {
        self.script_timeout = time;
        self
    }

    /// Opens the folder, and the host with the plugins that are installed in
    /// it.
    ///
    /// # Errors
    /// [`Error::Folder`], [`Error::FolderInUse`], [`Error::Host`]. A plugin that
    /// cannot be used is no error: see [`Manager::problems`].
    pub fn open(self) -> Result<Manager> {
        let store = Store::open(&self.folder)?;
        let audit = Audit::open(&store)?;
        #[cfg(feature = "rest")]
        let logs = std::sync::Arc::new(crate::logs::Logs::default());
        #[cfg(feature = "rest")]
        let host = {
            let logs = logs.clone();
            self.host.on_log_line(move |line| logs.add(line))
        };
        #[cfg(not(feature = "rest"))]
        let host = self.host;
        let host = host.build()?;
        let mut problems = Vec::new();
        for (name, folder) in store.installed()? {
            let added = Package::read(&folder).and_then(|package| host.add(package));
            if let Err(error) = added {
                tracing::error!("plugin {name} cannot be used: {}", Chain(&error));
                problems.push((name, error));
            }
        }
        let Self { limits, fetch, script_timeout, .. } = self;
        Ok(Manager {
            host,
            store,
            audit,
            editing: Mutex::default(),
            changes: Changes::default(),
            problems,
            limits,
            fetch,
            script_timeout,
            #[cfg(feature = "rest")]
            functions: std::sync::Arc::default(),
            #[cfg(feature = "rest")]
            logs,
            #[cfg(feature = "rest")]
            ending: crate::ending::Ending::default(),
        })
    }
}

/// What an installation is told beside the package.
#[derive(Clone, Debug, Default)]
pub struct InstallOptions {
    /// The plugin's name, which the package must have. Default: the package's.
    pub name: Option<String>,
    /// SHA-256 of the package, in hexadecimal digits.
    pub sha256: Option<String>,
    /// Parameters of the package's `install.sh`.
    pub parameters: Vec<String>,
}

/// What is to happen to those who use a plugin that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// The plugin is not removed.
    Keep,
    /// Their handles end with [`ekuiper_host::Error::Stopped`], once their sinks
    /// are drained.
    Stop,
}

/// The plugins in a folder, and the host that runs them. Every change is made as
/// a whole, or not at all, also if the process is killed in the middle of it.
pub struct Manager {
    // Dropped first: its plugins run in the folder.
    host: Host,
    pub(crate) store: Store,
    pub(crate) audit: Audit,
    /// Held while settings are changed.
    pub(crate) editing: Mutex<()>,
    changes: Changes,
    problems: Vec<(String, ekuiper_host::Error)>,
    limits: Limits,
    pub(crate) fetch: FetchLimits,
    script_timeout: Duration,
    #[cfg(feature = "rest")]
    pub(crate) functions: std::sync::Arc<crate::functions::Functions>,
    #[cfg(feature = "rest")]
    pub(crate) logs: std::sync::Arc<crate::logs::Logs>,
    /// How far the end has come, for the requests.
    #[cfg(feature = "rest")]
    pub(crate) ending: crate::ending::Ending,
}

impl Manager {
    /// Returns a builder for the plugins in `folder`, which is made if it is not
    /// there.
    pub fn builder(folder: impl Into<PathBuf>) -> ManagerBuilder {
        ManagerBuilder {
            folder: folder.into(),
            host: Host::builder(),
            limits: Limits::default(),
            fetch: FetchLimits { size: 1 << 30, time: Duration::from_secs(600), allows_private: false },
            script_timeout: Duration::from_secs(600),
        }
    }

    /// The host that runs the plugins.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The plugins that were installed and cannot be used, with the reason, when
    /// the folder was opened.
    pub fn problems(&self) -> &[(String, ekuiper_host::Error)] {
        &self.problems
    }

    /// Stops the installations and updates that are under way, and refuses
    /// further ones. Ends the answers that have no end of their own, for example
    /// the rows of a source, and refuses further ones: a server that waits for its
    /// requests when it ends would wait for them. What a request has sent until
    /// then is answered.
    pub fn end(&self) {
        self.changes.end();
        #[cfg(feature = "rest")]
        {
            self.logs.end();
            self.ending.advance(Stage::Ending);
        }
    }

    /// [Ends](Self::end) what is under way, shuts the host down, and waits until
    /// changes are made or undone, at most 5 s. Requests that are not answered yet
    /// are refused, if they are still served: calls say whether they were sent.
    pub fn shutdown(&self) {
        self.end();
        #[cfg(feature = "rest")]
        self.ending.advance(Stage::Shutdown);
        self.host.shutdown();
        self.changes.await_none(PATIENCE);
        #[cfg(feature = "rest")]
        self.ending.advance(Stage::Over);
    }

    /// Returns the installed plugins that still cannot be used, with the reason.
    ///
    /// # Errors
    /// [`Error::Folder`].
    pub fn unusable(&self) -> Result<Vec<(&str, &ekuiper_host::Error)>> {
        Ok(self.unusable_of(&self.installed()?))
    }

    /// Returns those of the installed plugins that cannot be used, with the
    /// reason.
    pub(crate) fn unusable_of(&self, installed: &BTreeSet<String>) -> Vec<(&str, &ekuiper_host::Error)> {
        let used: BTreeSet<_> = self.host.packages().into_iter().map(|package| package.name).collect();
        let is_unusable = |name: &str| installed.contains(name) && !used.contains(name);
        let problems = self.problems.iter().map(|(name, problem)| (name.as_str(), problem));
        problems.filter(|(name, _)| is_unusable(name)).collect()
    }

    /// Returns the names of the installed plugins.
    pub(crate) fn installed(&self) -> Result<BTreeSet<String>> {
        Ok(self.store.installed()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the installed plugins, sorted by name.
    ///
    /// # Errors
    /// [`Error::Folder`].
    pub fn plugins(&self) -> Result<Vec<Package>> {
        let names = self.installed()?;
        Ok(self.host.packages().into_iter().filter(|package| names.contains(&package.name)).collect())
    }

    /// Installs a plugin: unpacks it, runs its `install.sh`, starts it, and keeps
    /// it if that has worked.
    ///
    /// # Errors
    /// All of [`Error`]'s but [`Error::InUse`]: nothing has changed.
    pub fn install(&self, origin: &Origin, options: &InstallOptions) -> Result<Package> {
        let check = |name: &str| match self.version_of(name) {
            Some(version) => Err(Error::Installed { plugin: name.to_owned(), version }),
            None => Ok(()),
        };
        self.change("install", origin, options, check, |name, version| {
            let package = Package::read(version.folder())?;
            self.host.add(package.clone())?;
            let started = self.start(name, &version);
            if let Err(error) = started.and_then(|()| self.store.switch(name, version)) {
                let _ = self.host.remove(name);
                self.discard_functions();
                return Err(error);
            }
            Ok(package)
        })
    }

    /// Updates an installed plugin to the package's version, which may be an
    /// older one. The old version runs until the new one has proved to work;
    /// then the symbols in use go on in it.
    ///
    /// # Errors
    /// As [`Manager::install`], and [`Error::NotInstalled`]: the plugin stays
    /// at its version.
    pub fn update(&self, origin: &Origin, options: &InstallOptions) -> Result<Package> {
        let check = |name: &str| self.check_installed(name);
        self.change("update", origin, options, check, |name, version| {
            let former = self.host.packages().into_iter().find(|package| package.name == name);
            let package = Package::read(version.folder())?;
            match &former {
                Some(former) => {
                    self.release_functions(former, &package);
                    self.unless_ending(name, || self.host.update(package.clone()))?;
                }
                // It could not be used so far.
                None => self.host.add(package.clone())?,
            }
            // It may not have been needed so far.
            let started = self.start(name, &version);
            let updated = started.and_then(|()| self.store.switch(name, version)).inspect_err(|_| {
                let restored = former.map_or_else(|| self.host.remove(name), |former| self.host.update(former));
                if let Err(error) = restored
                    && !self.changes.is_ending()
                {
                    tracing::error!("plugin {name} is not back at its version: {}", Chain(&error));
                }
            });
            self.discard_functions();
            updated.map(|()| package)
        })
    }

    /// Removes a plugin, and its files.
    ///
    /// # Errors
    /// [`Error::NotInstalled`], [`Error::Busy`], [`Error::InUse`],
    /// [`Error::Folder`]: nothing has changed. [`Error::Left`]: the plugin is
    /// removed.
    pub fn remove(&self, plugin: &str, users: Users) -> Result<()> {
        let _change = self.changes.begin();
        let entry = self.audit.begin("remove", plugin, json!({ "stops_users": users == Users::Stop }));
        let removed = self.remove_recorded(plugin, users, &entry);
        entry.finish(removed.as_deref().map(Some));
        removed.map(drop)
    }

    fn remove_recorded(&self, plugin: &str, users: Users, entry: &Entry<'_>) -> Result<String> {
        let _busy = self.begin(plugin)?;
        self.check_installed(plugin)?;
        let version = self.version_of(plugin).unwrap_or_default();
        let in_use = self.users(plugin);
        if users == Users::Keep && !in_use.is_empty() {
            return Err(Error::InUse { plugin: plugin.to_owned(), users: printable::some_of(&in_use, NAMED) });
        }
        entry.aim(Goal::Removed);
        let uninstalled = self.store.uninstall(plugin)?;
        // The plugin's process ends before its files go.
        match self.host.remove(plugin) {
            Ok(()) | Err(ekuiper_host::Error::NoSuchPlugin(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.discard_functions();
        uninstalled.remove()?;
        Ok(version)
    }

    /// Makes a change with a package whose files are in place, if `check` allows
    /// it for the plugin.
    fn change(
        &self,
        action: &'static str,
        origin: &Origin,
        options: &InstallOptions,
        check: impl Fn(&str) -> Result<()>,
        carry_out: impl FnOnce(&str, NewVersion<'_>) -> Result<Package>,
    ) -> Result<Package> {
        let _change = self.changes.begin();
        let details =
            json!({ "origin": origin.to_string(), "sha256": options.sha256, "parameters": options.parameters });
        let mut entry = self.audit.begin(action, options.name.as_deref().unwrap_or_default(), details);
        let changed = match self.changes.is_ending() {
            true => Err(Error::Ending),
            false => self.prepare(origin, options, &mut entry, check, carry_out),
        };
        // An install.sh may have written beside its folder.
        if let Err(error) = self.store.sweep() {
            tracing::warn!("{}", Chain(&error));
        }
        // Whatever has failed was stopped.
        let changed = changed.map_err(|error| if self.changes.is_ending() { Error::Ending } else { error });
        // What was uploaded for this is not needed any more.
        if let (Ok(_), Origin::File(path)) = (&changed, origin)
            && path.parent() == Some(&self.store.uploads())
        {
            let _ = std::fs::remove_file(path);
        }
        entry.finish(changed.as_ref().map(|package| Some(package.manifest.version.as_str())));
        changed
    }

    fn prepare(
        &self,
        origin: &Origin,
        options: &InstallOptions,
        entry: &mut Entry<'_>,
        check: impl Fn(&str) -> Result<()>,
        carry_out: impl FnOnce(&str, NewVersion<'_>) -> Result<Package>,
    ) -> Result<Package> {
        if let Some(name) = &options.name {
            check_name(name)?;
            // Before anything is fetched.
            check(name)?;
        }
        let fetched =
            origin.fetch(&self.store.downloads(), &self.fetch, &self.limits, options.sha256.as_deref(), &|| {
                self.changes.is_ending()
            })?;
        let named = |problem: ArchiveError| problem.named(fetched.path(), &origin.to_string());
        let mut archive = Archive::open(fetched.path(), self.limits.clone()).map_err(named)?;
        let name = archive.plugin().map_err(named)?.to_owned();
        check_name(&name)?;
        if let Some(expected) = options.name.as_ref().filter(|expected| **expected != name) {
            let found = printable::short(&name);
            return Err(Error::OtherPlugin { expected: expected.clone(), found });
        }
        entry.name(&name);
        let _busy = self.begin(&name)?;
        check(&name)?;
        let version = self.store.begin(&name)?;
        entry.aim(Goal::Installed(version.number()));
        archive.unpack(version.folder(), |_| !self.changes.is_ending()).map_err(named)?;
        if version.folder().join(SCRIPT).is_file() {
            let is_ending = || self.changes.is_ending();
            script::run(version.folder(), &options.parameters, self.script_timeout, &is_ending)
                .map_err(|problem| Error::Script { plugin: name.clone(), problem })?;
        }
        let folder = version.folder().to_owned();
        carry_out(&name, version).map_err(|error| error.named(&folder, &origin.to_string()))
    }

    /// Starts a plugin in a new version, and writes the files for eKuiper that its
    /// package lacks.
    fn start(&self, name: &str, version: &NewVersion<'_>) -> Result<()> {
        self.unless_ending(name, || self.host.start(name))?;
        // It may have started before it was given up.
        if self.changes.is_ending() {
            return Err(Error::Ending);
        }
        let description = self.host.description(name)?;
        description.map_or(Ok(()), |description| settings::complete(self.store.root(), version.folder(), &description))
    }

    /// Does what starts a new version of a plugin, which is given up when the
    /// manager ends.
    fn unless_ending(&self, name: &str, start: impl FnOnce() -> ekuiper_host::Result<()>) -> Result<()> {
        let (done, is_done) = mpsc::channel::<()>();
        let give_up = move || {
            while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(LOOK) {
                if self.changes.is_ending() {
                    // A plugin that is not there any more starts nothing.
                    let _ = self.host.give_up_start(name);
                }
            }
        };
        std::thread::scope(|scope| {
            let watch = std::thread::Builder::new().name("give-up".into()).spawn_scoped(scope, give_up);
            watch.map_err(|source| Error::Folder { path: "a thread".into(), source })?;
            let started = start();
            drop(done);
            Ok(started?)
        })
    }

    /// Drops the functions that the new version of a plugin lacks, if no request
    /// calls them: an update does not drop what is in use.
    fn release_functions(&self, former: &Package, package: &Package) {
        #[cfg(not(feature = "rest"))]
        let _ = (former, package);
        #[cfg(feature = "rest")]
        self.functions.release(|name| {
            let has = |package: &Package| package.manifest.functions.iter().any(|function| function == name);
            has(former) && !has(package)
        });
    }

    /// Drops what is kept of functions that are no longer there.
    fn discard_functions(&self) {
        #[cfg(feature = "rest")]
        self.functions.discard(&self.host);
    }

    /// Keeps other callers from changing the plugin.
    pub(crate) fn begin(&self, plugin: &str) -> Result<Changing<'_>> {
        self.changes.claim(plugin)
    }

    fn check_installed(&self, plugin: &str) -> Result<()> {
        let names: Vec<_> = self.store.installed()?.into_iter().map(|(name, _)| name).collect();
        if names.iter().any(|name| name == plugin) {
            return Ok(());
        }
        let known = match names.is_empty() {
            true => "none is installed".into(),
            false => format!("installed are {}", printable::some_of(&names, NAMED)),
        };
        Err(Error::NotInstalled { plugin: printable::short(plugin), known })
    }

    /// Returns the version of an installed plugin.
    fn version_of(&self, plugin: &str) -> Option<String> {
        let (_, folder) = self.store.installed().ok()?.into_iter().find(|(name, _)| name == plugin)?;
        Some(Package::read(folder).map(|package| package.manifest.version).unwrap_or_default())
    }

    /// Returns the kind of a symbol that an installed plugin has, and the plugin.
    pub(crate) fn symbol(&self, name: &str) -> Option<(SymbolKind, String)> {
        let kinds = [SymbolKind::Source, SymbolKind::Sink, SymbolKind::Function];
        let has = |package: &Package, kind| package.manifest.symbols(kind).iter().any(|symbol| symbol == name);
        self.plugins().ok()?.into_iter().find_map(|package| {
            let kind = kinds.into_iter().find(|kind| has(&package, *kind))?;
            Some((kind, package.name))
        })
    }

    /// Returns what there is instead of a symbol, as a sentence.
    pub(crate) fn known_instead(&self, kind: SymbolKind, symbol: &str) -> String {
        match self.symbol(symbol) {
            Some((of, plugin)) if of != kind => format!("{} is a {of} of plugin {plugin}", printable::short(symbol)),
            _ => {
                let plugins = self.plugins().unwrap_or_default();
                let mut names: Vec<_> = plugins.iter().flat_map(|package| package.manifest.symbols(kind)).collect();
                names.sort();
                match names.is_empty() {
                    true => format!("the plugins serve no {kind}"),
                    false => format!("the plugins serve {}", printable::some_of(&names, NAMED)),
                }
            }
        }
    }

    /// Returns who uses a plugin: its sources and sinks with their rules.
    fn users(&self, plugin: &str) -> Vec<String> {
        let status = self.host.status(plugin);
        let in_use = status.iter().flat_map(in_use);
        in_use.map(|symbol| format!("{} {} of rule {}", symbol.kind, symbol.name, symbol.meta.rule_id)).collect()
    }
}

/// Returns the sources and sinks of a plugin that are in use. A function is used
/// by whoever calls it next.
pub(crate) fn in_use(status: &Status) -> impl Iterator<Item = &SymbolHealth> {
    status.symbols.iter().filter(|symbol| symbol.kind != SymbolKind::Function)
}

/// Checks that a name can be that of a folder, a file, a socket and a URL.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let problem = match name {
        "" => "it is empty",
        name if name.starts_with('.') => "it begins with a dot",
        name if name.len() > LONGEST => "it is longer than 64 characters",
        name if !name.chars().all(is_plain) => "it may have letters, digits, dots, hyphens and underscores",
        _ => return Ok(()),
    };
    Err(Error::Name { name: format!("\"{}\"", printable::short(name)), problem })
}
