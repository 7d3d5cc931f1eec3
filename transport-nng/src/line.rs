//! A sending socket that has one connection in its life.
//!
//! Two things of libnng's ask for it. It gives a message to whatever
//! connection its socket has by then, and a request must not reach the
//! successor of the peer that it was meant for. And a PUSH socket of libnng
//! 1.4 may go on to use a connection that has ended and been freed, when the
//! end comes just as a message has been written (push0_pipe_ready in
//! protocol/pipeline0/push.c does not ask): it may not be used after that.
//! So there is a new socket for each connection.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{ConnectionId, Options, Result};
use ekuiper_transport_ipc::wait::{io_error, wait_for};
use nng::{Message, Pipe, PipeEvent, Protocol, Socket};
use rustix::event::{PollFd, PollFlags};

use crate::census::Census;
use crate::dial::{self, Persistence};
use crate::endpoint::{count, next_connection, open};
use crate::ffi;
use crate::flag::Flag;

/// For how long closing waits for messages that libnng has accepted and not
/// written yet.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// One socket, one connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) socket: Socket,
    /// Readable while the connection takes a message: libnng has written all
    /// that it was given before.
    pub(crate) outgoing: OwnedFd,
    pub(crate) party: Arc<Party>,
    /// Its own, where it dials.
    dialling: Option<Arc<Census>>,
}

/// What libnng's threads have told of the connection.
#[derive(Debug)]
pub(crate) struct Party {
    progress: Mutex<Progress>,
    /// Up as soon as there is, or was, a connection.
    pub(crate) begun: Flag,
    /// Up as soon as it has ended.
    pub(crate) over: Flag,
}

#[derive(Debug)]
struct Progress {
    stage: Stage,
    /// Told to go when they came; not of interest when they go.
    refused: HashSet<Pipe>,
    /// Gone already when they come: ends are told on another thread.
    overtaken: HashSet<Pipe>,
}

/// How far the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody has come.
    Waiting,
    /// Somebody has, whose protocol has not been looked at yet.
    Coming(Pipe),
    /// The connection.
    Up(Pipe, ConnectionId),
    /// It has ended, and there will be no other.
    Over,
}

/// What became of an attempt to send.
pub(crate) enum Sent {
    Done,
    /// The connection takes nothing now; the message is returned.
    NotNow(Message),
    /// There is no connection; the message is returned.
    NotUp(Message),
}

impl Line {
    /// A line for a listener of the caller's, whose connections `census` counts
    /// as well. It takes messages up to `max_message` bytes.
    pub(crate) fn new(
        protocol: Protocol,
        max_message: u64,
        address: &Address,
        census: &Arc<Census>,
        options: &Options,
    ) -> Result<Self> {
        let fail = |source| io_error("make a socket for", address, source);
        let socket = open(protocol, max_message, address)?;
        let outgoing = ffi::outgoing(&socket).map_err(fail)?;
        let party = Arc::new(Party::new().map_err(fail)?);
        let told = party.clone();
        count(&socket, address, census, options, move |pipe, event| told.notify(pipe, event))?;
        Ok(Self { socket, outgoing, party, dialling: None })
    }

    /// A line that dials until there was a connection.
    pub(crate) fn dial(protocol: Protocol, max_message: u64, address: &Address, options: &Options) -> Result<Self> {
        let census = Arc::new(Census::new(false));
        let mut line = Self::new(protocol, max_message, address, &census, options)?;
        dial::start(&line.socket, address, &census, Persistence::Once)?;
        line.dialling = Some(census);
        Ok(line)
    }

    /// Hands a message to the connection.
    ///
    /// # Errors
    /// libnng's, none of which has to do with the connection.
    pub(crate) fn try_send(&self, message: Message) -> nng::Result<Sent> {
        // Under the lock: what libnng knows of the connection is freed only
        // after its end was told, which has to wait for the lock.
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

    /// Waits until libnng has written all that it was given, or the connection
    /// is over.
    pub(crate) fn linger(&self, deadline: Instant) {
        if matches!(self.party.stage(), Stage::Up(..)) {
            let mut fds = [PollFd::new(&self.outgoing, PollFlags::IN), PollFd::new(&self.party.over, PollFlags::IN)];
            let _ = wait_for(&mut fds, Some(deadline));
        }
    }

    /// Ends the connection, or the waiting for one.
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
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What libnng tells of a connection, on a thread of its own.
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
            // Its end was told before, on another thread.
            (PipeEvent::AddPost, Stage::Waiting) => self.enter(&mut progress, Stage::Over),
            (PipeEvent::RemovePost, _) if progress.refused.remove(&pipe) => {}
            // Not one that speaks our protocol: the next one may.
            (PipeEvent::RemovePost, Stage::Coming(coming)) if coming == pipe => progress.stage = Stage::Waiting,
            (PipeEvent::RemovePost, Stage::Up(up, _)) if up == pipe => self.enter(&mut progress, Stage::Over),
            (PipeEvent::RemovePost, Stage::Over) => {}
            (PipeEvent::RemovePost, _) => drop(progress.overtaken.insert(pipe)),
            _ => {}
        }
    }
}
