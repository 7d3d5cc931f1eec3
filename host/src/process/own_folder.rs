//! A host's private folder, which only its user can enter, and its removal by
//! the next host of the same user if the host is killed.
//!
//! A host holds a lock on a file in its folder as long as it lives, however it
//! ends. Thus a folder whose lock is free is abandoned. It is removed only if
//! everything in it could have been made by a host, and no process listens on
//! its sockets.
//!
//! The folder has its name while it has the lock. Before that, and while it is
//! removed, it has a name that only hosts use, and any host may remove it: its
//! creator, unless that was killed, makes another one. So a host that is killed
//! at any instant leaves nothing that stays.
//!
//! The folder may contain:
//!
//! - the lock file;
//! - sockets;
//! - for each socket elsewhere, a symbolic link to its path, so that the
//!   sockets of a killed host in `/tmp` are removed too;
//! - one folder for the temporary files of an installer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ekuiper_core::address::Address;
use ekuiper_transport_ipc::socket_file;
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::sync;

/// Prefix of the folder's name.
const PREFIX: &str = "ekuiper-";

/// Prefix of the folder's name before it is locked and while it is removed.
/// What follows is the same.
const UNLOCKED: &str = ".ekuiper-unlocked-";

/// Name of the lock file.
const LOCK: &str = "lock";

/// Number of folders that are created while other hosts remove them.
const ATTEMPTS: usize = 100;

/// Prefix of a link to a socket elsewhere; the socket's name follows.
const ELSEWHERE: &str = ".at-";

/// Prefix of the folder for temporary files; the inode of the lock file
/// follows, so that a copy of the folder is not recognized.
const SCRATCH: &str = "scratch-";

/// The folders of this process's hosts.
static OWN: Folders = Folders(Mutex::new(BTreeSet::new()));

/// Folders that are removed together. Locked while one of them is made or
/// removed, so that there is none that is half there.
#[derive(Debug)]
struct Folders(Mutex<BTreeSet<PathBuf>>);

/// Removes the socket folders of all hosts of this process, and their sockets
/// elsewhere: for a program that is about to exit without dropping its hosts,
/// whose folders stay otherwise until the next host of the same user starts.
/// Nothing can connect to these hosts afterwards.
pub fn remove_socket_folders() {
    OWN.remove_all();
}

impl Folders {
    fn remove_all(&self) {
        let mut all = sync::lock(&self.0);
        // First, since one folder may be in another.
        all.iter().for_each(|folder| remove_elsewhere(folder));
        for folder in std::mem::take(&mut *all) {
            let _ = remove(&folder);
        }
    }

    /// Creates a folder in another folder.
    fn make_in(&'static self, parent: &Path) -> io::Result<OwnFolder> {
        for _ in 1..ATTEMPTS {
            if let Some(own) = self.try_make_in(parent)? {
                return Ok(own);
            }
        }
        Err(io::Error::other("other hosts remove it again and again"))
    }

    /// Creates a folder; `None` if another host has removed it.
    fn try_make_in(&'static self, parent: &Path) -> io::Result<Option<OwnFolder>> {
        let mut all = sync::lock(&self.0);
        // As `mkdtemp` does; tempfile's default admits other users.
        let private = Permissions::from_mode(0o700);
        // Removed when it is dropped, if it still has this name.
        let new = tempfile::Builder::new().prefix(UNLOCKED).permissions(private).tempdir_in(parent)?;
        let settled = settle(new.path())?;
        Ok(settled.map(|(path, lock)| {
            all.insert(path.clone());
            OwnFolder { path, folders: self, _lock: lock }
        }))
    }
}

/// Locks a new folder, and gives it its name; `None` if another host has removed
/// it.
fn settle(new: &Path) -> io::Result<Option<(PathBuf, Option<OwnedFd>)>> {
    let lock = match lock_in(new) {
        Err(Errno::NOENT | Errno::WOULDBLOCK) => return Ok(None),
        lock => lock?,
    };
    let path = renamed(new, UNLOCKED, PREFIX);
    match std::fs::rename(new, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some((path, lock))),
    }
}

/// Removes the sockets elsewhere that a folder of this process notes.
fn remove_elsewhere(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(target) = std::fs::read_link(entry.path())
            && let Some(socket) = recorded(entry.file_name().as_bytes(), &target)
        {
            let _ = std::fs::remove_file(socket.path());
        }
    }
}

/// A host's private folder. Dropping it removes it with its contents.
#[derive(Debug)]
pub(crate) struct OwnFolder {
    path: PathBuf,
    folders: &'static Folders,
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
        OWN.make_in(parent)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a subfolder for temporary files.
    pub(crate) fn scratch(&self) -> io::Result<PathBuf> {
        let lock = statat(rustix::fs::CWD, self.path().join(LOCK), AtFlags::SYMLINK_NOFOLLOW)?;
        let path = self.path().join(scratch_name(&lock));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path)?;
        Ok(path)
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        let mut all = sync::lock(&self.folders.0);
        let removed = if all.remove(&self.path) { remove(&self.path) } else { Ok(()) };
        drop(all);
        if let Err(error) = removed {
            tracing::warn!(folder = %self.path.display(), %error, "the socket folder is left behind");
        }
    }
}

/// Removes a folder, whose lock is held, with its contents.
fn remove(folder: &Path) -> io::Result<()> {
    let folder = unlocked(folder)?;
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?;
        let removed = match entry.file_type()? {
            // The last one: without it the rest would stay.
            _ if entry.file_name() == LOCK => Ok(()),
            kind if kind.is_dir() => std::fs::remove_dir_all(entry.path()),
            _ => std::fs::remove_file(entry.path()),
        };
        gone(removed)?;
    }
    remove_emptied(&folder)
}

/// Renames a folder that is going to be removed.
fn unlocked(folder: &Path) -> io::Result<PathBuf> {
    let unlocked = renamed(folder, PREFIX, UNLOCKED);
    std::fs::rename(folder, &unlocked)?;
    Ok(unlocked)
}

/// Removes a folder that contains its lock file only.
fn remove_emptied(folder: &Path) -> io::Result<()> {
    std::fs::remove_file(folder.join(LOCK))?;
    // Another host may do so, since it is empty.
    gone(std::fs::remove_dir(folder))
}

/// Turns the error that there was nothing to remove into success.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Returns a folder's path with another prefix of its name, if it has the first
/// one.
fn renamed(folder: &Path, from: &str, to: &str) -> PathBuf {
    let name = folder.file_name().map(OsStr::as_bytes).unwrap_or_default();
    match name.strip_prefix(from.as_bytes()) {
        Some(random) => folder.with_file_name(OsStr::from_bytes(&[to.as_bytes(), random].concat())),
        None => folder.to_owned(),
    }
}

/// Creates a folder's lock file, and locks it; `None` where the file system has
/// no locks.
fn lock_in(folder: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let at = open_folder(rustix::fs::CWD, folder)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let lock = openat(&at, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Err(Errno::WOULDBLOCK),
        Err(error) => {
            tracing::debug!(folder = %folder.display(), %error, "the socket folder cannot be locked");
            Ok(None)
        }
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
        let is_unlocked = name.to_bytes().starts_with(UNLOCKED.as_bytes());
        if is_unlocked && unlinkat(&at, name, AtFlags::REMOVEDIR).is_ok() {
            tracing::debug!(folder = %name.to_string_lossy(), "removed a socket folder that was empty");
        } else if (is_unlocked || name.to_bytes().starts_with(PREFIX.as_bytes()))
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
    let path = parent_path.join(OsStr::from_bytes(name.to_bytes()));
    let Some(left) = Left::list(&folder, &path, &found)? else { return Ok(false) };
    if !left.remove() {
        return Ok(false);
    }
    remove_emptied(&unlocked(&path)?)?;
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
            let at = path.join(OsStr::from_bytes(name.to_bytes()));
            match FileType::from_raw_mode(found.st_mode) {
                _ if !is_own(&found) => return Ok(None),
                FileType::Socket => {
                    let Ok(address) = Address::new(at) else { return Ok(None) };
                    left.sockets.push(address);
                }
                FileType::Symlink => {
                    let target = readlinkat(folder, name, Vec::new())?;
                    let target = Path::new(OsStr::from_bytes(target.to_bytes()));
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    /// Leaves a folder as a killed host does.
    fn abandon(own: OwnFolder) -> PathBuf {
        let mut own = std::mem::ManuallyDrop::new(own);
        own._lock.take();
        std::mem::take(&mut own.path)
    }

    /// Creates a folder as a killed host leaves it.
    fn abandoned(parent: &Path) -> std::path::PathBuf {
        let path = abandon(OwnFolder::make_in(parent).unwrap());
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

    /// A host that is killed while it creates or removes its folder leaves one
    /// of these.
    #[test]
    fn a_folder_without_its_name_goes_and_its_creator_makes_another() {
        type Step = fn(&Path);
        let steps: [Step; 3] = [
            |_| {},
            |new| write(&new.join(LOCK), ""),
            |new| {
                write(&new.join(LOCK), "");
                drop(UnixListener::bind(new.join("plugin_p.ipc")).unwrap());
            },
        ];
        for step in steps {
            let parent = tempfile::tempdir().unwrap();
            let new = parent.path().join(format!("{UNLOCKED}1a2b3c"));
            std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&new).unwrap();
            step(&new);
            sweep_in(parent.path());
            assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
            assert!(settle(&new).unwrap().is_none());
        }
    }

    /// As when a program ends at once while it drops its host.
    #[test]
    fn none_is_left_when_all_are_removed_while_one_is_dropped() {
        static FOLDERS: Folders = Folders(Mutex::new(BTreeSet::new()));
        let parent = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let made = FOLDERS.make_in(parent.path()).unwrap();
            let path = made.path().to_owned();
            (0..100).for_each(|number| write(&path.join(format!("{number}.ipc")), ""));
            std::thread::scope(|scope| {
                let dropped = scope.spawn(|| drop(made));
                while path.exists() {
                    std::thread::yield_now();
                }
                FOLDERS.remove_all();
                let left: Vec<_> = std::fs::read_dir(parent.path()).unwrap().collect();
                assert!(left.is_empty(), "{left:?}");
                dropped.join().unwrap();
            });
        }
    }

    #[test]
    fn folders_are_made_while_others_sweep() {
        let parent = tempfile::tempdir().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::SeqCst) {
                        sweep_in(parent.path());
                    }
                });
            }
            let made = (0..500).map(|_| OwnFolder::make_in(parent.path())).collect::<io::Result<Vec<_>>>();
            is_over.store(true, Ordering::SeqCst);
            assert!(made.unwrap().iter().all(|own| own.path().join(LOCK).exists()));
        });
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_surely_a_hosts_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        // Perhaps not a host's.
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
        let path = abandon(own);
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
