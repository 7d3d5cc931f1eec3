//! The manager's folder on disk.
//!
//! ```text
//! plugins/NAME -> ../versions/7/NAME     what is installed: one link per plugin
//! versions/7/NAME/                       a version's files; an install.sh may rely on their place
//! downloads/                             packages on their way
//! settings/NAME/                         what was set for a plugin's sources and sinks
//! uploads/                               packages that were uploaded, until they are installed
//! audit.jsonl                            what was changed
//! lock                                   held by the manager that uses the folder
//! ```
//!
//! A link is replaced in one step, so that a plugin is always there in one
//! version, as a whole. What no link leads to is nothing, and is removed when
//! the folder is opened.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Name of the lock file, by which the folder is known to be a manager's.
const LOCK: &str = "lock";

/// Beginning of the names of temporary files, as `tempfile` makes them.
const TEMPORARY: &str = ".tmp";

/// Time to wait for the lock: when a manager was killed, its plugins' guards
/// hold it until they have ended the plugins, which takes a second.
const PATIENCE: Duration = Duration::from_secs(4);

/// Interval of the look whether the lock is free.
const LOOK: Duration = Duration::from_millis(20);

/// The folder; see the module.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    /// Number of the next version.
    next: Mutex<u64>,
    _lock: File,
}

/// A version that is being made. Dropping it removes its files, unless the
/// plugin has been switched to it.
#[derive(Debug)]
pub(crate) struct NewVersion {
    number: PathBuf,
    folder: PathBuf,
    is_kept: bool,
}

impl NewVersion {
    /// Where the plugin's files belong; the folder does not exist yet.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for NewVersion {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.number);
        }
    }
}

impl Store {
    /// Opens the folder, and makes it if it is not there; removes what a killed
    /// manager has left.
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
        let file = File::options().create(true).append(true).open(&path).map_err(failed(&path))?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < give_up => std::thread::sleep(LOOK),
                Err(Errno::WOULDBLOCK) => return Err(Error::FolderInUse { path: root }),
                Err(error) => return Err(failed(&path)(error.into())),
            }
        }
        for folder in ["plugins", "versions", "downloads", "settings", "uploads"] {
            let folder = root.join(folder);
            DirBuilder::new().recursive(true).mode(0o755).create(&folder).map_err(failed(&folder))?;
        }
        let store = Self { root, next: Mutex::new(1), _lock: file };
        store.sweep()?;
        Ok(store)
    }

    /// Removes what no link leads to, and numbers new versions from there on.
    fn sweep(&self) -> Result<()> {
        let used: BTreeSet<_> = self.installed()?.into_iter().filter_map(|(_, folder)| number_of(&folder)).collect();
        let versions = self.root.join("versions");
        for entry in fs::read_dir(&versions).map_err(failed(&versions))?.flatten() {
            let number: Option<u64> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if number.is_some_and(|number| !used.contains(&number)) {
                remove(&entry.path());
            }
        }
        let downloads = self.root.join("downloads");
        for entry in fs::read_dir(&downloads).map_err(failed(&downloads))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                remove(&entry.path());
            }
        }
        let names: BTreeSet<_> = self.installed()?.into_iter().map(|(name, _)| name).collect();
        let settings = self.root.join("settings");
        for entry in fs::read_dir(&settings).map_err(failed(&settings))?.flatten() {
            if entry.file_name().to_str().is_none_or(|name| !names.contains(name)) {
                remove(&entry.path());
            }
        }
        *lock(&self.next) = used.last().map_or(1, |last| last + 1);
        Ok(())
    }

    /// Returns the names of the installed plugins, with their folders.
    pub(crate) fn installed(&self) -> Result<Vec<(String, PathBuf)>> {
        let links = self.root.join("plugins");
        let mut found = Vec::new();
        for entry in fs::read_dir(&links).map_err(failed(&links))? {
            let path = entry.map_err(failed(&links))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A hidden one was to replace another.
            match fs::read_link(&path) {
                Ok(_) if name.starts_with('.') => remove(&path),
                Ok(target) => found.push((name, links.join(target))),
                Err(_) => {}
            }
        }
        found.sort();
        Ok(found)
    }

    /// Begins a new version of a plugin.
    pub(crate) fn begin(&self, plugin: &str) -> Result<NewVersion> {
        let mut next = lock(&self.next);
        let number = self.root.join("versions").join(next.to_string());
        *next += 1;
        DirBuilder::new().mode(0o755).create(&number).map_err(failed(&number))?;
        let folder = number.join(plugin);
        Ok(NewVersion { number, folder, is_kept: false })
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
        self.root.join("audit.jsonl")
    }

    /// Makes a version the installed one, in one step.
    pub(crate) fn switch(&self, plugin: &str, mut version: NewVersion) -> Result<()> {
        let links = self.root.join("plugins");
        let link = links.join(plugin);
        let former = fs::read_link(&link).ok().and_then(|target| Some(links.join(target).parent()?.to_owned()));
        let number = version.number.file_name().unwrap_or_default();
        let target = Path::new("..").join("versions").join(number).join(plugin);
        let fresh = links.join(format!(".{plugin}"));
        remove(&fresh);
        // After a power failure the link must not lead to files that are not
        // written.
        let folder = File::open(&links).map_err(failed(&links))?;
        write_out(&folder).map_err(|error| failed(&links)(error.into()))?;
        symlink(&target, &fresh).map_err(failed(&fresh))?;
        fs::rename(&fresh, &link).map_err(failed(&link))?;
        version.is_kept = true;
        let _ = folder.sync_all();
        if let Some(former) = former {
            remove(&former);
        }
        Ok(())
    }

    /// Removes a plugin: first its link, in one step, then its files.
    pub(crate) fn remove(&self, plugin: &str) -> Result<()> {
        let links = self.root.join("plugins");
        let link = links.join(plugin);
        let target = fs::read_link(&link).map_err(failed(&link))?;
        fs::remove_file(&link).map_err(failed(&link))?;
        if let Ok(folder) = File::open(&links) {
            let _ = folder.sync_all();
        }
        if let Some(number) = links.join(target).parent() {
            remove(number);
        }
        remove(&self.settings(plugin));
        Ok(())
    }
}

/// Returns the error of a file or folder that cannot be used.
pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Folder { path, source }
}

/// The number of the version that a plugin's folder belongs to.
fn number_of(folder: &Path) -> Option<u64> {
    folder.parent()?.file_name()?.to_str()?.parse().ok()
}

/// Removes a file, a link, or a folder with everything in it. What cannot be
/// removed is nothing that a link leads to.
fn remove(path: &Path) {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return,
    };
    if let Err(error) = removed {
        tracing::warn!(%error, "cannot remove {}", path.display());
    }
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

    fn put(store: &Store, plugin: &str, text: &str) -> NewVersion {
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
        store.remove("p").unwrap();
        assert_eq!((text(&store, "p"), versions(&store)), (None, 0));
        assert!(store.remove("p").is_err());
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
}
