//! Listening, without touching other people's files, and for as long as the
//! socket is open.
//!
//! libnng removes whatever is at the path that it is given: before binding
//! when nobody listens there, even a regular file, and again when it closes,
//! even if it is another's by then. It is therefore given a name that is
//! nobody's, and the socket is moved to its address when it listens. With
//! that, whoever finds it there can connect, and at libnng's own path there is
//! never anything to remove.
//!
//! A listener of libnng 1.4 is stuck once somebody has connected and was gone
//! before libnng's first word (nanomsg/nng#1518, mended in 1.6): it accepts
//! nobody any more, and tells nobody. Ending it is the only way to send away
//! those who wait behind it, and ends its connections as well. So there is a
//! new listener, a door, whenever somebody has come in, and whenever `watch`
//! finds the present one stuck.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::address::{Address, MAX_PATH};
use ekuiper_core::transport::{Result, TransportError};
use ekuiper_transport_ipc::socket_file::SocketFile;
use ekuiper_transport_ipc::wait::{Closing, io_error, wait_for};
use nng::options::Options as _;
use nng::options::transport::ipc::Permissions;
use nng::{Listener, ListenerBuilder, Socket};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, open, renameat_with};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use crate::census::Census;
use crate::endpoint::{nng_error, url};
use crate::line::Line;
use crate::outlets::Outlets;
use crate::watch;

/// The header of a protocol (PAIR) that no socket of ours talks to.
const STRANGER: [u8; 8] = *b"\0SP\0\0\x10\0\0";

/// How long a listener may take to let somebody in before another one takes
/// its place. It rests for 100 ms after each peer that broke the protocol.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a former one may take before its connections are ended.
const LONG_PATIENCE: Duration = Duration::from_secs(5);

/// For how long a former one is kept in any case: whoever has found it has
/// come in by then, or has not said its first word for 10 s.
const RETIREMENT: Duration = Duration::from_secs(12);

/// How many former ones there may be; each has a descriptor.
const MAX_RETIRED: usize = 16;

/// Where the sockets come from that listen.
#[derive(Debug)]
pub(crate) enum Supply {
    /// One for all connections.
    Socket(Socket),
    /// One for each.
    Lines(Arc<Outlets>),
}

/// A listening socket, until it is closed.
#[derive(Debug)]
pub(crate) struct Listening {
    address: Address,
    supply: Supply,
    census: Arc<Census>,
    /// Ends the waits for what libnng does.
    closing: Arc<Closing>,
    /// Absent once closed.
    place: Mutex<Option<Place>>,
}

#[derive(Debug)]
struct Place {
    file: SocketFile,
    /// Who listens there.
    door: Door,
    /// Former ones: they may have connections.
    retired: Vec<Retired>,
    /// How many connections there had been when this door was put in.
    accepted: u64,
}

/// A listener of libnng's, and its socket file whatever it is called.
#[derive(Debug)]
struct Door {
    listener: Listener,
    file: OwnedFd,
    /// Where the door's connection is all that its socket has.
    line: Option<Arc<Line>>,
}

#[derive(Debug)]
struct Retired {
    listener: Listener,
    since: Instant,
    /// Who has knocked and not been let in: to hang up could get the listener
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
            match move_to(&hidden, address.path()) {
                Ok(()) => Ok(door),
                Err(error) => {
                    door.discard(&hidden);
                    Err(match error.kind() {
                        // It has come since the folder was looked at.
                        io::ErrorKind::AlreadyExists => TransportError::AddressInUse(address.clone()),
                        _ => io_error("listen on", address, error),
                    })
                }
            }
        })?;
        let place = Place { file, door, retired: Vec::new(), accepted: 0 };
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

    fn lock(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the file. The socket may be closed after this, not before: the
    /// listeners are not touched any more.
    pub(crate) fn close(&self) {
        drop(self.lock().take());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closing.check().is_err()
    }

    /// Puts in another door if somebody has come through this one: a door that
    /// has connections could not be closed without harm should it get stuck.
    pub(crate) fn renew(&self) -> Result<()> {
        let mut place = self.lock();
        let Some(place) = place.as_mut() else { return Ok(()) };
        let accepted = self.census.accepted();
        if accepted == place.accepted || place.retired.len() >= MAX_RETIRED {
            return Ok(());
        }
        let Some(former) = self.replace(place)? else { return Ok(()) };
        place.accepted = accepted;
        // Nobody finds it any more. Whoever has, was let in before a stranger
        // who comes now, or never will be.
        match self.lets_in(&former, LONG_PATIENCE) {
            Ok(()) => place.retire(former, None),
            Err(_stranger) => former.end(),
        }
        Ok(())
    }

    /// Puts in another door if this one is stuck, and ends the former ones
    /// that have no connections.
    pub(crate) fn inspect(&self) -> Result<()> {
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
        if let Err(stranger) = self.lets_in(&place.door, PATIENCE)
            && let Some(former) = self.replace(place)?
        {
            tracing::debug!(address = %self.address, "libnng accepts nobody here any more, it listens anew");
            if self.census.has_connections_of(former.listener) {
                place.retire(former, Some(stranger));
            } else {
                // Whoever waits behind it in vain dials again.
                former.end();
            }
        }
        Ok(())
    }

    /// Puts in another door; returns the former one. `None` when the file is
    /// not ours any more.
    fn replace(&self, place: &mut Place) -> Result<Option<Door>> {
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

    /// Knocks as a stranger, who is let in and sent away at once, unless the
    /// door is stuck: then he waits for the second, and is returned. `Ok` when
    /// that cannot be found out, or the socket is being closed.
    fn lets_in(&self, door: &Door, patience: Duration) -> std::result::Result<(), OwnedFd> {
        let Ok(stranger) = door.knock() else { return Ok(()) };
        let deadline = Some(Instant::now() + patience);
        loop {
            match rustix::io::read(&stranger, &mut [0; 8]) {
                // Its header.
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

impl Place {
    /// Lets a former door be until its connections have ended.
    fn retire(&mut self, door: Door, stranger: Option<OwnedFd>) {
        // A line ends with its connection.
        if door.line.is_none() {
            self.retired.push(Retired { listener: door.listener, since: Instant::now(), _stranger: stranger });
        }
    }
}

impl Door {
    /// A listener at a path in the same folder where there was nothing.
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
                // This removes the file too.
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

    /// Ends the listener and its connections.
    fn end(self) {
        match self.line {
            Some(line) => line.end(),
            None => self.listener.close(),
        }
    }

    /// Connects, and says who is there.
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
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
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

/// Renames, but never over something.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can: a second name is as good, for a moment.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        moved => Ok(moved?),
    }
}
