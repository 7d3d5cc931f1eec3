//! A host's private folder, which only its user can enter, and its removal by
//! the next host of the same user if the host is killed.
//!
//! A host holds a lock on a file in its folder as long as it lives, however it
//! ends. Thus a folder whose lock is free is abandoned. It is removed only if
//! everything in it could have been made by a host, and no process listens on
//! its sockets. It may contain:
//!
//! - the lock file;
//! - sockets;
//! - for each socket elsewhere, a symbolic link to its path, so that the
//!   sockets of a killed host in `/tmp` are removed too;
//! - one folder for the temporary files of an installer.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ekuiper_core::address::Address;
use ekuiper_transport_ipc::socket_file;
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, readlinkat, renameat, statat,
    unlinkat,
};

/// Prefix of the folder's name.
const PREFIX: &str = "ekuiper-";

/// Name of the lock file.
const LOCK: &str = "lock";

/// Name of the lock file before it is locked.
const NEW_LOCK: &str = "lock.new";

/// Prefix of a link to a socket elsewhere; the socket's name follows.
const ELSEWHERE: &str = ".at-";

/// Prefix of the folder for temporary files; the inode of the lock file
/// follows, so that a copy of the folder is not recognized.
const SCRATCH: &str = "scratch-";

/// A host's private folder. Dropping it removes it with its contents.
#[derive(Debug)]
pub(crate) struct OwnFolder {
    folder: tempfile::TempDir,
    /// `None` where the file system has no locks: no other host removes the
    /// folder then.
    _lock: Option<OwnedFd>,
}

impl OwnFolder {
    /// Creates a folder in the system's folder for temporary files.
    pub(crate) fn make() -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    /// Creates a folder in another folder.
    pub(crate) fn make_in(parent: &Path) -> io::Result<Self> {
        // As `mkdtemp` does; tempfile's default admits other users.
        let private = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(parent)?;
        let at = open_folder(rustix::fs::CWD, folder.path())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let lock = openat(&at, NEW_LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            tracing::debug!(folder = %folder.path().display(), %error, "the socket folder cannot be locked");
            return Ok(Self { folder, _lock: None });
        }
        // Locked before it has the name that other hosts look for.
        renameat(&at, NEW_LOCK, &at, LOCK)?;
        Ok(Self { folder, _lock: Some(lock) })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a subfolder for temporary files.
    pub(crate) fn scratch(&self) -> io::Result<PathBuf> {
        let lock = statat(rustix::fs::CWD, self.path().join(LOCK), AtFlags::SYMLINK_NOFOLLOW).or_else(|_| {
            // The folder is not locked, so no other host removes it.
            statat(rustix::fs::CWD, self.path().join(NEW_LOCK), AtFlags::SYMLINK_NOFOLLOW)
        })?;
        let path = self.path().join(scratch_name(&lock));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path)?;
        Ok(path)
    }
}

/// Note in a host's own folder that it uses a socket elsewhere. Dropping it
/// removes the note.
#[derive(Debug)]
pub(crate) struct Elsewhere(PathBuf);

impl Elsewhere {
    /// Creates the note. Without it a killed host leaves the socket behind,
    /// which is no reason not to use the socket.
    pub(crate) fn note(own_folder: &Path, address: &Address) -> Option<Self> {
        let mut name = std::ffi::OsString::from(ELSEWHERE);
        name.push(address.path().file_name()?);
        let link = own_folder.join(name);
        match std::os::unix::fs::symlink(address.path(), &link) {
            Ok(()) => Some(Self(link)),
            Err(error) => {
                tracing::debug!(%address, %error, "the socket cannot be noted in the host's own folder");
                None
            }
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes the folders that killed hosts of this user have left behind.
pub(crate) fn sweep() {
    sweep_in(&std::env::temp_dir());
}

/// The same in another folder.
pub(crate) fn sweep_in(parent: &Path) {
    // Other users' folders, and folders being created or removed, are not an
    // error.
    let Ok(at) = open_folder(rustix::fs::CWD, parent) else { return };
    let Ok(entries) = Dir::read_from(&at) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_bytes().starts_with(PREFIX.as_bytes())
            && let Ok(true) = remove_if_left(&at, parent, name)
        {
            tracing::info!(folder = %name.to_string_lossy(), "removed the socket folder of a host that was killed");
        }
    }
}

/// Removes a folder if it is abandoned; returns whether it was.
fn remove_if_left(parent: &OwnedFd, parent_path: &Path, name: &std::ffi::CStr) -> io::Result<bool> {
    let folder = open_folder(parent.as_fd(), name)?;
    let own = fstat(&folder)?;
    if !is_own(&own) || own.st_mode & 0o777 != 0o700 {
        return Ok(false);
    }
    let is_lock = |found: &Stat| {
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && is_own(found)
            && (found.st_mode & 0o7777, found.st_size, found.st_nlink) == (0o600, 0, 1)
    };
    // Checked before it is opened, since opening some files has side effects.
    if !is_lock(&statat(&folder, LOCK, AtFlags::SYMLINK_NOFOLLOW)?) {
        return Ok(false);
    }
    let lock =
        openat(&folder, LOCK, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    // Otherwise its owner lives, or another host is removing it.
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let found = fstat(&lock)?;
    if !is_lock(&found) {
        return Ok(false);
    }
    let path = parent_path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
    let Some(left) = Left::list(&folder, &path, &found)? else { return Ok(false) };
    if !left.remove() {
        return Ok(false);
    }
    unlinkat(&folder, LOCK, AtFlags::empty())?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

fn is_own(found: &Stat) -> bool {
    found.st_uid == rustix::process::geteuid().as_raw()
}

fn scratch_name(lock: &Stat) -> String {
    format!("{SCRATCH}{:x}", lock.st_ino)
}

/// Contents of an abandoned folder, besides the lock file.
#[derive(Default)]
struct Left {
    sockets: Vec<Address>,
    /// Links, and the sockets they point to.
    elsewhere: Vec<(PathBuf, Address)>,
    scratch: Option<PathBuf>,
}

impl Left {
    /// Lists the contents; `None` if there is something that no host creates.
    fn list(folder: &OwnedFd, path: &Path, lock: &Stat) -> io::Result<Option<Self>> {
        let mut left = Self::default();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if [".", "..", LOCK].map(str::as_bytes).contains(&name.to_bytes()) {
                continue;
            }
            let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let at = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            match FileType::from_raw_mode(found.st_mode) {
                _ if !is_own(&found) => return Ok(None),
                FileType::Socket => {
                    let Ok(address) = Address::new(at) else { return Ok(None) };
                    left.sockets.push(address);
                }
                FileType::Symlink => {
                    let target = readlinkat(folder, name, Vec::new())?;
                    let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
                    let Some(socket) = recorded(name.to_bytes(), target) else { return Ok(None) };
                    left.elsewhere.push((at, socket));
                }
                FileType::Directory if name.to_bytes() == scratch_name(lock).as_bytes() => left.scratch = Some(at),
                _ => return Ok(None),
            }
        }
        Ok(Some(left))
    }

    /// Removes the contents; returns whether all are gone. Nothing is removed
    /// while a process listens.
    fn remove(self) -> bool {
        if !self.sockets.iter().all(socket_file::is_stale) {
            return false;
        }
        let is_gone = |address: &Address| matches!(socket_file::remove_own_stale(address), Ok(true));
        if !self.sockets.iter().all(is_gone) {
            return false;
        }
        for (link, socket) in self.elsewhere {
            // A socket with a listener belongs to another process by now; the
            // link is removed nevertheless.
            if matches!(socket_file::remove_own_stale(&socket), Ok(true)) {
                tracing::debug!(%socket, "removed the socket of a host that was killed");
            }
            if std::fs::remove_file(link).is_err() {
                return false;
            }
        }
        // An installer that is just ending may still be writing.
        self.scratch.is_none_or(|scratch| std::fs::remove_dir_all(scratch).is_ok())
    }
}

/// Returns the socket that a link of this name stands for; `None` if no host
/// creates such a link.
fn recorded(name: &[u8], target: &Path) -> Option<Address> {
    let socket = name.strip_prefix(ELSEWHERE.as_bytes())?;
    let is_socket = target.is_absolute() && socket.ends_with(b".ipc") && target.file_name()?.as_bytes() == socket;
    is_socket.then(|| Address::new(target).ok())?
}

fn open_folder(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    /// Creates a folder as a killed host leaves it.
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
        // Another test's process may hold a copy of the lock until it executes
        // its program.
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
        // Being created by another host.
        let unlocked = path("ekuiper-unlocked");
        std::fs::create_dir(&unlocked).unwrap();
        // With a user's file.
        let used = abandoned(parent.path());
        std::fs::write(used.join("notes"), "mine").unwrap();
        // With permissions that no host sets.
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

    /// Creates a folder with an unlocked lock file, as a host's.
    fn looks_left(parent: &Path, name: &str) -> PathBuf {
        let path = parent.join(name);
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path).unwrap();
        write(&path.join(LOCK), "");
        path
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    fn make_fifo(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn what_no_host_makes_keeps_the_folder_and_all_that_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        type Make = fn(&Path);
        let make: [(&str, Make); 9] = [
            ("content", |path| write(&path.join(LOCK), "precious")),
            ("fifo", |path| {
                std::fs::remove_file(path.join(LOCK)).unwrap();
                make_fifo(&path.join(LOCK));
            }),
            ("mode", |path| std::fs::set_permissions(path.join(LOCK), Permissions::from_mode(0o644)).unwrap()),
            ("twin", |path| std::fs::hard_link(path.join(LOCK), path.with_extension("twin")).unwrap()),
            ("file", |path| write(&path.join("notes"), "")),
            ("pipe", |path| make_fifo(&path.join("pipe"))),
            ("link", |path| std::os::unix::fs::symlink("/tmp/x.ipc", path.join("x.ipc")).unwrap()),
            ("target", |path| std::os::unix::fs::symlink("/tmp/y.ipc", path.join(".at-x.ipc")).unwrap()),
            ("folder", |path| std::fs::create_dir(path.join("scratch-1")).unwrap()),
        ];
        for (what, make) in make {
            let path = looks_left(parent.path(), &format!("ekuiper-{what}"));
            drop(UnixListener::bind(path.join("dead.ipc")).unwrap());
            make(&path);
            sweep_in(parent.path());
            assert!(path.join(LOCK).symlink_metadata().is_ok() && path.join("dead.ipc").exists(), "{what}");
        }
        let live = looks_left(parent.path(), "ekuiper-live");
        drop(UnixListener::bind(live.join("dead.ipc")).unwrap());
        let listener = UnixListener::bind(live.join("live.ipc")).unwrap();
        sweep_in(parent.path());
        assert!(live.join("live.ipc").exists() && live.join("dead.ipc").exists(), "somebody listens");
        drop(listener);
        sweep_in(parent.path());
        assert!(!live.exists());
    }

    #[test]
    fn sockets_elsewhere_and_temporary_files_go_too() {
        let (parent, common) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| common.path().join(name);
        let own = OwnFolder::make_in(parent.path()).unwrap();
        let scratch = own.scratch().unwrap();
        std::fs::create_dir(scratch.join("pip")).unwrap();
        write(&scratch.join("pip/wheel"), "content");
        let live = UnixListener::bind(at("live.ipc")).unwrap();
        drop(UnixListener::bind(at("dead.ipc")).unwrap());
        drop(UnixListener::bind(at("others.ipc")).unwrap());
        write(&at("file.ipc"), "precious");
        for name in ["live.ipc", "dead.ipc", "file.ipc", "none.ipc"] {
            let address = Address::new(at(name)).unwrap();
            std::mem::forget(Elsewhere::note(own.path(), &address).unwrap());
        }
        drop(Elsewhere::note(own.path(), &Address::new(at("others.ipc")).unwrap()).unwrap());
        let OwnFolder { folder, _lock } = own;
        let path = folder.keep();
        drop(_lock);
        let give_up = Instant::now() + Duration::from_secs(20);
        while path.exists() && Instant::now() < give_up {
            sweep_in(parent.path());
        }
        assert!(!path.exists());
        let left = ["live.ipc", "dead.ipc", "file.ipc", "others.ipc"].map(|name| at(name).exists());
        assert_eq!(left, [true, false, true, true]);
        drop(live);
    }
}
