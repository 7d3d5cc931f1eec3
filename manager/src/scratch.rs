//! A private folder among the system's temporary files.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::archive::{ArchiveError, Result};

/// What folders are for: a part of their names.
const PURPOSES: [&str; 4] = ["unpacked", "watch", "deploy", "check"];

/// Mode of a folder. The sticky bit, which means nothing in a private folder,
/// tells it from folders of other origin.
const MODE: u32 = 0o1700;

/// A private folder among the system's temporary files. Dropping it removes
/// it; what a killed process has left is removed by the next one of the same
/// user.
#[derive(Debug)]
pub struct Scratch {
    // Removed before its lock is released.
    folder: TempDir,
    /// The folder itself, which is locked as long as it is used.
    _lock: File,
}

impl Scratch {
    /// Makes an empty folder: `"unpacked"`, `"watch"`, `"deploy"` or `"check"`.
    ///
    /// # Errors
    /// [`ArchiveError::Scratch`].
    pub fn new(purpose: &str) -> Result<Self> {
        Self::new_in(&std::env::temp_dir(), purpose)
    }

    fn new_in(parent: &Path, purpose: &str) -> Result<Self> {
        debug_assert!(PURPOSES.contains(&purpose), "{purpose} would not be swept");
        sweep(parent);
        Self::make(parent, purpose).map_err(|source| ArchiveError::Scratch { folder: parent.to_owned(), source })
    }

    fn make(parent: &Path, purpose: &str) -> io::Result<Self> {
        let prefix = format!("ekuiper-{purpose}-");
        loop {
            let folder = tempfile::Builder::new()
                .prefix(&prefix)
                .permissions(Permissions::from_mode(MODE))
                .tempdir_in(parent)?;
            // Another process may sweep it until it is locked.
            let lock = match File::open(folder.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            flock(&lock, FlockOperation::LockExclusive)?;
            let is_there = |there: Metadata| Ok::<_, io::Error>(there.ino() == lock.metadata()?.ino());
            if fs::symlink_metadata(folder.path()).is_ok_and(|there| is_there(there).unwrap_or(false)) {
                return Ok(Self { folder, _lock: lock });
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders that killed processes of this user have left.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let purpose = name.to_str().and_then(|name| name.strip_prefix("ekuiper-")?.split_once('-'));
        if purpose.is_some_and(|(purpose, _)| PURPOSES.contains(&purpose)) {
            let _ = remove_if_left(&entry.path());
        }
    }
}

/// Removes a folder if it is one of this user that nobody uses.
fn remove_if_left(folder: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    let is_ours =
        metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o7777 == MODE;
    if is_ours {
        let lock = File::open(folder)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        // Locked, so that its maker does not begin to use it meanwhile.
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_behind_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), "").unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
            folder
        };
        let left = ["unpacked", "watch", "deploy", "check"].map(|name| make(&format!("ekuiper-{name}-abcdef"), MODE));
        let others = [make("ekuiper-watch-notes", 0o700), make("ekuiper-other-abcdef", MODE), make("watch", MODE)];
        let used = Scratch::new_in(parent.path(), "deploy").unwrap();
        let another = Scratch::new_in(parent.path(), "watch").unwrap();
        assert!(left.iter().all(|folder| !folder.exists()), "{left:?}");
        assert!(others.iter().all(|folder| folder.exists()), "{others:?}");
        assert!([&used, &another].iter().all(|scratch| scratch.path().exists()));
        assert_eq!(fs::read_dir(used.path()).unwrap().count(), 0);
        assert_eq!(used.path().metadata().unwrap().mode() & 0o777, 0o700);
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn many_at_once_do_not_sweep_each_other() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let scratch = Scratch::new_in(parent.path(), "check").unwrap();
                        fs::write(scratch.path().join("file"), "x").unwrap();
                        assert_eq!(fs::read(scratch.path().join("file")).unwrap(), b"x");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told_with_its_place_and_tmpdir() {
        let parent = tempfile::tempdir().unwrap();
        let error = Scratch::new_in(&parent.path().join("none"), "unpacked").unwrap_err().to_string();
        assert!(error.starts_with("cannot make a temporary folder in ") && error.contains("none"), "{error}");
        assert!(error.contains("TMPDIR"), "{error}");
    }
}
