//! What the plugins of one host share: settings, transport, socket folder, and
//! the addresses in use.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::address::{Address, DEFAULT_FOLDER, Registry, SocketFolder};

use crate::background::Background;
use crate::channel::dependents::ProcessScope;
use crate::channel::idle_reader::IdleReader;
use crate::error::folder_error;
use crate::options::Options;
use crate::process::kin::Kin;
use crate::process::own_folder::{self, Elsewhere, OwnFolder};
use crate::status::Events;
use crate::sync::{lock, wait};
use crate::transports::Transports;
use crate::{Error, Result, Subject};

/// State shared by all plugins of a host.
pub(crate) struct Site {
    pub(crate) options: Options,
    /// Private: a [`ProcessScope`] creates the sockets.
    transports: Transports,
    pub(crate) idle_reader: Arc<IdleReader>,
    /// Threads that close handles, and that do for tasks what may block.
    pub(crate) background: Background,
    /// Threads that open handles. Not those of `background`: an open may wait
    /// for a close, for which waiting opens would leave no thread.
    pub(crate) openings: Background,
    /// Bytes of the calls that wait to be sent.
    pub(crate) waiting_calls: Arc<AtomicUsize>,
    /// The host's socket folder.
    pub(crate) folder: SocketFolder,
    /// Folder for the notes of sockets elsewhere.
    notes: Option<PathBuf>,
    addresses: Mutex<Addresses>,
    /// Notified when an address is released.
    released: Condvar,
    pub(crate) events: Events,
}

/// Addresses in use.
#[derive(Default)]
struct Addresses {
    taken: Registry,
    holders: HashMap<Address, Arc<Holder>>,
    /// Number of times that waiting claims were woken.
    wakes: u64,
}

impl Site {
    pub(crate) fn new(
        options: Options,
        transports: Transports,
        idle_reader: Arc<IdleReader>,
        (folder, own): (SocketFolder, Option<&OwnFolder>),
        events: Events,
    ) -> Arc<Self> {
        let notes = own.map(|own| own.path().to_owned());
        let (background, openings, waiting_calls, addresses, released) = Default::default();
        Arc::new(Self {
            options,
            transports,
            idle_reader,
            background,
            openings,
            waiting_calls,
            folder,
            notes,
            addresses,
            released,
            events,
        })
    }

    pub(crate) fn transport_name(&self) -> &'static str {
        self.transports.common.name()
    }

    /// Returns whether the transport tells which process has connected.
    pub(crate) fn knows_processes(&self) -> bool {
        self.transport_name() != "zeromq"
    }

    /// Creates the scope of a process that is about to be started.
    pub(crate) fn process_scope(&self, plugin: &str) -> Arc<ProcessScope> {
        ProcessScope::new(self.transports.clone(), self.options.transport(), Kin::new(plugin))
    }

    /// Creates a second site with addresses of its own: for the trial of a
    /// process while another of the same plugin runs.
    pub(crate) fn beside(&self) -> Result<(Arc<Self>, OwnFolder)> {
        let (folder, own) = own_folder()?;
        let events = Events::new(self.options.event_queue);
        let folder = (folder, Some(&own));
        let site = Self::new(self.options.clone(), self.transports.clone(), self.idle_reader.clone(), folder, events);
        Ok((site, own))
    }

    /// Creates the site of a pool's further process: with sockets in a folder of
    /// its own, and all else shared with this one.
    pub(crate) fn for_member(&self, number: usize) -> Result<(Arc<Self>, OwnFolder)> {
        // In the folder that was configured for all plugins, if one was.
        let own = match &self.options.ipc_dir {
            Some(folder) => OwnFolder::make_in(folder).map_err(folder_error(folder.clone()))?,
            None => own_folder()?.1,
        };
        let folder = SocketFolder::new(own.path());
        // No other folder: that of all plugins is the first process's.
        let options = Options { ipc_dir: Some(own.path().to_owned()), ..self.options.clone() };
        let (addresses, released) = Default::default();
        let site = Self {
            options,
            transports: self.transports.clone(),
            idle_reader: self.idle_reader.clone(),
            background: self.background.clone(),
            openings: self.openings.clone(),
            waiting_calls: self.waiting_calls.clone(),
            folder,
            notes: None,
            addresses,
            released,
            events: self.events.of_member(number),
        };
        Ok((Arc::new(site), own))
    }

    /// Returns the folder of plugins that do not take one from their launch
    /// options.
    pub(crate) fn common_folder(&self) -> SocketFolder {
        match self.options.ipc_dir {
            // Only our SDK supports this transport, and takes the folder from
            // its launch options.
            _ if self.transport_name() == "zeromq" => self.folder.clone(),
            // The folder was configured for all plugins.
            Some(_) => self.folder.clone(),
            None => SocketFolder::new(DEFAULT_FOLDER),
        }
    }

    /// Claims an address for `owner`.
    ///
    /// # Errors
    /// [`Error::InUse`].
    pub(crate) fn claim(self: &Arc<Self>, address: Address, owner: Subject) -> Result<Claim> {
        self.claim_place(address, owner, &Arc::default(), [Duration::ZERO; 2], &|| false)
    }

    /// Claims an address for `owner`, once its holder has released it: waits at
    /// most the first time while the holder is being stopped, and the second
    /// whatever it does. `is_over` ends the wait, and is asked again when a
    /// plugin's state changes. So does a `holder` that is given up, the claim's.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Stopped`].
    pub(crate) fn claim_place(
        self: &Arc<Self>,
        address: Address,
        owner: Subject,
        holder: &Arc<Holder>,
        [while_ending, patience]: [Duration; 2],
        is_over: &dyn Fn() -> bool,
    ) -> Result<Claim> {
        let since = Instant::now();
        let mut addresses = lock(&self.addresses);
        let mut seen = None;
        loop {
            // Under the lock: whoever claims the address after it was given up
            // does not find it taken by a holder that is not ending.
            holder.check()?;
            let taken = match addresses.taken.claim(&address, owner.words()) {
                Ok(()) => {
                    addresses.holders.insert(address.clone(), holder.clone());
                    let is_elsewhere = |own: &&PathBuf| !address.path().starts_with(own);
                    let own = self.notes.as_ref().filter(is_elsewhere);
                    let note = own.and_then(|own| Elsewhere::note(own, &address));
                    return Ok(Claim { site: self.clone(), address, note });
                }
                Err(ekuiper_core::Error::Collision { owner, .. }) => owner,
                Err(source) => return Err(Error::Message { what: owner.not_sent(), source: source.into() }),
            };
            let is_ending = addresses.holders.get(&address).is_some_and(|holder| holder.is_ending());
            let patience = if is_ending { while_ending.max(patience) } else { patience };
            let left = patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                let taken = if is_ending { format!("{taken}, which is still being stopped,") } else { taken };
                return Err(Error::InUse { wanted: owner, owner: taken, address: address.to_string() });
            }
            // Without the lock: it is a plugin that is asked.
            if seen != Some(addresses.wakes) {
                seen = Some(addresses.wakes);
                drop(addresses);
                if is_over() {
                    return Err(Error::Stopped);
                }
                addresses = lock(&self.addresses);
                continue;
            }
            addresses = wait(&self.released, addresses, Some(left));
        }
    }

    /// Has waiting claims check whether their wait is over.
    pub(crate) fn wake_claims(&self) {
        lock(&self.addresses).wakes += 1;
        self.released.notify_all();
    }
}

/// What holds claims: an open source or sink.
#[derive(Default)]
pub(crate) struct Holder {
    is_ending: AtomicBool,
    is_given_up: AtomicBool,
}

impl Holder {
    /// Has later claims of its addresses wait for their release: the symbol is
    /// being stopped in the background.
    pub(crate) fn mark_ending(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    /// Gives up an open that is not needed any more: it claims nothing from now
    /// on, and waits for nothing once it is woken.
    pub(crate) fn give_up(&self) {
        self.mark_ending();
        self.is_given_up.store(true, Ordering::SeqCst);
    }

    /// Returns an error if the open was given up.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_given_up.load(Ordering::SeqCst) { Err(Error::Stopped) } else { Ok(()) }
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }
}

/// An address claimed within this host.
pub(crate) struct Claim {
    site: Arc<Site>,
    pub(crate) address: Address,
    /// Note by which the sockets of a killed host are removed.
    note: Option<Elsewhere>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the next claim of the address, which makes a note of the same
        // name.
        drop(self.note.take());
        let mut addresses = lock(&self.site.addresses);
        addresses.taken.release(&self.address);
        addresses.holders.remove(&self.address);
        drop(addresses);
        self.site.released.notify_all();
    }
}

/// Creates a socket folder, or uses the given one; the host's own folder then
/// holds only its notes.
pub(crate) fn socket_folder(given: Option<&Path>) -> Result<(SocketFolder, Option<OwnFolder>)> {
    own_folder::sweep();
    match given {
        Some(path) => {
            let fail = |source| folder_error(path.to_owned())(source);
            let path = std::path::absolute(path).map_err(fail)?;
            // Created here, it is accessible to this user only.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
            own_folder::sweep_in(&path);
            // A test of writing, whatever the permissions look like.
            tempfile::Builder::new().prefix(".ekuiper-").tempfile_in(&path).map_err(fail)?;
            Ok((SocketFolder::new(path), OwnFolder::make().ok()))
        }
        None => own_folder().map(|(folder, own)| (folder, Some(own))),
    }
}

/// Creates a folder that only this user can enter.
fn own_folder() -> Result<(SocketFolder, OwnFolder)> {
    let fail = folder_error(std::env::temp_dir());
    let folder = OwnFolder::make().map_err(fail)?;
    Ok((SocketFolder::new(folder.path()), folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(folder: &SocketFolder) -> u32 {
        std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn folders_that_are_made_here_are_private() {
        let (own, kept) = socket_folder(None).unwrap();
        assert_eq!(mode(&own), 0o700);
        let (given, _) = socket_folder(Some(&own.path().join("a/b"))).unwrap();
        assert_eq!(mode(&given), 0o700);
        assert_eq!(mode(&SocketFolder::new(own.path().join("a"))), 0o700);
        // An existing folder is left as it is.
        std::fs::set_permissions(given.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(mode(&socket_folder(Some(given.path())).unwrap().0), 0o755);
        drop(kept);
    }

    #[test]
    fn what_is_used_elsewhere_is_noted_as_long_as_it_is_used() {
        let given = tempfile::tempdir().unwrap();
        let (folder, own) = socket_folder(Some(given.path())).unwrap();
        let own = own.unwrap();
        let options = Options::default();
        let idle_reader = Arc::new(IdleReader::start(options.stall_timeout).unwrap());
        let events = Events::new(options.event_queue);
        let transports = Transports::choose(None).unwrap();
        let site = Site::new(options, transports, idle_reader, (folder.clone(), Some(&own)), events);
        let claim = site.claim(folder.control("p").unwrap(), "plugin p".into()).unwrap();
        let note = own.path().join(".at-plugin_p.ipc");
        assert_eq!(std::fs::read_link(&note).ok().as_deref(), Some(claim.address.path()));
        drop(claim);
        assert!(note.symlink_metadata().is_err());
    }
}
