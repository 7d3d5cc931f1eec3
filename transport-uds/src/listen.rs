//! Listening at an address.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use ekuiper_core::address::Address;
use ekuiper_core::sp::{Limits, Protocol};
use ekuiper_core::transport::{Options, Result};
use interprocess::local_socket::traits::Listener as _;
use interprocess::local_socket::{GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use interprocess::os::unix::uds_local_socket::Listener as UnixListener;

use crate::acceptor::{Door, Newcomer};
use ekuiper_transport_ipc::socket_file::SocketFile;
use ekuiper_transport_ipc::wait::io_error;

/// A listening socket and its file.
#[derive(Debug)]
pub(crate) struct Listener {
    door: Door,
    /// Taken, and thereby removed, by the closing.
    file: Mutex<Option<SocketFile>>,
}

impl Listener {
    /// Listens as a socket that is `own`; its peers may do what `limits` say.
    pub(crate) fn bind(address: &Address, own: Protocol, limits: Limits, options: &Options) -> Result<Self> {
        let fail = |source| io_error("listen on", address, source);
        let (file, socket) = SocketFile::claim(address, || {
            let name = address.path().to_fs_name::<GenericFilePath>().map_err(fail)?;
            let options = ListenerOptions::new()
                .name(name)
                .nonblocking(ListenerNonblockingMode::Both)
                .reclaim_name(false)
                .try_overwrite(false)
                .mode(0o600);
            UnixListener::from_options(options).map_err(fail)
        })?;
        let door = Door::open(socket, own, limits, options).map_err(fail)?;
        Ok(Self { door, file: Mutex::new(Some(file)) })
    }

    /// Whether a peer has come; costs nothing.
    pub(crate) fn has_newcomers(&self) -> bool {
        self.door.has_newcomers()
    }

    /// The next peer that has come, if there is one.
    pub(crate) fn accept(&self) -> Option<Newcomer> {
        if self.has_newcomers() { self.door.next() } else { None }
    }

    /// Removes the file and refuses whoever still comes.
    pub(crate) fn close(&self) {
        drop(self.file.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.door.close();
    }
}

impl AsFd for Listener {
    /// Polls readable while there are peers to accept.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }
}
