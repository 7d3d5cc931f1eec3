//! A manager, and what tests do with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ekuiper_host::Host;
use ekuiper_manager::{Error, InstallOptions, Manager, ManagerBuilder, Origin};

/// A manager in a folder of `root`, whose plugins have their sockets there.
pub fn builder(root: &Path) -> ManagerBuilder {
    Manager::builder(root.join("managed")).host(Host::builder().ipc_dir(root)).allow_private_addresses(true)
}

/// A private folder.
///
/// # Panics
/// It cannot be made.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700)).tempdir().unwrap()
}

/// A package, or a folder, of this machine.
pub fn file(path: PathBuf) -> Origin {
    Origin::File(path)
}

/// Installs a plugin; returns its version.
///
/// # Errors
/// It cannot be installed.
pub fn install(manager: &Manager, origin: &Origin) -> Result<String, Error> {
    manager.install(origin, &InstallOptions::default()).map(|package| package.manifest.version)
}

/// Updates a plugin; returns its version.
///
/// # Errors
/// It cannot be updated.
pub fn update(manager: &Manager, origin: &Origin) -> Result<String, Error> {
    manager.update(origin, &InstallOptions::default()).map(|package| package.manifest.version)
}

/// Everything in the manager's folder but its record.
///
/// # Panics
/// It cannot be read.
pub fn files(root: &Path) -> BTreeSet<PathBuf> {
    fn add(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                add(&entry.path(), found);
            }
            found.insert(entry.path());
        }
    }
    let mut found = BTreeSet::new();
    add(&root.join("managed"), &mut found);
    found.retain(|path| !path.ends_with("audit.jsonl"));
    found
}
