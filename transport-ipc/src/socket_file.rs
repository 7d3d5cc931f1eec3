//! Which socket file may be taken over, and which may be removed.
//!
//! A file is taken over only when it is a socket that nobody listens on, and
//! removed only when it is still the one that was made here. Looking, removing
//! and binding happen under a lock of the folder, so that of two processes
//! that find one stale file only one can win; the lock is on the folder itself
//! and leaves nothing behind.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Result, TransportError};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, StatxFlags, flock, open, statx};

use crate::wait::{io_error, wait_for};

/// How long another process may hold the folder's lock. It is held for a few
/// system calls only.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// Makes a socket file by `bind`, which is to fail when the path exists.
    ///
    /// # Errors
    /// [`TransportError::AddressInUse`] when somebody listens there,
    /// [`TransportError::NotASocket`] when it is another kind of file,
    /// [`TransportError::Io`] when the folder cannot be locked or `bind`
    /// fails.
    pub fn claim<T>(address: &Address, bind: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let lock = lock_folder(address)?;
        if let Some(probe) = clear(address)? {
            drop(lock);
            // A libnng before 1.6 never accepts again when a connection is
            // gone before it has said its first word (nanomsg/nng#1518).
            let _ = wait_for(&mut [PollFd::new(&probe, PollFlags::IN)], Some(Instant::now() + GREETING));
            return Err(TransportError::AddressInUse(address.clone()));
        }
        let bound = bind()?;
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
        let _lock = lock_folder(&self.address)?;
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
        let _lock = lock_folder(&self.address);
        if self.is_in_place() {
            let _ = std::fs::remove_file(self.address.path());
        }
    }
}

/// Removes a stale socket; refuses everything else that is there. Returns the
/// connection to somebody who is live.
fn clear(address: &Address) -> Result<Option<OwnedFd>> {
    let path = address.path();
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("listen on", address, error)),
    };
    if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
        return Err(TransportError::NotASocket(address.clone()));
    }
    match crate::connect::connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| io_error("remove the stale socket", address, source))?;
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(io_error("listen on", address, error)),
        Ok(probe) => Ok(Some(probe)),
        // Too busy to answer: somebody is there.
        Err(_) => Err(TransportError::AddressInUse(address.clone())),
    }
}

fn lock_folder(address: &Address) -> Result<OwnedFd> {
    let fail = |source| io_error("listen on", address, source);
    let folder = address.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| fail(errno.into()))?;
    let give_up = Instant::now() + LOCK_TIMEOUT;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(fail(io::Error::new(io::ErrorKind::TimedOut, "another process has locked the folder")));
            }
            Err(errno) => return Err(fail(errno.into())),
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, flags, StatxFlags::INO)?;
    Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}
