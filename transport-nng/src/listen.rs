//! Listening without touching foreign files, and for as long as the socket is
//! open.
//!
//! libnng removes whatever is at its path: before binding, if no process
//! listens there, even a regular file; and again on closing, even if the file
//! is another process's by then. Therefore libnng is given a unique path, and
//! the socket file is moved to its address once it listens. A process that
//! finds the file there can connect, and at libnng's own path there is never
//! anything to remove.
//!
//! A listener of libnng 1.4 gets stuck when a peer connects and disconnects
//! before libnng has sent its header (nanomsg/nng#1518, fixed in 1.6): it
//! accepts no further peers, and does not report that. Closing it is the only
//! way to disconnect the peers that wait behind it, and closes its connections
//! as well. So a new listener, called a door here, replaces the current one
//! whenever a peer has connected, shortly after a peer has left, since its
//! process may have redialled and ended, and whenever `watch` finds the current
//! one stuck.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::address::{Address, MAX_PATH};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Result, TransportError};
use ekuiper_transport_ipc::platform;
use ekuiper_transport_ipc::socket_file::SocketFile;
use ekuiper_transport_ipc::wait::{Closing, deadline_after, io_error, wait_for};
use nng::options::Options as _;
use nng::options::transport::ipc::Permissions;
use nng::{Listener, ListenerBuilder, Socket};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use crate::census::Census;
use crate::line::Line;
use crate::outlets::Outlets;
use crate::socket::{nng_error, url};
use crate::watch::{self, WatchedListener};

/// The header of a protocol (PAIR) that no socket of this project speaks.
const STRANGER: [u8; 8] = *b"\0SP\0\0\x10\0\0";

/// Maximum time for a listener to accept a peer before it is replaced. libnng
/// pauses for 100 ms after each peer that violated the protocol.
const PATIENCE: Duration = Duration::from_secs(2);

/// Maximum time for a replaced listener to accept a peer before its connections
/// are closed.
const LONG_PATIENCE: Duration = Duration::from_secs(5);

/// Minimum time for which a replaced listener is kept: a peer that has found it
/// is accepted by then, or has not sent its header for 10 s.
const RETIREMENT: Duration = Duration::from_secs(12);

/// Time for a peer's process to end after its connection: until then it may
/// redial, and leave at once.
const LEAVING: Duration = Duration::from_millis(100);

/// Maximum number of replaced listeners; each has a descriptor.
const MAX_RETIRED: usize = 16;

/// The source of the sockets that listen.
#[derive(Debug)]
pub(crate) enum Supply {
    /// One socket for all connections.
    Socket(Socket),
    /// One socket per connection.
    Lines(Arc<Outlets>),
}

/// A listening socket, until it is closed.
#[derive(Debug)]
pub(crate) struct Listening {
    address: Address,
    supply: Supply,
    census: Arc<Census>,
    /// Ends waits for libnng.
    closing: Arc<Closing>,
    /// Absent once closed.
    place: Mutex<Option<Doors>>,
}

#[derive(Debug)]
struct Doors {
    file: SocketFile,
    /// The current listener.
    door: Door,
    /// Replaced listeners, which may have connections.
    retired: Vec<Retired>,
    /// The number of connections so far when the current door was installed.
    accepted: u64,
}

/// A libnng listener, and its socket file, wherever that has been moved.
#[derive(Debug)]
struct Door {
    listener: Listener,
    file: OwnedFd,
    /// The line of this door, if its socket has one connection only.
    line: Option<Arc<Line>>,
}

#[derive(Debug)]
struct Retired {
    listener: Listener,
    since: Instant,
    /// A probe that was not accepted: closing it could leave the listener
    /// stuck.
    _stranger: Option<OwnedFd>,
}

impl Listening {
    pub(crate) fn start(
        supply: Supply,
        address: &Address,
        census: &Arc<Census>,
        closing: &Arc<Closing>,
    ) -> Result<Arc<Self>> {
        let (file, door) = SocketFile::claim(address, || {
            let (hidden, door) = Door::make(&supply, address)?;
            match platform::rename_new(CWD, &hidden, address.path()) {
                Ok(()) => Ok(door),
                Err(error) => {
                    door.discard(&hidden);
                    Err(match error.kind() {
                        // The file was created after the folder was checked.
                        io::ErrorKind::AlreadyExists => TransportError::AddressInUse(address.clone()),
                        _ => io_error("listen on", address, error),
                    })
                }
            }
        })?;
        let place = Doors { file, door, retired: Vec::new(), accepted: 0 };
        let listening = Arc::new(Self {
            address: address.clone(),
            supply,
            census: census.clone(),
            closing: closing.clone(),
            place: Mutex::new(Some(place)),
        });
        watch::over(&listening).map_err(|source| io_error("listen on", address, source))?;
        Ok(listening)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Doors>> {
        lock(&self.place)
    }

    /// Removes the file. The socket may be closed only after this call, since
    /// the listeners are not used any more.
    pub(crate) fn close(&self) {
        drop(self.lock().take());
    }

    /// Installs a new door and returns the old one. `None` when the file is no
    /// longer ours.
    fn replace(&self, place: &mut Doors) -> Result<Option<Door>> {
        if !place.file.is_in_place() {
            return Ok(None);
        }
        let (hidden, door) = Door::make(&self.supply, &self.address)?;
        match place.file.renew(|| std::fs::rename(&hidden, self.address.path())) {
            Ok(true) => Ok(Some(std::mem::replace(&mut place.door, door))),
            other => {
                door.discard(&hidden);
                other.map(|_| None)
            }
        }
    }

    /// Installs a new door, and retires the old one unless that is stuck.
    fn succeed(&self, place: &mut Doors) -> Result<()> {
        let accepted = self.census.accepted();
        let Some(former) = self.replace(place)? else { return Ok(()) };
        place.accepted = accepted;
        // No peer can find the old door any more. A peer that has found it was
        // accepted before a probe that connects now, or never will be.
        match self.lets_in(&former, LONG_PATIENCE) {
            Ok(()) => place.retire(former, None),
            Err(_stranger) => former.end(),
        }
        Ok(())
    }

    /// Connects a probe, which is accepted and disconnected at once unless the
    /// door is stuck; then the wait times out, and the probe is returned. `Ok`
    /// also when the result is unknown or the socket is being closed.
    fn lets_in(&self, door: &Door, patience: Duration) -> std::result::Result<(), OwnedFd> {
        let Ok(stranger) = door.knock() else { return Ok(()) };
        let deadline = Some(deadline_after(patience));
        loop {
            match rustix::io::read(&stranger, &mut [0; 8]) {
                // The door's header.
                Ok(1..) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&stranger, PollFlags::IN), PollFd::new(&*self.closing, PollFlags::IN)];
                    if wait_for(&mut fds, deadline).is_err() {
                        return Err(stranger);
                    }
                    if self.closing.check().is_err() {
                        return Ok(());
                    }
                }
                Ok(0) | Err(_) => return Ok(()),
            }
        }
    }
}

impl WatchedListener for Listening {
    fn is_closed(&self) -> bool {
        self.closing.check().is_err()
    }

    /// Installs a new door if a peer has connected through the current one: a
    /// door with connections could not be closed without harm if it got stuck.
    fn renew(&self) -> Result<()> {
        let mut place = self.lock();
        let Some(place) = place.as_mut() else { return Ok(()) };
        if self.census.accepted() != place.accepted && place.has_room() {
            self.succeed(place)?;
        }
        Ok(())
    }

    /// Installs a new door if the current one may be stuck, and closes old ones
    /// without connections.
    fn inspect(&self) -> Result<()> {
        let mut place = self.lock();
        let Some(place) = place.as_mut() else { return Ok(()) };
        place.retired.retain(|Retired { listener, since, .. }| {
            let needed = since.elapsed() < RETIREMENT || self.census.has_connections_of(*listener);
            if !needed {
                listener.close();
            }
            needed
        });
        if let Supply::Lines(outlets) = &self.supply {
            outlets.prune();
        }
        if place.has_room() && self.census.take_departure(LEAVING) {
            return self.succeed(place);
        }
        if let Err(stranger) = self.lets_in(&place.door, PATIENCE)
            && let Some(former) = self.replace(place)?
        {
            tracing::debug!(address = %self.address, "libnng's listener is stuck: replacing it");
            if self.census.has_connections_of(former.listener) {
                place.retire(former, Some(stranger));
            } else {
                // Peers that wait behind it in vain will redial.
                former.end();
            }
        }
        Ok(())
    }
}

impl Doors {
    fn has_room(&self) -> bool {
        self.retired.len() < MAX_RETIRED
    }

    /// Keeps an old door until its connections have ended.
    fn retire(&mut self, door: Door, stranger: Option<OwnedFd>) {
        // A line ends with its connection.
        if door.line.is_none() {
            self.retired.push(Retired { listener: door.listener, since: Instant::now(), _stranger: stranger });
        }
    }
}

impl Door {
    /// Creates a listener at an unused path in the same folder.
    fn make(supply: &Supply, address: &Address) -> Result<(PathBuf, Self)> {
        match supply {
            Supply::Socket(socket) => Self::open(socket, None, address),
            Supply::Lines(outlets) => {
                let line = outlets.add()?;
                let made = Self::open(&line.socket, Some(line.clone()), address);
                if made.is_err() {
                    line.end();
                }
                made
            }
        }
    }

    fn open(socket: &Socket, line: Option<Arc<Line>>, address: &Address) -> Result<(PathBuf, Self)> {
        let fail = |source| io_error("listen on", address, source);
        let refuse = |error| nng_error("listen on", address, error);
        let hidden = hidden_path(address.path()).map_err(fail)?;
        let listener = ListenerBuilder::new(socket, &url(&hidden).map_err(fail)?).map_err(refuse)?;
        listener.set_opt::<Permissions>(0o600).map_err(refuse)?;
        let listener = listener.start().map_err(|(_, error)| refuse(error))?;
        match open(&hidden, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok((hidden, Self { listener, file, line })),
            Err(errno) => {
                // Closing removes the file too.
                listener.close();
                Err(fail(errno.into()))
            }
        }
    }

    /// Undoes [`Door::make`].
    fn discard(self, hidden: &Path) {
        self.end();
        let _ = std::fs::remove_file(hidden);
    }

    /// Closes the listener and its connections.
    fn end(self) {
        match self.line {
            Some(line) => line.end(),
            None => self.listener.close(),
        }
    }

    /// Connects a probe and sends its header.
    fn knock(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file itself, whatever is at the address by now.
        connect(&stream, &SocketAddrUnix::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?)?;
        send(&stream, &STRANGER, SendFlags::NOSIGNAL)?;
        Ok(stream)
    }
}

fn hidden_path(path: &Path) -> io::Result<PathBuf> {
    loop {
        let mut random = [0; 3];
        platform::random(&mut random)?;
        let [one, two, three] = random;
        let hidden = path.with_file_name(format!(".{one:02x}{two:02x}{three:02x}"));
        if hidden.as_os_str().len() > MAX_PATH {
            let text = "its folder's path is too long: libnng needs room for a name of seven bytes there";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match std::fs::symlink_metadata(&hidden) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(hidden),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
}
