//! What the plugins of one host share: settings, transport, socket folder, and
//! who uses which address.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ekuiper_core::address::{Address, DEFAULT_FOLDER, Registry, SocketFolder};
use ekuiper_core::transport::Transport;

use crate::keeper::Keeper;
use crate::options::Options;
use crate::status::Events;
use crate::{Error, Result};

/// What all plugins of a host share.
pub(crate) struct Site {
    pub(crate) options: Options,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) keeper: Arc<Keeper>,
    /// The host's own socket folder.
    pub(crate) folder: SocketFolder,
    pub(crate) addresses: Mutex<Registry>,
    pub(crate) events: Events,
}

impl Site {
    /// A site beside this one, with addresses of its own: for a process that
    /// is tried while another of the same plugin runs.
    pub(crate) fn beside(&self) -> Result<(Arc<Self>, tempfile::TempDir)> {
        let (folder, own) = own_folder()?;
        let site = Arc::new(Self {
            options: self.options.clone(),
            transport: self.transport.clone(),
            keeper: self.keeper.clone(),
            folder,
            addresses: Mutex::default(),
            events: Events::default(),
        });
        Ok((site, own))
    }

    /// The folder that plugins use which take none from their launch options.
    pub(crate) fn common_folder(&self) -> SocketFolder {
        match self.options.ipc_dir {
            // It was made the host's own.
            Some(_) => self.folder.clone(),
            None => SocketFolder::new(DEFAULT_FOLDER),
        }
    }

    pub(crate) fn claim(self: &Arc<Self>, address: Address, owner: String) -> Result<Claim> {
        let mut addresses = lock(&self.addresses);
        addresses.claim(&address, &owner).map_err(|source| Error::Message { what: owner, source })?;
        Ok(Claim { site: self.clone(), address })
    }
}

/// An address that nobody else of this host uses meanwhile.
pub(crate) struct Claim {
    site: Arc<Site>,
    pub(crate) address: Address,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.site.addresses).release(&self.address);
    }
}

/// Makes the folder for a host's own sockets, or uses the one that was given.
pub(crate) fn socket_folder(given: Option<&Path>) -> Result<(SocketFolder, Option<tempfile::TempDir>)> {
    match given {
        Some(path) => {
            let fail = |source| Error::SocketFolder { path: path.to_owned(), source };
            let path = std::path::absolute(path).map_err(fail)?;
            std::fs::create_dir_all(&path).map_err(fail)?;
            // Writable by this process, whatever its permissions look like.
            tempfile::Builder::new().prefix(".ekuiper-").tempfile_in(&path).map_err(fail)?;
            Ok((SocketFolder::new(path), None))
        }
        None => own_folder().map(|(folder, own)| (folder, Some(own))),
    }
}

/// Makes a folder that only this user can enter.
fn own_folder() -> Result<(SocketFolder, tempfile::TempDir)> {
    let fail = |source| Error::SocketFolder { path: std::env::temp_dir(), source };
    // tempfile makes it 0700.
    let folder = tempfile::Builder::new().prefix("ekuiper-").tempdir().map_err(fail)?;
    Ok((SocketFolder::new(folder.path()), folder))
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
