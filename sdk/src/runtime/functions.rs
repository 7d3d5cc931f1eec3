//! The connections of functions whose sockets the engine already has.
//!
//! A stock engine keeps the sockets of its functions when it restarts a plugin,
//! after an update or a crash, and sends the start of the last one only (seen
//! with eKuiper 2): calls of all others would time out until the engine itself
//! is restarted. The plugin therefore connects to each such socket on which one
//! of its ancestors listens, without waiting for a start, at once and whenever
//! such a socket appears.
//!
//! Cost: one scan when the plugin starts, and a thread that blocks in the kernel
//! until a file is created in the socket folder. The thread wakes at most ten
//! times a second, however busy the folder is. It ends when all functions run:
//! then each reconnects by itself.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Admission, PeerProcess};
use ekuiper_transport_ipc::platform::FolderWatch;
use ekuiper_transport_ipc::process;
use ekuiper_transport_ipc::wait::deadline_after;
use rustix::event::{PollFd, PollFlags, poll};

use super::site::Site;
use super::symbols::Symbols;
use crate::Result;

/// The maximum time for which connecting to a socket is retried: an engine may
/// be interrupted between creating its file and listening.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pause after the first attempt; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The minimum time between two scans of the folder.
const REST: Duration = Duration::from_millis(100);

/// The interval between scans where the folder cannot be watched.
const GLANCE: Duration = Duration::from_secs(5);

/// [`PATIENCE`] before the plugin's handshake, when sockets of previous engines
/// may exist as well.
const FIRST_PATIENCE: Duration = Duration::from_millis(30);

/// Connects the functions of `symbols` on whose sockets an ancestor of this
/// process listens: once before any start can interfere, and from then on from
/// a separate thread.
pub(super) fn connect(symbols: &Arc<Mutex<Symbols>>, site: &Site, functions: &[String]) -> Result<()> {
    let mut sockets = HashMap::new();
    for function in functions {
        // A function without an address cannot be started either.
        let Ok(address) = site.folder.function(function) else { continue };
        if let Some(name) = address.path().file_name() {
            sockets.insert(name.to_owned(), (function.clone(), address));
        }
    }
    if sockets.is_empty() {
        return Ok(());
    }
    let finder = Finder { symbols: symbols.clone(), site: site.clone(), sockets };
    // Before the first scan, so that no later socket is missed.
    let watch = FolderWatch::new(site.folder.path());
    if let Err(error) = &watch {
        tracing::debug!(%error, "cannot watch the socket folder: scanning it every {GLANCE:?}");
    }
    if let Some(missing) = finder.missing() {
        finder.dial(&missing, FIRST_PATIENCE);
    }
    std::thread::Builder::new().name("functions".into()).spawn(move || finder.run(watch.ok()))?;
    Ok(())
}

struct Finder {
    symbols: Arc<Mutex<Symbols>>,
    site: Site,
    /// Each function and its address, by the name of the socket's file.
    sockets: HashMap<OsString, (String, Address)>,
}

/// Admits listeners that are ancestors of this process: the engine that started
/// it, directly or through a wrapper or a supervisor.
#[derive(Debug, Default)]
struct Ancestors {
    has_refused: AtomicBool,
}

impl Ancestors {
    /// Whether a listener was refused because it is no ancestor.
    fn has_refused(&self) -> bool {
        self.has_refused.load(Ordering::Acquire)
    }
}

impl Admission for Ancestors {
    fn admits(&self, listener: PeerProcess) -> bool {
        let is_ancestor = matches!(listener, PeerProcess::Pid(pid) if process::is_descendant(std::process::id(), pid));
        if !is_ancestor {
            self.has_refused.store(true, Ordering::Release);
        }
        is_ancestor
    }
}

impl Finder {
    fn run(&self, watch: Option<FolderWatch>) {
        while let Some(missing) = self.missing() {
            self.dial(&missing, PATIENCE);
            match &watch {
                Some(watch) => self.await_socket(watch),
                None => std::thread::sleep(GLANCE),
            }
        }
    }

    /// The functions that do not run; `None` when all run or the plugin shuts
    /// down.
    fn missing(&self) -> Option<Vec<&(String, Address)>> {
        let symbols = lock(&self.symbols);
        let missing = self.sockets.values().filter(|(function, _)| !symbols.serves(function));
        Some(missing.collect::<Vec<_>>()).filter(|missing| !missing.is_empty() && !symbols.is_ending())
    }

    /// Connects the functions whose sockets exist.
    fn dial(&self, missing: &[&(String, Address)], patience: Duration) {
        let there = missing.iter().filter(|(_, address)| address.path().exists());
        let mut pending: Vec<_> = there.map(|socket| (socket, Arc::<Ancestors>::default())).collect();
        let (end, mut pause) = (deadline_after(patience), FIRST_PAUSE);
        loop {
            pending.retain(|((function, address), ancestors)| {
                let dial = || {
                    let mut options = self.site.options.clone();
                    options.admission = Some(ancestors.clone());
                    self.site.transport.request(address, &options)
                };
                !lock(&self.symbols).connect(function, dial) && !ancestors.has_refused()
            });
            if pending.is_empty() || Instant::now() >= end {
                break;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
        missing.iter().for_each(|(function, _)| lock(&self.symbols).give_up(function));
    }

    /// Waits until the socket of a function may have been created.
    fn await_socket(&self, watch: &FolderWatch) {
        let mut has_come = Ok(false);
        while let Ok(false) = has_come {
            std::thread::sleep(REST);
            let _ = poll(&mut [PollFd::new(watch, PollFlags::IN)], None);
            has_come = self.take_notices(watch);
        }
        // The folder was removed, and its watch with it, or cannot be watched.
        if has_come.is_err() {
            std::thread::sleep(GLANCE);
        }
    }

    /// Reads all pending notifications, so that none wakes this thread again,
    /// and returns whether the socket of a function may be among them.
    ///
    /// # Errors
    /// No further notifications will arrive.
    fn take_notices(&self, watch: &FolderWatch) -> rustix::io::Result<bool> {
        let mut has_come = false;
        watch.take(|made| has_come |= made.is_none_or(|name| self.sockets.contains_key(name)))?;
        Ok(has_come)
    }
}

#[cfg(test)]
mod tests {
    use ekuiper_core::address::SocketFolder;
    use rustix::event::Timespec;
    use rustix::io::Errno;

    use super::super::bell::Bell;
    use super::super::site::tests::site;
    use super::*;
    use crate::definition::Definition;

    #[test]
    fn one_look_takes_all_notices_of_other_peoples_files() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(SocketFolder::new(folder.path()));
        let address = site.folder.function("f").unwrap();
        let symbols =
            Arc::new(Mutex::new(Symbols::new(Definition::new("test".into()), site.clone(), Arc::<Bell>::default())));
        let ours = address.path().file_name().unwrap().to_owned();
        let sockets = HashMap::from([(ours.clone(), ("f".to_owned(), address))]);
        let finder = Finder { symbols, site, sockets };
        let watch = FolderWatch::new(folder.path()).unwrap();
        // Far more than is read at a time.
        for number in 0..1000 {
            std::fs::write(folder.path().join(format!("other{number}")), "").unwrap();
        }
        assert_eq!(finder.take_notices(&watch), Ok(false));
        let left = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&Timespec::default()));
        assert_eq!(left, Ok(0), "some are left, and wake the thread");
        std::fs::write(folder.path().join(ours), "").unwrap();
        for number in 0..1000 {
            std::fs::write(folder.path().join(format!("another{number}")), "").unwrap();
        }
        assert_eq!(finder.take_notices(&watch), Ok(true));
        drop(folder);
        assert_eq!(finder.take_notices(&watch), Err(Errno::NOENT));
    }
}
