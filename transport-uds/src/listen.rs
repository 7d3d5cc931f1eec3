//! Listening at an address, and accepting.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ekuiper_core::address::Address;
use ekuiper_core::sp::Protocol;
use ekuiper_core::transport::Result;
use interprocess::local_socket::traits::Listener as _;
use interprocess::local_socket::{GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use interprocess::os::unix::uds_local_socket::Listener as UnixListener;
use rustix::net::{Shutdown, shutdown};

use crate::link::Link;
use crate::socket_file::SocketFile;
use crate::wait::io_error;

/// How long no connection is accepted after the process ran out of descriptors.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket and its file.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    /// Taken, and thereby removed, by the closing.
    file: Mutex<Option<SocketFile>>,
}

/// What a listener had.
pub(crate) enum Accepted {
    /// A connection, with our header sent already.
    Link(Link),
    /// Nobody waits.
    Nobody,
    /// The process cannot have more connections for now.
    Exhausted,
}

impl Listener {
    pub(crate) fn bind(address: &Address) -> Result<Self> {
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
        Ok(Self { socket, file: Mutex::new(Some(file)) })
    }

    /// The next connection.
    pub(crate) fn accept(&self, own: Protocol) -> Accepted {
        loop {
            match self.socket.accept() {
                // Whoever is gone already costs nothing.
                Ok(stream) => match Link::greet(stream.into(), own) {
                    Ok(link) => return Accepted::Link(link),
                    Err(_) => continue,
                },
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => return Accepted::Nobody,
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::ConnectionAborted => continue,
                    // Closed by another thread.
                    std::io::ErrorKind::InvalidInput => return Accepted::Nobody,
                    _ => {
                        tracing::warn!(%error, "cannot accept connections for now");
                        return Accepted::Exhausted;
                    }
                },
            }
        }
    }

    /// Removes the file and refuses whoever still comes.
    pub(crate) fn close(&self) {
        drop(self.file.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
