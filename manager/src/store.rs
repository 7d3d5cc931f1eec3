//! The manager's folder on disk.
//!
//! ```text
//! plugins/NAME -> ../versions/7/NAME     what is installed: one link per plugin
//! versions/7/NAME/                       a version's files; an install.sh may rely on their place
//! changes/                               the changes under way
//! downloads/                             packages on their way
//! settings/NAME/                         what was set for a plugin's sources and sinks
//! uploads/                               packages that were uploaded, until they are installed
//! audit.jsonl                            what was changed
//! lock                                   held by the manager that uses the folder
//! ```
//!
//! A link is replaced in one step, so that a plugin is always there in one
//! version, as a whole. What no link leads to is nothing, and is removed when
//! the folder is opened; what an `install.sh` has put into the manager's own
//! folders, after the change too.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::beneath;
use crate::error::{Error, Result};
use crate::manager::check_name;

/// Name of the lock file, by which the folder is known to be a manager's.
const LOCK: &str = "lock";

/// Name of the record of changes.
const AUDIT: &str = "audit.jsonl";

/// The manager's own folders.
const FOLDERS: [&str; 6] = ["plugins", "versions", "changes", "downloads", "settings", "uploads"];

/// Beginning of the names of temporary files, as `tempfile` makes them.
const TEMPORARY: &str = ".tmp";

/// Bound of the versions' numbers, which is not reached.
const LAST: u64 = 1 << 53;

/// Time to wait for the lock: when a manager was killed, its plugins' guards
/// hold it until they have ended the plugins, which takes a second.
const PATIENCE: Duration = Duration::from_secs(4);

/// Interval of the look whether the lock is free.
const LOOK: Duration = Duration::from_millis(20);

/// The folder; see the module.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    versions: Mutex<Versions>,
    _lock: File,
}

/// The versions' numbers. Locked while a link is replaced, and while what is not
/// the manager's is removed.
#[derive(Debug)]
struct Versions {
    /// Number of the next version.
    next: u64,
    /// Those that are being made or removed.
    held: BTreeSet<u64>,
    /// Those that could not be removed.
    left: BTreeSet<u64>,
}

/// A version that only its holder removes.
#[derive(Debug)]
struct Held<'a> {
    store: &'a Store,
    number: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.store.versions).held.remove(&self.number);
    }
}

/// A version that is being made. Dropping it removes its files, unless the
/// plugin has been switched to it.
#[derive(Debug)]
pub(crate) struct NewVersion<'a> {
    held: Held<'a>,
    folder: PathBuf,
    is_kept: bool,
}

impl NewVersion<'_> {
    /// Where the plugin's files belong; the folder does not exist yet.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn number(&self) -> u64 {
        self.held.number
    }
}

impl Drop for NewVersion<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.held.store.discard_version(self.held.number);
        }
    }
}

/// A plugin that is installed no more, whose files are still there.
#[derive(Debug)]
#[must_use = "its files stay"]
pub(crate) struct Uninstalled<'a> {
    plugin: &'a str,
    held: Held<'a>,
}

impl Uninstalled<'_> {
    /// Removes the files, and what was set for the plugin.
    ///
    /// # Errors
    /// [`Error::Left`]: they are removed when the manager starts, if they can be.
    pub(crate) fn remove(self) -> Result<()> {
        let store = self.held.store;
        let removed = [store.version(self.held.number), store.settings(self.plugin)]
            .map(|folder| beneath::remove(&store.root, &folder));
        removed.into_iter().collect::<Result<(), _>>().map_err(|(path, source)| {
            lock(&store.versions).left.insert(self.held.number);
            Error::Left { plugin: self.plugin.to_owned(), path, source }
        })
    }
}

impl Store {
    /// Opens the folder, and makes it if it is not there; removes what a killed
    /// manager has left, and what is not the manager's.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        // What is in the way of a version is removed, so it must be our own.
        let is_own =
            root.join(LOCK).exists() || fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        if !is_own {
            return Err(Error::ForeignFolder { path: root.to_owned() });
        }
        DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(failed(root))?;
        let root = root.canonicalize().map_err(failed(root))?;
        let path = root.join(LOCK);
        let file = beneath::append(&root, &path).map_err(failed(&path))?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < give_up => std::thread::sleep(LOOK),
                Err(Errno::WOULDBLOCK) => return Err(Error::FolderInUse { path: root }),
                Err(error) => return Err(failed(&path)(error.into())),
            }
        }
        for folder in FOLDERS {
            let folder = root.join(folder);
            beneath::make_folder(&root, &folder).map_err(failed(&folder))?;
        }
        let versions = Mutex::new(Versions { next: 1, held: BTreeSet::new(), left: BTreeSet::new() });
        let store = Self { root, versions, _lock: file };
        store.sweep_all()?;
        Ok(store)
    }

    /// Removes what a killed manager has left, and what is not the manager's, and
    /// numbers new versions from there on.
    fn sweep_all(&self) -> Result<()> {
        let unknown = entries(&self.root)?.into_iter().filter(|(name, _)| {
            let is_own = FOLDERS.contains(&name.as_str()) || name == LOCK;
            // The record may have been renamed.
            !is_own && !name.starts_with(AUDIT)
        });
        for (_, path) in unknown {
            tracing::warn!("{} is none of the manager's files, and stays", path.display());
        }
        for (name, path) in entries(&self.root.join("downloads"))? {
            if name.starts_with(TEMPORARY) {
                self.discard(&path);
            }
        }
        for (_, path) in entries(&self.root.join("plugins"))?.into_iter().filter(|(name, _)| name.starts_with('.')) {
            self.discard(&path);
        }
        let used = self.used()?;
        for (name, _) in entries(&self.root.join("versions"))? {
            if let Some(number) = number_of(&name).filter(|number| !used.contains(number)) {
                self.discard_version(number);
            }
        }
        lock(&self.versions).next = used.last().map_or(1, |last| last + 1);
        self.sweep()
    }

    /// Removes what is not the manager's from its folders.
    pub(crate) fn sweep(&self) -> Result<()> {
        let versions = lock(&self.versions);
        let installed = self.installed()?;
        let names: BTreeSet<_> = installed.iter().map(|(name, _)| name.as_str()).collect();
        let used = self.used()?;
        let is_known =
            |number: u64| [&used, &versions.held, &versions.left].iter().any(|known| known.contains(&number));
        let is_own = |folder: &str, name: &str| match folder {
            "plugins" | "settings" => names.contains(name),
            "versions" => number_of(name).is_some_and(is_known),
            _ => name.starts_with(TEMPORARY),
        };
        for folder in ["plugins", "versions", "downloads", "settings"] {
            for (name, path) in entries(&self.root.join(folder))? {
                if !is_own(folder, &name) {
                    tracing::warn!("removing {}, which is none of the manager's files", path.display());
                    self.discard(&path);
                }
            }
        }
        Ok(())
    }

    /// The manager's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the names of the installed plugins, with their folders.
    pub(crate) fn installed(&self) -> Result<Vec<(String, PathBuf)>> {
        let links = entries(&self.root.join("plugins"))?.into_iter();
        let installed = links.filter_map(|(name, _)| {
            let number = self.number(&name)?;
            let folder = self.version(number).join(&name);
            Some((name, folder))
        });
        let mut found: Vec<_> = installed.collect();
        found.sort();
        Ok(found)
    }

    /// Returns the number of a plugin's version, if it is installed.
    pub(crate) fn number(&self, plugin: &str) -> Option<u64> {
        check_name(plugin).ok()?;
        let target = fs::read_link(self.link(plugin)).ok()?;
        let number = number_of(target.parent()?.file_name()?.to_str()?)?;
        // Nothing is written or removed where another link leads.
        (target == target_of(number, plugin)).then_some(number)
    }

    fn used(&self) -> Result<BTreeSet<u64>> {
        Ok(self.installed()?.iter().filter_map(|(name, _)| self.number(name)).collect())
    }

    /// Begins a new version of a plugin.
    pub(crate) fn begin(&self, plugin: &str) -> Result<NewVersion<'_>> {
        let mut versions = lock(&self.versions);
        loop {
            let number = versions.next;
            versions.next += 1;
            let folder = self.version(number);
            match beneath::make_new_folder(&self.root, &folder) {
                Ok(()) => {
                    versions.held.insert(number);
                    let held = Held { store: self, number };
                    return Ok(NewVersion { held, folder: folder.join(plugin), is_kept: false });
                }
                // It could not be removed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&folder)(error)),
            }
        }
    }

    /// The link of a plugin.
    fn link(&self, plugin: &str) -> PathBuf {
        self.root.join("plugins").join(plugin)
    }

    /// The folder of a version.
    pub(crate) fn version(&self, number: u64) -> PathBuf {
        self.root.join("versions").join(number.to_string())
    }

    /// Folder for the changes under way.
    pub(crate) fn changes(&self) -> PathBuf {
        self.root.join("changes")
    }

    /// Folder for packages on their way.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// Folder for what was set for a plugin's sources and sinks.
    pub(crate) fn settings(&self, plugin: &str) -> PathBuf {
        self.root.join("settings").join(plugin)
    }

    /// Folder for packages that are uploaded.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.root.join(AUDIT)
    }

    /// Makes a version the installed one, in one step.
    pub(crate) fn switch(&self, plugin: &str, mut version: NewVersion<'_>) -> Result<()> {
        let links = self.root.join("plugins");
        // After a power failure the link must not lead to files that are not
        // written.
        let folder = File::open(&links).map_err(failed(&links))?;
        write_out(&folder).map_err(|error| failed(&links)(error.into()))?;
        let (link, fresh) = (self.link(plugin), self.link(&format!(".{plugin}")));
        let former = {
            let _versions = lock(&self.versions);
            let former = self.number(plugin);
            self.discard(&fresh);
            self.discard_other(&link);
            beneath::link(&self.root, &target_of(version.number(), plugin), &fresh).map_err(failed(&fresh))?;
            beneath::rename(&self.root, &fresh, &link).map_err(failed(&link))?;
            former
        };
        version.is_kept = true;
        let _ = folder.sync_all();
        if let Some(former) = former {
            self.discard_version(former);
        }
        Ok(())
    }

    /// Uninstalls a plugin, in one step: removes its link.
    pub(crate) fn uninstall<'a>(&'a self, plugin: &'a str) -> Result<Uninstalled<'a>> {
        let link = self.link(plugin);
        let mut versions = lock(&self.versions);
        let number = self.number(plugin).ok_or_else(|| failed(&link)(io::ErrorKind::NotFound.into()))?;
        beneath::unlink(&self.root, &link).map_err(failed(&link))?;
        versions.held.insert(number);
        drop(versions);
        if let Ok(folder) = File::open(self.root.join("plugins")) {
            let _ = folder.sync_all();
        }
        Ok(Uninstalled { plugin, held: Held { store: self, number } })
    }

    /// Removes what is in the place of a plugin's link, and is none.
    fn discard_other(&self, link: &Path) {
        if link.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            self.discard(link);
        }
    }

    /// Removes what no link leads to; returns whether nothing of it stays. What
    /// stays is removed when the folder is opened, if it can be.
    fn discard(&self, path: &Path) -> bool {
        let removed = beneath::remove(&self.root, path);
        if let Err((left, error)) = &removed {
            tracing::warn!(%error, "cannot remove {}: the next start tries it again", left.display());
        }
        removed.is_ok()
    }

    /// Removes a version that no link leads to.
    fn discard_version(&self, number: u64) {
        if !self.discard(&self.version(number)) {
            lock(&self.versions).left.insert(number);
        }
    }
}

/// Where the link of a plugin leads.
fn target_of(number: u64, plugin: &str) -> PathBuf {
    Path::new("../versions").join(number.to_string()).join(plugin)
}

/// The number of a version, by the name of its folder.
fn number_of(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number: &u64| *number < LAST && number.to_string() == name)
}

/// The names and paths of what is in a folder.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())))
            .collect()
    });
    entries.map_err(failed(folder))
}

/// Returns the error of a file or folder that cannot be used.
pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Folder { path, source }
}

/// Has all files of the folder's file system written to its disk.
#[cfg(target_os = "linux")]
fn write_out(folder: &File) -> rustix::io::Result<()> {
    rustix::fs::syncfs(folder)
}

/// Has all files written to their disks.
#[cfg(not(target_os = "linux"))]
fn write_out(_: &File) -> rustix::io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn put<'a>(store: &'a Store, plugin: &str, text: &str) -> NewVersion<'a> {
        let version = store.begin(plugin).unwrap();
        fs::create_dir(version.folder()).unwrap();
        fs::write(version.folder().join("file"), text).unwrap();
        version
    }

    fn text(store: &Store, plugin: &str) -> Option<String> {
        fs::read_to_string(store.root.join("plugins").join(plugin).join("file")).ok()
    }

    fn versions(store: &Store) -> usize {
        fs::read_dir(store.root.join("versions")).unwrap().count()
    }

    #[test]
    fn one_version_is_installed_and_no_other_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("a/b")).unwrap();
        store.switch("p", put(&store, "p", "1")).unwrap();
        drop(put(&store, "p", "not wanted"));
        assert_eq!((text(&store, "p").as_deref(), versions(&store)), (Some("1"), 1));
        store.switch("p", put(&store, "p", "2")).unwrap();
        assert_eq!((text(&store, "p").as_deref(), versions(&store)), (Some("2"), 1));
        store.uninstall("p").unwrap().remove().unwrap();
        assert_eq!((text(&store, "p"), versions(&store)), (None, 0));
        assert!(store.uninstall("p").is_err());
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let files =
            ["versions/1/mine", "versions/mine", "downloads/mine", "plugins/mine"].map(|file| folder.path().join(file));
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        assert!(matches!(Store::open(folder.path()), Err(Error::ForeignFolder { .. })));
        assert!(files.iter().all(|file| file.exists()) && !folder.path().join(LOCK).exists());
    }

    #[test]
    fn what_a_killed_manager_has_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.switch("p", put(&store, "p", "1")).unwrap();
        let mut left = put(&store, "p", "2");
        left.is_kept = true;
        drop(left);
        symlink("../versions/2/p", folder.path().join("plugins/.p")).unwrap();
        fs::write(folder.path().join("downloads/.tmpx"), "").unwrap();
        assert!(matches!(Store::open(folder.path()), Err(Error::FolderInUse { .. })));
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        let names: Vec<_> = store.installed().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!((names, versions(&store)), (vec!["p".to_owned()], 1));
        assert_eq!(fs::read_dir(store.downloads()).unwrap().count(), 0);
        // A number is not used a second time while its version is installed.
        store.switch("q", put(&store, "q", "3")).unwrap();
        assert_eq!((text(&store, "p").as_deref(), text(&store, "q").as_deref()), (Some("1"), Some("3")));
    }

    /// Everything that an `install.sh` may put beside its plugin's folder.
    #[test]
    fn what_is_not_the_manager_s_is_removed_from_its_folders_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(outside.join("7/p")).unwrap();
        let store = Store::open(&root).unwrap();
        store.switch("p", put(&store, "p", "1")).unwrap();
        let making = put(&store, "q", "2");
        let download = tempfile::NamedTempFile::new_in(store.downloads()).unwrap();
        let before = || ["plugins", "versions", "downloads", "settings"].map(|name| entries(&root.join(name)).unwrap());
        let own = before();
        let strew = || {
            for path in ["versions/x", "versions/99", "downloads/x", "plugins/x", "settings/x/sources"] {
                fs::create_dir_all(root.join(path)).unwrap();
                fs::write(root.join(path).join("file"), "").unwrap();
            }
            for name in ["y", "a b", "z"] {
                symlink(outside.join("7/p"), root.join("plugins").join(name)).unwrap();
            }
            symlink(&outside, root.join("versions/y")).unwrap();
            fs::write(root.join("plugins/q"), "").unwrap();
        };
        strew();
        store.sweep().unwrap();
        assert_eq!(before(), own);
        strew();
        // In the place of the new version's link too.
        store.switch("q", making).unwrap();
        assert_eq!(text(&store, "q").as_deref(), Some("2"));
        fs::write(root.join("notes"), "").unwrap();
        drop((store, download));
        let store = Store::open(&root).unwrap();
        let names: Vec<_> = store.installed().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!((names, versions(&store)), (vec!["p".to_owned(), "q".to_owned()], 2));
        assert!(entries(&store.downloads()).unwrap().is_empty() && entries(&root.join("settings")).unwrap().is_empty());
        assert!(root.join("notes").exists() && outside.join("7/p").exists());
    }

    /// A link of a plugin that an `install.sh` has replaced.
    #[test]
    fn nothing_is_removed_where_another_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        let store = Store::open(&root).unwrap();
        for target in [outside.join("7/p"), "../../outside/7/p".into(), "../versions/../../outside/7/p".into()] {
            fs::create_dir_all(outside.join("7/p")).unwrap();
            store.switch("p", put(&store, "p", "1")).unwrap();
            fs::remove_file(root.join("plugins/p")).unwrap();
            symlink(&target, root.join("plugins/p")).unwrap();
            assert!(store.uninstall("p").is_err());
            store.switch("p", put(&store, "p", "2")).unwrap();
            assert_eq!(text(&store, "p").as_deref(), Some("2"));
            assert!(outside.join("7/p").exists(), "{}", target.display());
        }
        // A folder of the manager's that is a link.
        drop(store);
        fs::rename(root.join("downloads"), outside.join("downloads")).unwrap();
        symlink(outside.join("downloads"), root.join("downloads")).unwrap();
        let said = ekuiper_core::Chain(&Store::open(&root).unwrap_err()).to_string();
        assert!(said.contains("downloads is a link, which is not followed"), "{said}");
    }
}
