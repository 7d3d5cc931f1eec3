//! Listening at an address.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;

use ekuiper_core::address::{Address, MAX_PATH};
use ekuiper_core::sp::{Limits, Protocol};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Options, Result};
use interprocess::local_socket::traits::Listener as _;
use interprocess::local_socket::{GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use interprocess::os::unix::uds_local_socket::Listener as UnixListener;
use rustix::fs::{AtFlags, Mode, OFlags, open, unlinkat};

use crate::acceptor::{Door, Newcomer};
use crate::stream::Medium;
use ekuiper_transport_ipc::platform;
use ekuiper_transport_ipc::socket_file::SocketFile;
use ekuiper_transport_ipc::wait::io_error;

/// A listening socket and its socket file.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket file. Taken, and thereby removed, when no new peer should
    /// connect; before the door is closed, so that no process finds a stale
    /// file.
    file: Mutex<Option<SocketFile>>,
    door: Door,
}

impl Listener {
    /// Listens as a socket that speaks `own`; its peers are subject to
    /// `limits`.
    pub(crate) fn bind(
        address: &Address,
        own: Protocol,
        limits: Limits,
        options: &Options,
        medium: &'static dyn Medium,
    ) -> Result<Self> {
        let fail = |source| io_error("listen on", address, source);
        let (file, socket) = SocketFile::claim(address, || make(address).map_err(fail))?;
        let door = Door::open(socket, own, limits, options, medium).map_err(fail)?;
        Ok(Self { file: Mutex::new(Some(file)), door })
    }

    /// Whether a peer has connected; costs no system call.
    pub(crate) fn has_newcomers(&self) -> bool {
        self.door.has_newcomers()
    }

    /// Takes the next peer that has connected, if there is one.
    pub(crate) fn accept(&self) -> Option<Newcomer> {
        if self.has_newcomers() { self.door.next() } else { None }
    }

    /// Removes the file: no new peer can connect.
    pub(crate) fn remove_file(&self) {
        drop(lock(&self.file).take());
    }

    /// Removes the file, and refuses peers that connect nevertheless.
    pub(crate) fn close(&self) {
        self.remove_file();
        self.door.close();
    }
}

/// Creates a listening socket under a unique name, and moves it to its address:
/// a process that finds it there can connect, and none takes it for a stale one
/// before it listens.
///
/// # Errors
/// `AlreadyExists` when there is a file at the address.
fn make(address: &Address) -> io::Result<UnixListener> {
    let path = address.path();
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "its path ends without a name");
    let name = path.file_name().ok_or_else(invalid)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = open(parent, platform::ONLY_NAMES | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut random = [0; 8];
    platform::random(&mut random)?;
    let hidden = format!(".{:016x}", u64::from_ne_bytes(random));
    let mut place = parent.join(&hidden);
    if place.as_os_str().len() > MAX_PATH {
        // The folder's own path leaves no room for another name.
        place = format!("/proc/self/fd/{}/{hidden}", folder.as_raw_fd()).into();
    }
    let options = ListenerOptions::new()
        .name(place.to_fs_name::<GenericFilePath>()?)
        .nonblocking(ListenerNonblockingMode::Both)
        .reclaim_name(false)
        .try_overwrite(false)
        .mode(0o600);
    let listener = UnixListener::from_options(options)?;
    if let Err(error) = platform::rename_new(&folder, Path::new(&hidden), Path::new(name)) {
        let _ = unlinkat(&folder, &hidden, AtFlags::empty());
        return Err(error);
    }
    Ok(listener)
}

impl AsFd for Listener {
    /// A descriptor that polls readable while there are peers to accept.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }
}
