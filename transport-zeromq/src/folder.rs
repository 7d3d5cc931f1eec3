//! In which folders this transport may be used.
//!
//! Whoever can connect to a socket of the `zeromq` crate can end its process
//! (see the crate's documentation), and a listener can do the same to who
//! dials it. So a folder must be its user's alone.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ekuiper_core::address::Address;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::process::geteuid;

/// The folder of an address, which nobody else can enter.
///
/// # Errors
/// It is not there, or it is another user's, or others can enter it; the
/// latter two are of the kind `PermissionDenied`.
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

/// The folder that an address is in.
fn of(address: &Address) -> &Path {
    address.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Why a folder is refused.
#[derive(Debug)]
struct OpenFolder {
    path: PathBuf,
    why_not: &'static str,
}

impl std::fmt::Display for OpenFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the folder {} {}, and the transport zeromq works only in one with mode 0700: choose such a folder, or \
             another transport",
            self.path.display(),
            self.why_not
        )
    }
}

impl std::error::Error for OpenFolder {}
