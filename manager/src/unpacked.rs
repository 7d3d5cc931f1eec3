//! A package that is unpacked for as long as it is used.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::archive::{Archive, ArchiveError, Limits, Result};

/// Prefix of the folder's name.
const PREFIX: &str = "ekuiper-unpacked-";

/// Name of the lock file, which is held as long as the folder is used.
const LOCK: &str = "lock";

/// Name of the lock file before it is locked.
const NEW_LOCK: &str = "lock.new";

/// An unpacked package, in a private folder among the system's temporary files.
/// Dropping it removes it; what a killed process has left is removed by the
/// next one of the same user.
#[derive(Debug)]
pub struct Unpacked {
    plugin: PathBuf,
    _lock: File,
    // Removed before the lock is released.
    _folder: TempDir,
}

impl Unpacked {
    /// Unpacks the archive at `path`. The folder has the plugin's name.
    /// `progress` is called with the number of bytes written so far, and
    /// returns whether to go on.
    ///
    /// # Errors
    /// As [`Archive::open`], [`Archive::plugin`] and [`Archive::unpack`].
    pub fn new(path: &Path, progress: impl FnMut(u64) -> bool) -> Result<Self> {
        let mut archive = Archive::open(path, Limits::default())?;
        let plugin = archive.plugin()?.to_owned();
        let parent = std::env::temp_dir();
        sweep(&parent);
        let unwritable = |source| ArchiveError::Write { path: parent.clone(), source };
        let private = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(&parent);
        let folder = folder.map_err(unwritable)?;
        let lock = File::create(folder.path().join(NEW_LOCK)).map_err(unwritable)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| unwritable(errno.into()))?;
        // Locked before it has the name that other processes look for.
        fs::rename(folder.path().join(NEW_LOCK), folder.path().join(LOCK)).map_err(unwritable)?;
        let plugin = folder.path().join("plugin").join(plugin);
        fs::create_dir(folder.path().join("plugin")).map_err(unwritable)?;
        archive.unpack(&plugin, progress)?;
        Ok(Self { plugin, _lock: lock, _folder: folder })
    }

    /// The plugin's folder.
    pub fn folder(&self) -> &Path {
        &self.plugin
    }
}

/// Removes the folders that killed processes of this user have left.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && is_left(&entry.path()).unwrap_or(false)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a folder is of this user, and its lock is free.
fn is_left(folder: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(folder)?;
    let is_own = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_own || !fs::symlink_metadata(folder.join(LOCK))?.is_file() {
        return Ok(false);
    }
    let lock = File::open(folder.join(LOCK))?;
    Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Contents;

    #[test]
    fn only_what_is_left_behind_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = parent.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&folder).unwrap();
            folder
        };
        let [used, left, new, other] = [make("used"), make("left"), make("new"), parent.path().join("other")];
        fs::create_dir(&other).unwrap();
        let held = [&used, &left, &other].map(|folder| File::create(folder.join(LOCK)).unwrap());
        flock(&held[0], FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep(parent.path());
        assert_eq!([&used, &left, &new, &other].map(|folder| folder.exists()), [true, false, true, true]);
    }

    #[test]
    fn it_is_there_as_long_as_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.zip");
        let mut contents = Contents::new();
        contents.add_bytes("p.json", "{}", false).unwrap();
        contents.write(&path).unwrap();
        let unpacked = Unpacked::new(&path, |_| true).unwrap();
        let plugin = unpacked.folder().to_owned();
        assert!(plugin.ends_with("p") && plugin.join("p.json").is_file());
        let own = plugin.ancestors().nth(2).unwrap().to_owned();
        assert_eq!(own.metadata().unwrap().mode() & 0o777, 0o700);
        drop(unpacked);
        assert!(!own.exists());
    }
}
