//! A sending socket with one connection in its lifetime.
//!
//! Two properties of libnng require this. It sends a message on whatever
//! connection its socket has by then, but a request must not reach the
//! successor of the peer that it was meant for. And a PUSH socket of libnng 1.4
//! may continue to use a connection that has ended and been freed, if the end
//! coincides with a completed write (push0_pipe_ready in
//! protocol/pipeline0/push.c does not check): the socket must not be used after
//! that. So each connection has a new socket.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{ConnectionId, Options, Result};
use ekuiper_transport_ipc::platform::Flag;
use ekuiper_transport_ipc::wait::{io_error, wait_for};
use nng::{Message, Pipe, PipeEvent, Protocol, Socket};
use rustix::event::{PollFd, PollFlags};

use crate::census::Census;
use crate::dial::{self, Persistence};
use crate::ffi;
use crate::gatekeeper::Gatekeeper;
use crate::socket::{next_connection, open};

/// Maximum wait of `close` for messages that libnng has accepted and not
/// written yet.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// A socket and its only connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) socket: Socket,
    /// Readable while the connection has room for a message: libnng has written
    /// all previous ones.
    pub(crate) outgoing: OwnedFd,
    pub(crate) party: Arc<Party>,
    /// The line's own census, if it dials.
    dialling: Option<Arc<Census>>,
}

/// The state of the connection, as reported by libnng's threads.
#[derive(Debug)]
pub(crate) struct Party {
    progress: Mutex<Progress>,
    /// Set as soon as there is, or was, a connection.
    pub(crate) begun: Flag,
    /// Set as soon as the connection has ended.
    pub(crate) over: Flag,
}

#[derive(Debug)]
struct Progress {
    stage: Stage,
    /// Connections that were refused on arrival; their ends are ignored.
    refused: HashSet<Pipe>,
    /// Connections whose end was reported before their beginning: ends are
    /// reported on another thread.
    overtaken: HashSet<Pipe>,
}

/// The line's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is no connection yet.
    Waiting,
    /// A peer has connected, whose protocol has not been checked yet.
    Coming(Pipe),
    /// The line is connected.
    Up(Pipe, ConnectionId),
    /// The connection has ended, and there will be no other.
    Over,
}

/// The outcome of an attempt to send.
pub(crate) enum Sent {
    Done,
    /// The connection has no room now; the message is returned.
    NotNow(Message),
    /// There is no connection; the message is returned.
    NotUp(Message),
}

impl Line {
    /// Creates a line for a listener of the caller's, whose connections
    /// `census` counts as well. The line takes messages of up to `max_message`
    /// bytes.
    pub(crate) fn new(
        protocol: Protocol,
        max_message: u64,
        address: &Address,
        census: &Arc<Census>,
        options: &Options,
    ) -> Result<Self> {
        let fail = |source| io_error("create a socket for", address, source);
        let socket = open(protocol, max_message, address)?;
        let outgoing = ffi::outgoing(&socket).map_err(fail)?;
        let party = Arc::new(Party::new().map_err(fail)?);
        let told = party.clone();
        Gatekeeper::install(&socket, address, census, options, move |pipe, event| told.notify(pipe, event))?;
        Ok(Self { socket, outgoing, party, dialling: None })
    }

    /// Creates a line that dials until it has had a connection.
    pub(crate) fn dial(protocol: Protocol, max_message: u64, address: &Address, options: &Options) -> Result<Self> {
        let census = Arc::new(Census::new(false));
        let mut line = Self::new(protocol, max_message, address, &census, options)?;
        dial::start(&line.socket, address, &census, Persistence::Once)?;
        line.dialling = Some(census);
        Ok(line)
    }

    /// Passes a message to the connection.
    ///
    /// # Errors
    /// An error of libnng's that is unrelated to the connection.
    pub(crate) fn try_send(&self, message: Message) -> nng::Result<Sent> {
        // Under the lock: libnng frees the connection only after reporting its
        // end, which has to wait for this lock.
        let progress = self.party.lock();
        if !matches!(progress.stage, Stage::Up(..)) {
            return Ok(Sent::NotUp(message));
        }
        match self.socket.try_send(message) {
            Ok(()) => Ok(Sent::Done),
            Err((message, nng::Error::TryAgain)) => Ok(Sent::NotNow(message)),
            Err((_, error)) => Err(error),
        }
    }

    /// Waits until libnng has written all accepted messages, or the connection
    /// has ended.
    pub(crate) fn linger(&self, deadline: Instant) {
        if matches!(self.party.stage(), Stage::Up(..)) {
            let mut fds = [PollFd::new(&self.outgoing, PollFlags::IN), PollFd::new(&self.party.over, PollFlags::IN)];
            let _ = wait_for(&mut fds, Some(deadline));
        }
    }

    /// Closes the connection, or stops waiting for one.
    pub(crate) fn end(&self) {
        if let Some(census) = &self.dialling {
            census.close();
        }
        self.party.finish();
        self.socket.close();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}

impl Party {
    fn new() -> io::Result<Self> {
        let progress = Progress { stage: Stage::Waiting, refused: HashSet::new(), overtaken: HashSet::new() };
        Ok(Self { progress: Mutex::new(progress), begun: Flag::new()?, over: Flag::new()? })
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    pub(crate) fn stage(&self) -> Stage {
        self.lock().stage
    }

    fn finish(&self) {
        self.enter(&mut self.lock(), Stage::Over);
    }

    fn enter(&self, progress: &mut Progress, stage: Stage) {
        progress.stage = stage;
        if matches!(stage, Stage::Up(..) | Stage::Over) {
            self.begun.raise();
        }
        if stage == Stage::Over {
            self.over.raise();
        }
    }

    /// Handles libnng's event about a connection; called on libnng's thread.
    fn notify(&self, pipe: Pipe, event: PipeEvent) {
        let mut progress = self.lock();
        match (event, progress.stage) {
            (PipeEvent::AddPre, _) if progress.overtaken.remove(&pipe) => {}
            (PipeEvent::AddPre, Stage::Waiting) => progress.stage = Stage::Coming(pipe),
            (PipeEvent::AddPre, _) => {
                progress.refused.insert(pipe);
                ffi::close(pipe);
            }
            (PipeEvent::AddPost, Stage::Coming(coming)) if coming == pipe => {
                self.enter(&mut progress, Stage::Up(pipe, next_connection()));
            }
            // The connection's end was reported first, on another thread.
            (PipeEvent::AddPost, Stage::Waiting) => self.enter(&mut progress, Stage::Over),
            (PipeEvent::RemovePost, _) if progress.refused.remove(&pipe) => {}
            // A connection that does not speak our protocol: the next one may.
            (PipeEvent::RemovePost, Stage::Coming(coming)) if coming == pipe => progress.stage = Stage::Waiting,
            (PipeEvent::RemovePost, Stage::Up(up, _)) if up == pipe => self.enter(&mut progress, Stage::Over),
            (PipeEvent::RemovePost, Stage::Over) => {}
            (PipeEvent::RemovePost, _) => drop(progress.overtaken.insert(pipe)),
            _ => {}
        }
    }
}
