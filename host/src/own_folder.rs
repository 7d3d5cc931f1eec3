//! A host's own socket folder, which only its user can enter, and what becomes
//! of it when the host is killed: the next host of the same user removes it.
//!
//! A host holds a lock on a file in its folder as long as it lives, in whatever
//! way it ends. So a folder whose lock can be had is nobody's. What is removed
//! is the lock's file, sockets, and then the folder, if that was all.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, renameat, statat, unlinkat,
};

/// What its name begins with.
const PREFIX: &str = "ekuiper-";

/// The file that its owner has locked.
const LOCK: &str = "lock";

/// The same, before it is.
const NEW_LOCK: &str = "lock.new";

/// The folder; dropped, it is removed with all that is in it.
#[derive(Debug)]
pub(crate) struct OwnFolder {
    folder: tempfile::TempDir,
    /// `None` where the file system knows no locks: nobody else removes it then.
    _lock: Option<OwnedFd>,
}

impl OwnFolder {
    /// Makes one in the system's folder for temporary files.
    pub(crate) fn make() -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    fn make_in(parent: &Path) -> io::Result<Self> {
        // As `mkdtemp` would; tempfile's own default lets everybody in.
        let private = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(parent)?;
        let at = open_folder(rustix::fs::CWD, folder.path())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let lock = openat(&at, NEW_LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            tracing::debug!(folder = %folder.path().display(), %error, "the socket folder cannot be locked");
            return Ok(Self { folder, _lock: None });
        }
        // Under the name that others look for it is locked from the beginning.
        renameat(&at, NEW_LOCK, &at, LOCK)?;
        Ok(Self { folder, _lock: Some(lock) })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders that hosts of this user have left behind when they were
/// killed.
pub(crate) fn sweep() {
    sweep_in(&std::env::temp_dir());
}

fn sweep_in(parent: &Path) {
    // Others' folders, and those that are being made or removed meanwhile, are
    // no reason to do anything.
    let Ok(parent) = open_folder(rustix::fs::CWD, parent) else { return };
    let Ok(entries) = Dir::read_from(&parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_bytes().starts_with(PREFIX.as_bytes())
            && let Ok(true) = remove_if_left(&parent, name)
        {
            tracing::info!(folder = %name.to_string_lossy(), "removed the socket folder of a host that was killed");
        }
    }
}

/// Whether it was left, and is gone now.
fn remove_if_left(parent: &OwnedFd, name: &std::ffi::CStr) -> io::Result<bool> {
    let folder = open_folder(parent.as_fd(), name)?;
    let stat = fstat(&folder)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Ok(false);
    }
    let lock =
        openat(&folder, LOCK, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    // It is the owner's, or another host is removing it.
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    for entry in Dir::read_from(&folder)?.flatten() {
        let stat = statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
            unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    // While anything else is there, it stays as it is.
    let is_only_lock =
        |entry: &rustix::fs::DirEntry| [".", "..", LOCK].map(str::as_bytes).contains(&entry.file_name().to_bytes());
    if !Dir::read_from(&folder)?.flatten().all(|entry| is_only_lock(&entry)) {
        return Ok(false);
    }
    unlinkat(&folder, LOCK, AtFlags::empty())?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

fn open_folder(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    /// As a host leaves it that was killed.
    fn abandoned(parent: &Path) -> std::path::PathBuf {
        let OwnFolder { folder, _lock } = OwnFolder::make_in(parent).unwrap();
        let path = folder.keep();
        drop(UnixListener::bind(path.join("plugin_p.ipc")).unwrap());
        path
    }

    #[test]
    fn what_was_left_goes_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let mine = OwnFolder::make_in(parent.path()).unwrap();
        assert_eq!(std::fs::metadata(mine.path()).unwrap().permissions().mode() & 0o777, 0o700);
        drop(UnixListener::bind(mine.path().join("plugin_p.ipc")).unwrap());
        let left = [abandoned(parent.path()), abandoned(parent.path())];
        // Another test's process may have a copy of the lock until it executes.
        let give_up = Instant::now() + Duration::from_secs(20);
        while left.iter().any(|path| path.exists()) && Instant::now() < give_up {
            sweep_in(parent.path());
        }
        assert!(!left.iter().any(|path| path.exists()));
        assert!(mine.path().join("plugin_p.ipc").exists());
        let path = mine.path().to_owned();
        drop(mine);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_surely_a_hosts_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        // Being made by another host.
        let unlocked = path("ekuiper-unlocked");
        std::fs::create_dir(&unlocked).unwrap();
        // Somebody's, who has put something there.
        let used = abandoned(parent.path());
        std::fs::write(used.join("notes"), "mine").unwrap();
        // With permissions that no host gives.
        let open = abandoned(parent.path());
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        // Elsewhere.
        let elsewhere = tempfile::tempdir().unwrap();
        let target = abandoned(elsewhere.path());
        std::os::unix::fs::symlink(&target, path("ekuiper-link")).unwrap();
        let lock_elsewhere = path("ekuiper-lock");
        std::fs::create_dir(&lock_elsewhere).unwrap();
        std::fs::set_permissions(&lock_elsewhere, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(target.join("lock"), lock_elsewhere.join("lock")).unwrap();
        // With another name.
        let other = path("other-name");
        std::fs::rename(abandoned(parent.path()), &other).unwrap();
        sweep_in(parent.path());
        assert!(
            [&unlocked, &used.join("notes"), &open, &target, &lock_elsewhere, &other].iter().all(|path| path.exists())
        );
    }
}
