//! The folders of plugins: what is in them, and what has changed since they
//! were last read.

use std::fmt;
use std::path::{Path, PathBuf};

use ekuiper_core::Chain;

use super::core::Core;
use crate::catalog::Package;
use crate::sync::lock;
use crate::{Error, Result};

/// A folder whose plugin cannot be used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Problem {
    /// The plugin's folder, or a folder of plugins that cannot be read.
    pub folder: PathBuf,
    /// Reason.
    pub error: Error,
}

impl Problem {
    /// Creates and logs a problem.
    pub(super) fn of(folder: PathBuf, error: Error) -> Self {
        let problem = Self { folder, error };
        tracing::warn!("a plugin cannot be used: {problem}");
        problem
    }

    /// Returns whether it is the problem of a plugin of this name.
    pub(super) fn is_of(&self, plugin: &str) -> bool {
        self.folder.file_name().is_some_and(|name| name == plugin) || self.error.plugin() == Some(plugin)
    }
}

/// Formats the problem for people.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.folder.display(), Chain(&self.error))
    }
}

/// What [`Host::rescan`](crate::Host::rescan) has done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Rescan {
    /// Names of the plugins that were added.
    pub added: Vec<String>,
    /// Names of the plugins that were removed, because their folders are gone.
    pub removed: Vec<String>,
    /// Names of the plugins that were updated, because their manifests have
    /// changed.
    pub updated: Vec<String>,
    /// Folders that cannot be used, and updates that have failed. What was
    /// there before is unchanged.
    pub problems: Vec<Problem>,
}

/// Reads the plugins in a folder of plugins, in the order of their folders.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn packages_in(folder: &Path) -> Result<Vec<(PathBuf, Result<Package>)>> {
    let fail = |source: std::io::Error| Error::Folder { path: folder.to_owned(), source: source.into() };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders.into_iter().map(|folder| (folder.clone(), Package::read(&folder))).collect())
}

/// What the folders of plugins have.
#[derive(Default)]
struct Scan {
    found: Vec<(PathBuf, Package)>,
    problems: Vec<Problem>,
    /// Folders that cannot be used, whose plugins stay as they are.
    unusable: Vec<PathBuf>,
}

impl Scan {
    fn of(folders: &[PathBuf]) -> Self {
        let mut scan = Self::default();
        for folder in folders {
            match packages_in(folder) {
                Ok(packages) => packages.into_iter().for_each(|(folder, read)| match read {
                    Ok(package) => scan.found.push((folder, package)),
                    Err(error) => scan.is_unusable(folder, error),
                }),
                Err(error) => scan.is_unusable(folder.clone(), error),
            }
        }
        scan
    }

    fn is_unusable(&mut self, folder: PathBuf, error: Error) {
        self.unusable.extend(folder.canonicalize());
        self.unusable.push(folder.clone());
        self.problems.push(Problem::of(folder, error));
    }

    /// Returns whether a plugin's folder is gone.
    fn lacks(&self, former: &Package) -> bool {
        !self.found.iter().any(|(_, package)| package.name == former.name)
            && !self.unusable.iter().any(|folder| former.folder.starts_with(folder))
    }
}

impl Core {
    pub(super) fn rescan(&self) -> Result<Rescan> {
        let _turn = lock(&self.rescanning);
        if self.members().is_shut_down {
            return Err(Error::Stopped);
        }
        let mut scan = Scan::of(&self.folders);
        let former = self.members().scanned.clone();
        let mut rescan = Rescan::default();
        // Removed first: another plugin may have taken the symbols.
        for package in former.values().filter(|package| scan.lacks(package)) {
            // Another thread may have removed it.
            let _ = self.remove(&package.name);
            rescan.removed.push(package.name.clone());
        }
        let (mut changed, mut new) = (Vec::new(), Vec::new());
        for (folder, package) in std::mem::take(&mut scan.found) {
            match former.get(&package.name) {
                Some(former) if former.folder == package.folder && former.manifest == package.manifest => {}
                // Its former folder is gone, or is this one.
                Some(former) if former.folder == package.folder || !former.folder.exists() => {
                    changed.push((folder, package));
                }
                _ => new.push((folder, package)),
            }
        }
        self.apply(changed, &mut rescan.updated, &mut scan.problems, |package| self.update(package));
        self.apply(new, &mut rescan.added, &mut scan.problems, |package| self.add(package));
        rescan.problems = scan.problems;
        self.members().problems.clone_from(&rescan.problems);
        Ok(rescan)
    }

    /// Adds or updates plugins, each of which may fail.
    fn apply(
        &self,
        packages: Vec<(PathBuf, Package)>,
        done: &mut Vec<String>,
        problems: &mut Vec<Problem>,
        change: impl Fn(Package) -> Result<()>,
    ) {
        for (folder, package) in packages {
            match change(package.clone()) {
                Ok(()) => {
                    done.push(package.name.clone());
                    self.members().scanned.insert(package.name.clone(), package);
                }
                Err(error) => problems.push(Problem::of(folder, error)),
            }
        }
    }
}
