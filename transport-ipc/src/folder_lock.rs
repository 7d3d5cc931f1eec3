//! A lock on the socket files of a folder, which only their owner can hold.
//!
//! `flock` needs only a file that can be opened: any user that can read a
//! folder could hold a lock on the folder itself for ever, and every user can
//! read `/tmp`. So the lock is on
//!
//! - the folder, if only its owner can open it;
//! - otherwise, files in the folder that only their owner can open.
//!
//! Other users could create a file with an agreed name first, so there is no
//! agreed name: a lock file has a random name with a fixed prefix, and counts
//! only if it belongs to the owner and is private. A process that wants the
//! lock creates such a file if there is none, locks *all* that exist, lists
//! them again, and holds the lock if the list is unchanged. If two processes
//! try at the same time, the later one lists the files when those of the
//! earlier one exist, and must lock them. The holder removes the files on
//! release, so nothing stays behind.
//!
//! The lock of a user's sockets is that user's, also for root: a user who can
//! block root here could as well have kept the socket.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::platform;
use crate::wait::deadline_after;

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid, fchown, flock, fstat, open, openat, unlinkat,
};
use rustix::io::Errno;

/// Maximum wait for another holder. The lock is held for a few system calls
/// only.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum wait for the folder's own lock if other users can hold it too. Our
/// version 0.1 holds that one, for a few system calls.
const COURTESY: Duration = Duration::from_millis(10);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// Prefix of a lock file's name.
const PREFIX: &str = ".ekuiper-lock-";

/// The right to inspect, remove and create the socket files of one owner in one
/// folder. Released on drop.
#[derive(Debug)]
pub(crate) struct FolderLock {
    folder: OwnedFd,
    /// Whether the folder itself is locked.
    is_folder_locked: bool,
    files: Vec<LockFile>,
}

#[derive(Debug)]
struct LockFile {
    name: CString,
    file: OwnedFd,
    identity: (u64, u64),
}

impl FolderLock {
    /// Waits for the lock on the sockets of `owner` in `folder`.
    ///
    /// # Errors
    /// The folder cannot be opened or written, or another process of this user
    /// holds the lock for longer than [`TIMEOUT`].
    pub(crate) fn take(folder: &Path, owner: Uid) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut lock = Self { folder: open(folder, flags, Mode::empty())?, is_folder_locked: false, files: Vec::new() };
        let give_up = deadline_after(TIMEOUT);
        if fstat(&lock.folder)?.st_mode & 0o077 == 0 {
            lock.is_folder_locked = lock_by(&lock.folder, give_up)?;
            return match lock.is_folder_locked {
                true => Ok(lock),
                false => Err(too_long(folder.display().to_string())),
            };
        }
        lock.is_folder_locked = lock_by(&lock.folder, deadline_after(COURTESY))?;
        loop {
            let mut files = lock.list(owner)?;
            if files.is_empty() {
                lock.make(owner)?;
                continue;
            }
            for file in &mut files {
                if !lock_by(&file.file, give_up)? {
                    return Err(too_long(folder.join(&*file.name.to_string_lossy()).display().to_string()));
                }
            }
            let identities = |files: &[LockFile]| files.iter().map(|file| file.identity).collect::<Vec<_>>();
            if identities(&lock.list(owner)?) == identities(&files) {
                lock.files = files;
                return Ok(lock);
            }
            // Lock files were added or removed: release them and start again.
            if Instant::now() > give_up {
                return Err(too_long(folder.display().to_string()));
            }
        }
    }

    /// Lists the owner's lock files, each once, in an order that is the same
    /// for all processes.
    fn list(&self, owner: Uid) -> io::Result<Vec<LockFile>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_bytes().starts_with(PREFIX.as_bytes()) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            // The file is another user's, or was removed meanwhile.
            let Ok(file) = openat(&self.folder, entry.file_name(), flags, Mode::empty()) else { continue };
            let found = fstat(&file)?;
            if is_lock_file(&found, owner) {
                #[allow(clippy::unnecessary_cast)] // on some machines they are shorter
                let identity = (found.st_dev as u64, found.st_ino as u64);
                files.push(LockFile { name: entry.file_name().to_owned(), file, identity });
            }
        }
        files.sort_by_key(|file| file.identity);
        // A hard link to a lock file, which other users can create where links
        // are not protected, cannot be locked a second time.
        files.dedup_by_key(|file| file.identity);
        Ok(files)
    }

    fn make(&self, owner: Uid) -> io::Result<()> {
        let mut random = [0; 8];
        platform::random(&mut random)?;
        let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        if owner != rustix::process::geteuid() {
            // Only root gets here.
            let group: Option<Gid> = None;
            fchown(&file, Some(owner), group).inspect_err(|_| {
                let _ = unlinkat(&self.folder, &name, AtFlags::empty());
            })?;
        }
        Ok(())
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = unlinkat(&self.folder, &*file.name, AtFlags::empty());
            let _ = flock(&file.file, FlockOperation::Unlock);
        }
        if self.is_folder_locked {
            // Unlock explicitly: a process that is just being forked has the
            // file open too.
            let _ = flock(&self.folder, FlockOperation::Unlock);
        }
    }
}

impl Drop for LockFile {
    /// Releases the lock files, also when they turned out not to be the lock.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn is_lock_file(found: &Stat, owner: Uid) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
        && found.st_mode & 0o777 == 0o600
        && found.st_uid == owner.as_raw()
        && found.st_size == 0
}

/// Locks a file; false if it is still locked by another process at `give_up`.
fn lock_by(file: &OwnedFd, give_up: Instant) -> io::Result<bool> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < give_up => std::thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn too_long(what: String) -> io::Error {
    let text = format!("another process of this user has held the lock on {what} for {TIMEOUT:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A folder like `/tmp`, which every user can write, or one's own.
    fn folder(mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        folder
    }

    fn take(folder: &Path) -> io::Result<FolderLock> {
        FolderLock::take(folder, rustix::process::geteuid())
    }

    #[test]
    fn one_at_a_time_has_it_and_nothing_stays_behind() {
        for mode in [0o1777, 0o700] {
            let folder = folder(mode);
            let inside = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            // On a busy machine one thread may time out.
                            let Ok(_lock) = take(folder.path()) else { continue };
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "{mode:o}");
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    });
                }
            });
            drop(take(folder.path()).unwrap());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{mode:o}");
        }
    }

    #[test]
    fn what_others_can_hold_or_make_is_in_nobodys_way() {
        let folder = folder(0o1777);
        let held = File::open(folder.path()).unwrap();
        held.lock().unwrap();
        let path = |name: &str| folder.path().join(format!("{PREFIX}{name}"));
        // A file that every user can open is not a lock file, nor is one with
        // content.
        File::create(path("open")).unwrap();
        fs::set_permissions(path("open"), Permissions::from_mode(0o644)).unwrap();
        let open = File::open(path("open")).unwrap();
        open.lock().unwrap();
        fs::write(path("full"), "precious").unwrap();
        fs::set_permissions(path("full"), Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let before = fs::read_dir(folder.path()).unwrap().count();
        let lock = take(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before + 1);
        // A hard link to the lock file does not count as a second one.
        fs::hard_link(folder.path().join(lock.files[0].name.to_str().unwrap()), path("twin")).unwrap();
        drop(lock);
        drop(take(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "its own, and nothing else, is gone");
        assert_eq!(fs::read(path("full")).unwrap(), b"precious");
    }

    #[test]
    fn what_a_killed_process_has_left_is_used_and_removed() {
        let folder = folder(0o1777);
        let lock = take(folder.path()).unwrap();
        lock.make(rustix::process::geteuid()).unwrap();
        drop(lock);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(take(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_that_is_never_given_back_is_an_error_that_names_it() {
        for mode in [0o1777, 0o700] {
            let folder = folder(mode);
            let held = take(folder.path()).unwrap();
            let error = take(folder.path()).unwrap_err().to_string();
            assert!(error.contains("another process of this user") && error.contains("/tmp"), "{error}");
            drop(held);
        }
    }

    /// When root locks a user's sockets, it takes the user's lock.
    #[test]
    fn the_lock_of_a_users_sockets_is_the_users() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = folder(0o1777);
        let owner = Uid::from_raw(65534);
        let _own = take(folder.path()).unwrap();
        let theirs = FolderLock::take(folder.path(), owner).unwrap();
        let file = fs::metadata(folder.path().join(theirs.files[0].name.to_str().unwrap())).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&file), 65534);
    }
}
