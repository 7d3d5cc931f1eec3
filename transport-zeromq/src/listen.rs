//! Listening: a ROUTER of the `zeromq` crate, and the task that serves it.
//!
//! The ROUTER assigns an identity to each connection. A connection counts once
//! its first word has shown that it is one of ours.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ekuiper_core::address::Address;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{ConnectionId, Result};
use ekuiper_transport_ipc::platform;
use ekuiper_transport_ipc::socket_file::SocketFile;
use ekuiper_transport_ipc::wait::io_error;
use futures::StreamExt;
use futures::channel::mpsc;
use rustix::fs::{AtFlags, Mode, RenameFlags, chmodat, renameat_with, unlinkat};
use tokio::time::{Instant, sleep, sleep_until};
use zeromq::util::PeerIdentity;
use zeromq::{MultiPeerBackend, RouterSocket, Socket, SocketEvent, SocketRecv, SocketSend, ZmqMessage};

use crate::engine::{self, at_once};
use crate::hub::{Hub, LINGER};
use crate::peer::next_connection;
use crate::{folder, words};

/// Capacity of the `zeromq` crate's event queue; further events are lost.
const MONITORED: usize = 1024;

/// The socket file that is listened on.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The file; taken, and thereby removed, by closing.
    file: Mutex<Option<SocketFile>>,
}

impl Listening {
    /// Listens at `address` for peers of `hub`.
    pub(crate) fn start(address: &Address, hub: &Arc<Hub>, max_connections: usize) -> Result<Self> {
        let fail = |source| io_error("listen on", address, source);
        let folder = folder::private(address).map_err(fail)?;
        let engine = engine::handle().map_err(fail)?;
        let (file, listener) = SocketFile::claim(address, || bind(&folder, address).map_err(fail))?;
        let (tell, told) = std::sync::mpsc::channel();
        let hub = hub.clone();
        engine.spawn(async move {
            let mut router = RouterSocket::new();
            let events = router.monitor();
            match router.bind_listener(listener).await {
                Ok(_) => {
                    let _ = tell.send(Ok(()));
                    ListenTask::new(hub, router, max_connections).serve(events).await;
                }
                Err(error) => {
                    let _ = tell.send(Err(io::Error::other(error)));
                }
            }
        });
        let begun = told.recv().unwrap_or_else(|_| Err(io::Error::other("the zeromq thread has ended")));
        begun.map_err(fail)?;
        Ok(Self { file: Mutex::new(Some(file)) })
    }

    /// Removes the file: no new peer can connect.
    pub(crate) fn remove_file(&self) {
        drop(lock(&self.file).take());
    }
}

/// Binds a socket under a unique name, and moves it to its address once it
/// listens.
///
/// The `zeromq` crate removes the path that a listener was bound to some time
/// after closing, whichever process listens there by then.
fn bind(folder: &OwnedFd, address: &Address) -> Result<UnixListener, io::Error> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "its path ends without a name");
    let name = address.path().file_name().ok_or_else(invalid)?;
    let mut random = [0; 8];
    platform::random(&mut random)?;
    let temporary = format!(".{:016x}", u64::from_ne_bytes(random));
    // The folder's own path may leave no room for another name.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{temporary}", folder.as_raw_fd()))?;
    let moved = chmodat(folder, &temporary, Mode::RUSR | Mode::WUSR, AtFlags::empty())
        .and_then(|()| renameat_with(folder, &temporary, folder, name, RenameFlags::NOREPLACE));
    if let Err(errno) = moved {
        let _ = unlinkat(folder, &temporary, AtFlags::empty());
        return Err(errno.into());
    }
    Ok(listener)
}

/// The state of the task.
struct ListenTask {
    hub: Arc<Hub>,
    router: RouterSocket,
    backend: Arc<dyn MultiPeerBackend>,
    ids: HashMap<PeerIdentity, ConnectionId>,
    identities: HashMap<ConnectionId, PeerIdentity>,
    max_connections: usize,
}

impl ListenTask {
    fn new(hub: Arc<Hub>, router: RouterSocket, max_connections: usize) -> Self {
        let backend = router.backend();
        Self { hub, router, backend, ids: HashMap::new(), identities: HashMap::new(), max_connections }
    }

    /// Serves until the hub is closed and all peers have disconnected.
    async fn serve(mut self, mut events: mpsc::Receiver<SocketEvent>) {
        let hub = self.hub.clone();
        let mut end = None;
        loop {
            tokio::select! {
                received = self.router.recv() => match received {
                    Ok(message) => self.heard(message),
                    Err(_) => break,
                },
                Some(event) = events.next() => self.watch(event, &mut events),
                () = hub.called() => {}
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => break,
            }
            // Checked first: the data to send at that moment is all there will
            // be.
            let is_closed = hub.is_closed();
            self.send_all(false);
            if is_closed && end.is_none() {
                end = Some(Instant::now() + LINGER);
                self.router.unbind_all().await;
                let all: Vec<_> = self.ids.keys().cloned().collect();
                all.iter().for_each(|identity| self.say(identity, words::bye()));
            }
            if end.is_some() && self.ids.is_empty() {
                break;
            }
        }
        drop(self.router);
        hub.is_over();
        sweep(&*self.backend).await;
    }

    /// Handles a message of a peer.
    fn heard(&mut self, message: ZmqMessage) {
        let mut frames = message.into_vecdeque();
        // The ROUTER has prepended the identity.
        let Some(Ok(identity)) = frames.pop_front().map(PeerIdentity::try_from) else { return };
        let is_fine = match (frames.pop_front(), frames.is_empty(), self.ids.get(&identity)) {
            (Some(frame), true, Some(id)) => self.hub.heard(*id, frame),
            (Some(frame), true, None) => self.hub.role.is_greeted_by(&frame) && self.welcome(&identity),
            _ => false,
        };
        if !is_fine {
            self.hang_up(&identity);
        }
    }

    fn welcome(&mut self, identity: &PeerIdentity) -> bool {
        if self.hub.is_closed() || self.ids.len() >= self.max_connections {
            return false;
        }
        let id = next_connection();
        self.ids.insert(identity.clone(), id);
        self.identities.insert(id, identity.clone());
        self.say(identity, self.hub.role.hello());
        self.hub.joined(id);
        true
    }

    /// Handles the crate's connection events.
    fn watch(&mut self, first: SocketEvent, events: &mut mpsc::Receiver<SocketEvent>) {
        let mut count = 0;
        let mut next = Some(first);
        while let Some(event) = next {
            if let SocketEvent::Disconnected(identity) = event {
                self.is_gone(&identity);
            }
            count += 1;
            next = events.try_recv().ok();
        }
        if count >= MONITORED {
            // Events may have been lost: a peer that has disconnected cannot be
            // sent anything.
            self.send_all(true);
        }
    }

    fn send_all(&mut self, all: bool) {
        for (id, frame) in self.hub.outgoing(all) {
            if let Some(identity) = self.identities.get(&id).cloned() {
                self.say(&identity, frame);
            }
        }
    }

    /// Sends a word to a peer, or disconnects it if that fails: its queue in
    /// the crate has room for far more than the window.
    fn say(&mut self, identity: &PeerIdentity, frame: Bytes) {
        let mut message = ZmqMessage::from(frame);
        message.push_front(identity.clone().into());
        if !matches!(at_once(self.router.send(message)), Some(Ok(()))) {
            self.hang_up(identity);
        }
    }

    fn hang_up(&mut self, identity: &PeerIdentity) {
        self.is_gone(identity);
        // No task reads the peer's stream at this moment: there is only one
        // thread, and it is here.
        self.backend.peer_disconnected(identity);
    }

    fn is_gone(&mut self, identity: &PeerIdentity) {
        if let Some(id) = self.ids.remove(identity) {
            self.identities.remove(&id);
            self.hub.left(id);
        }
    }
}

/// Closes connections that were still being made when the socket was dropped;
/// the crate would keep them for ever.
async fn sweep(backend: &dyn MultiPeerBackend) {
    let mut pause = Duration::from_millis(1);
    while pause < Duration::from_secs(2) {
        backend.shutdown();
        sleep(pause).await;
        pause *= 2;
    }
    backend.shutdown();
}
