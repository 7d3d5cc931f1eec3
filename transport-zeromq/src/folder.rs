//! The folders in which this transport may be used.
//!
//! Any process that can connect to a socket of the `zeromq` crate can end its
//! process (see the crate's documentation), and a listener can do the same to
//! its diallers. So a folder must be private to its user.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ekuiper_core::address::Address;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::process::geteuid;

/// Opens the folder of an address, which no other user can enter.
///
/// # Errors
/// The folder does not exist, belongs to another user, or can be entered by
/// others; the latter two have the kind `PermissionDenied`.
pub(crate) fn private(address: &Address) -> io::Result<OwnedFd> {
    let path = of(address);
    let folder = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&folder)?;
    let why_not = if found.st_uid != geteuid().as_raw() {
        "belongs to another user"
    } else if found.st_mode & 0o077 != 0 {
        "can be entered by other users"
    } else {
        return Ok(folder);
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, OpenFolder { path: path.to_owned(), why_not }))
}

/// The path of an address's folder.
fn of(address: &Address) -> &Path {
    address.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The error for a folder that is not private.
#[derive(Debug)]
struct OpenFolder {
    path: PathBuf,
    why_not: &'static str,
}

impl std::fmt::Display for OpenFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the folder {} {}, but the zeromq transport requires mode 0700: choose such a folder, or another transport",
            self.path.display(),
            self.why_not
        )
    }
}

impl std::error::Error for OpenFolder {}
