//! Which socket file may be taken over, and which may be removed.
//!
//! A file is taken over only when it is a socket that nobody listens on, and
//! removed only when it is still the one that was made here. Where there is no
//! file, no lock is needed: it is made in one step, or not at all. Removing one
//! happens under a lock (`folder_lock`) that nobody but the socket's
//! owner can hold, so that of two processes that find one stale file only one
//! can win.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Result, TransportError};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, StatxFlags, Uid, statx};

use crate::folder_lock::FolderLock;
use crate::wait::{io_error, wait_for};

/// How long a live listener that is probed may take to say its first word. One
/// that takes longer is as live.
const GREETING: Duration = Duration::from_secs(1);

/// A socket file that was made here.
#[derive(Debug)]
pub struct SocketFile {
    address: Address,
    identity: Identity,
}

/// What tells one file from another that took its path.
type Identity = (u32, u32, u64);

impl SocketFile {
    /// Makes a socket file by `bind`, which is to make one that is listened on
    /// already, and to fail with `AlreadyExists` when the path exists.
    ///
    /// # Errors
    /// [`TransportError::AddressInUse`] when somebody listens there,
    /// [`TransportError::NotASocket`] when it is another kind of file,
    /// [`TransportError::Io`] when a stale file is another user's, when the
    /// folder cannot be locked, or `bind` fails.
    pub fn claim<T>(address: &Address, bind: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        // Until `bind` has made it.
        let _lock = match clear(address)? {
            Cleared::Free(lock) => lock,
            Cleared::Live(probe) => {
                await_greeting(&probe);
                return Err(TransportError::AddressInUse(address.clone()));
            }
        };
        let bound = bind().map_err(|error| match error {
            // It has come since it was looked for.
            TransportError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                TransportError::AddressInUse(address.clone())
            }
            error => error,
        })?;
        let identity = identity(address.path()).map_err(|source| io_error("listen on", address, source))?;
        Ok((Self { address: address.clone(), identity }, bound))
    }

    /// Whether the file is still this one.
    pub fn is_in_place(&self) -> bool {
        identity(self.address.path()).is_ok_and(|found| found == self.identity)
    }

    /// Puts another socket in this one's place by `replace`, which is not
    /// called when the file is not this one any more. Returns whether it was.
    ///
    /// # Errors
    /// [`TransportError::Io`] when the folder cannot be locked or `replace`
    /// fails.
    pub fn renew(&mut self, replace: impl FnOnce() -> io::Result<()>) -> Result<bool> {
        let fail = |source| io_error("listen on", &self.address, source);
        let _lock = lock(&self.address, rustix::process::geteuid())?;
        if !self.is_in_place() {
            return Ok(false);
        }
        replace().map_err(fail)?;
        self.identity = identity(self.address.path()).map_err(fail)?;
        Ok(true)
    }
}

impl Drop for SocketFile {
    /// Removes the file, if it is still this one.
    fn drop(&mut self) {
        let _lock = lock(&self.address, rustix::process::geteuid());
        if self.is_in_place() {
            let _ = std::fs::remove_file(self.address.path());
        }
    }
}

/// Whether nobody listens on the socket at `address`.
pub fn is_stale(address: &Address) -> bool {
    match crate::connect::connect(address) {
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        Ok(probe) => {
            await_greeting(&probe);
            false
        }
    }
}

/// Removes the socket at `address`, if it is this user's and nobody listens on
/// it. Returns whether one was removed.
///
/// # Errors
/// As [`SocketFile::claim`].
pub fn remove_stale(address: &Address) -> Result<bool> {
    let is_own = |found: std::fs::Metadata| found.uid() == rustix::process::geteuid().as_raw();
    if !std::fs::symlink_metadata(address.path()).is_ok_and(is_own) {
        return Ok(false);
    }
    match clear(address)? {
        Cleared::Free(_) => Ok(true),
        Cleared::Live(probe) => {
            await_greeting(&probe);
            Ok(false)
        }
    }
}

/// A libnng before 1.6 never accepts again when a connection is gone before it
/// has said its first word (nanomsg/nng#1518).
fn await_greeting(probe: &OwnedFd) {
    let _ = wait_for(&mut [PollFd::new(probe, PollFlags::IN)], Some(Instant::now() + GREETING));
}

/// What has become of an address that is to be listened on.
enum Cleared {
    /// Nothing is there; where something stale was, the lock under which it was
    /// removed.
    Free(Option<FolderLock>),
    /// The connection to somebody who is live.
    Live(OwnedFd),
}

/// Removes a stale socket; refuses everything else that is there.
fn clear(address: &Address) -> Result<Cleared> {
    let fail = |source| io_error("listen on", address, source);
    let own = rustix::process::geteuid();
    let mut held: Option<(FolderLock, Uid)> = None;
    loop {
        let found = match std::fs::symlink_metadata(address.path()) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Cleared::Free(held.map(|(lock, _)| lock)));
            }
            Err(error) => return Err(fail(error)),
        };
        if !found.file_type().is_socket() {
            return Err(TransportError::NotASocket(address.clone()));
        }
        let owner = Uid::from_raw(found.uid());
        let foreign = |action, error: io::Error| {
            let (path, owner) = (address.path().display(), owner.as_raw());
            let text = format!(
                "{error}: the socket belongs to user {owner}, and this process's user is {}; who may is to remove \
                 {path}, or the socket folder is to be another",
                own.as_raw()
            );
            io_error(action, address, io::Error::new(error.kind(), text))
        };
        match crate::connect::connect(address) {
            // Whether that is still so is only known under the owner's lock.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => match &held {
                Some((_, whose)) if *whose == owner => std::fs::remove_file(address.path())
                    .map_err(|error| foreign("remove the stale socket at", error))?,
                _ if owner != own && !own.is_root() => {
                    return Err(foreign("take over", io::ErrorKind::PermissionDenied.into()));
                }
                _ => {
                    drop(held.take());
                    held = Some((lock(address, owner)?, owner));
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(foreign("listen on", error)),
            Ok(probe) => return Ok(Cleared::Live(probe)),
            // Too busy to answer: somebody is there.
            Err(_) => return Err(TransportError::AddressInUse(address.clone())),
        }
    }
}

/// The lock of the address's folder, for the sockets of `owner`.
fn lock(address: &Address, owner: Uid) -> Result<FolderLock> {
    let folder = address.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    FolderLock::take(folder, owner).map_err(|source| io_error("listen on", address, source))
}

fn identity(path: &Path) -> io::Result<Identity> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, flags, StatxFlags::INO)?;
    Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}
