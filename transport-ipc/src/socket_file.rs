//! The rules for taking over and removing socket files.
//!
//! A file is taken over only when it is a socket without a listener, and
//! removed only when it is still the one that was created here. Where there is
//! no file, no lock is needed: it is created in one step, or not at all. A file
//! is removed under a lock (`folder_lock`) that only the socket's owner can
//! hold, so that only one of two processes that find the same stale file can
//! win.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Result, TransportError};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Uid;

use crate::folder_lock::FolderLock;
use crate::wait::{deadline_after, io_error, wait_for};

/// Maximum time that a probed live listener may take to send its first bytes. A
/// slower one counts as live too.
const GREETING: Duration = Duration::from_secs(1);

/// A socket file that was created here, removed on drop.
#[derive(Debug)]
pub struct SocketFile {
    address: Address,
    identity: Identity,
}

/// The identity of a file, which differs for another file at the same path.
type Identity = (u64, u64);

impl SocketFile {
    /// Creates a socket file with `bind`, which must create one that already
    /// has a listener, and must fail with `AlreadyExists` when the path exists.
    ///
    /// # Errors
    /// [`TransportError::AddressInUse`] when a process listens there,
    /// [`TransportError::NotASocket`] when the path is another kind of file,
    /// [`TransportError::Io`] when a stale file is another user's, when the
    /// folder cannot be locked, or when `bind` fails.
    pub fn claim<T>(address: &Address, bind: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        // Held until `bind` has created the file.
        let _lock = match clear(address)? {
            Cleared::Free(lock) => lock,
            Cleared::Live(probe) => {
                await_greeting(&probe);
                return Err(TransportError::AddressInUse(address.clone()));
            }
        };
        let bound = bind().map_err(|error| match error {
            // The file was created after it was looked for.
            TransportError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                TransportError::AddressInUse(address.clone())
            }
            error => error,
        })?;
        let identity = identity(address.path()).map_err(|source| io_error("listen on", address, source))?;
        Ok((Self { address: address.clone(), identity }, bound))
    }

    /// Whether the file at the path is still this one.
    pub fn is_in_place(&self) -> bool {
        identity(self.address.path()).is_ok_and(|found| found == self.identity)
    }

    /// Replaces the socket by calling `replace`, unless the file is no longer
    /// this one. Returns whether it was replaced.
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
    /// Removes the file if it is still this one.
    fn drop(&mut self) {
        let _lock = lock(&self.address, rustix::process::geteuid());
        if self.is_in_place() {
            let _ = std::fs::remove_file(self.address.path());
        }
    }
}

/// Whether the socket at `address` has no listener.
pub fn is_stale(address: &Address) -> bool {
    match crate::connect::connect(address) {
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        Ok(probe) => {
            await_greeting(&probe);
            false
        }
    }
}

/// Removes the socket at `address` if it is this user's and has no listener.
/// Returns whether a file was removed.
///
/// # Errors
/// As [`SocketFile::claim`].
pub fn remove_own_stale(address: &Address) -> Result<bool> {
    let is_own = |found: std::fs::Metadata| found.uid() == rustix::process::geteuid().as_raw();
    if !std::fs::symlink_metadata(address.path()).is_ok_and(is_own) {
        return Ok(false);
    }
    remove_stale(address)
}

/// Removes the socket at `address` if it has no listener and
/// [`SocketFile::claim`] would take it over: for root, any user's. Returns
/// whether the path is free.
///
/// # Errors
/// As [`SocketFile::claim`].
pub fn remove_stale(address: &Address) -> Result<bool> {
    match clear(address)? {
        Cleared::Free(_) => Ok(true),
        Cleared::Live(probe) => {
            await_greeting(&probe);
            Ok(false)
        }
    }
}

/// Waits for the listener's first bytes: a libnng before 1.6 never accepts
/// again when a connection ends before libnng has sent them (nanomsg/nng#1518).
fn await_greeting(probe: &OwnedFd) {
    let _ = wait_for(&mut [PollFd::new(probe, PollFlags::IN)], Some(deadline_after(GREETING)));
}

/// The state of an address that should be listened on.
enum Cleared {
    /// The path is free; with the lock under which a stale socket was removed,
    /// if there was one.
    Free(Option<FolderLock>),
    /// A live listener, with the connection to it.
    Live(OwnedFd),
}

/// Removes a stale socket; refuses any other file.
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
            // Whether the socket is still stale is only certain under the
            // owner's lock.
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
            // Too busy to accept: there is a listener.
            Err(_) => return Err(TransportError::AddressInUse(address.clone())),
        }
    }
}

/// Acquires the lock of the address's folder, for the sockets of `owner`.
fn lock(address: &Address, owner: Uid) -> Result<FolderLock> {
    let folder = address.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    FolderLock::take(folder, owner).map_err(|source| io_error("listen on", address, source))
}

fn identity(path: &Path) -> io::Result<Identity> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
