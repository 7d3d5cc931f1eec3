//! A lock on a folder's socket files, which only their owner can hold.
//!
//! `flock` needs no more than a file that can be opened: whoever may read a
//! folder could hold a lock on the folder itself, for ever, and every user may
//! read `/tmp`. So that lock is on
//!
//! - the folder, where nobody but its owner can open it;
//! - elsewhere, files in the folder that only their owner can open.
//!
//! Others could make a file first that everybody agreed on, so no name is
//! agreed on: a lock file has a random name behind a known beginning, and is
//! one only if it belongs to the owner and is private. Whoever wants the lock
//! makes such a file where there is none, locks *all* that there are, looks
//! again, and has the lock if they are still the same. Of two who would have it
//! at once, the later one has looked when the files of the earlier one were
//! there, and would have locked them. Whoever has the lock removes the files
//! when leaving, so nothing stays behind.
//!
//! The lock of a user's sockets is that user's, also for root: who can take
//! root's turn away could as well have kept the socket.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid, fchown, flock, fstat, open, openat, unlinkat,
};
use rustix::io::Errno;

/// How long another process may hold the lock. It is held for a few system
/// calls only.
const TIMEOUT: Duration = Duration::from_secs(2);

/// For how long a folder's own lock is waited for where others can hold it too.
/// Our version 0.1 holds that one, for a few system calls.
const COURTESY: Duration = Duration::from_millis(10);

/// From one attempt to the next.
const PAUSE: Duration = Duration::from_millis(1);

/// What the name of a lock file begins with.
const PREFIX: &str = ".ekuiper-lock-";

/// The right to look at, remove and make the socket files of one owner in one
/// folder. Dropped, it is given back.
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
    /// Waits for the right, for the sockets of `owner` in `folder`.
    ///
    /// # Errors
    /// The folder cannot be opened or written, or another process of this user
    /// keeps the lock for longer than [`TIMEOUT`].
    pub(crate) fn take(folder: &Path, owner: Uid) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut lock = Self { folder: open(folder, flags, Mode::empty())?, is_folder_locked: false, files: Vec::new() };
        let give_up = Instant::now() + TIMEOUT;
        if fstat(&lock.folder)?.st_mode & 0o077 == 0 {
            lock.is_folder_locked = lock_by(&lock.folder, give_up)?;
            return match lock.is_folder_locked {
                true => Ok(lock),
                false => Err(too_long(folder.display().to_string())),
            };
        }
        lock.is_folder_locked = lock_by(&lock.folder, Instant::now() + COURTESY)?;
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
            // Somebody has left, or come. What is locked here is let go.
            if Instant::now() > give_up {
                return Err(too_long(folder.display().to_string()));
            }
        }
    }

    /// The owner's lock files, each once, in an order that all have.
    fn list(&self, owner: Uid) -> io::Result<Vec<LockFile>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_bytes().starts_with(PREFIX.as_bytes()) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            // Another's, or gone meanwhile.
            let Ok(file) = openat(&self.folder, entry.file_name(), flags, Mode::empty()) else { continue };
            let found = fstat(&file)?;
            if is_lock_file(&found, owner) {
                #[allow(clippy::unnecessary_cast)] // on some machines they are shorter
                let identity = (found.st_dev as u64, found.st_ino as u64);
                files.push(LockFile { name: entry.file_name().to_owned(), file, identity });
            }
        }
        files.sort_by_key(|file| file.identity);
        // Another name of one, which others can make where links are not
        // protected, could not be locked twice.
        files.dedup_by_key(|file| file.identity);
        Ok(files)
    }

    fn make(&self, owner: Uid) -> io::Result<()> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        if owner != rustix::process::geteuid() {
            // Only root comes to this.
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
            // Not only by closing: a process that is just being forked has it
            // open too.
            let _ = flock(&self.folder, FlockOperation::Unlock);
        }
    }
}

impl Drop for LockFile {
    /// As above, where it was not the lock that was had.
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

/// Whether it is locked by then.
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

    /// A folder as `/tmp`, in which everybody may write, or of one's own.
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
                            // A busy machine may make one wait for too long.
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
        // What everybody can open is no lock file, nor is what has content.
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
        // Another name of the lock file does not make it two.
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

    /// Root's turn at a user's socket is the user's own.
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
