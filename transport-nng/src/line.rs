//! A socket that has one connection in its life.
//!
//! libnng gives a message to whatever connection its socket has by then. A
//! request must not reach the successor of the peer that it was meant for, so
//! a requester takes a new socket for each connection, and a socket refuses a
//! second one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{ConnectionId, Result};
use ekuiper_transport_uds::wait::{io_error, wait_for};
use nng::{Message, Pipe, PipeEvent, Protocol, Socket};
use rustix::event::{PollFd, PollFlags};

use crate::census::Census;
use crate::descriptor;
use crate::dial::{self, Persistence};
use crate::endpoint::{count, next_connection, open};
use crate::flag::Flag;
use crate::push::LINGER;

/// One socket, one connection.
#[derive(Debug)]
pub(crate) struct Line {
    socket: Socket,
    /// Readable while there is a message to receive.
    pub(crate) incoming: OwnedFd,
    /// Readable while the connection takes a message: libnng has written all
    /// that it was given before.
    pub(crate) outgoing: OwnedFd,
    pub(crate) party: Arc<Party>,
    census: Arc<Census>,
}

/// What libnng's threads have told of the connection.
#[derive(Debug)]
pub(crate) struct Party {
    stage: Mutex<Stage>,
    /// Up as soon as there is, or was, a connection.
    pub(crate) begun: Flag,
    /// Up as soon as it has ended.
    pub(crate) over: Flag,
}

/// How far the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody has come.
    Dialling,
    /// Somebody has, whose protocol has not been looked at yet.
    Coming(Pipe),
    /// The connection.
    Up(Pipe, ConnectionId),
    /// It has ended, and there will be no other.
    Over,
}

impl Line {
    /// A line that dials `address` and takes replies up to `max_message`
    /// bytes.
    pub(crate) fn open(address: &Address, max_message: u64) -> Result<Self> {
        let fail = |source| io_error("make a socket for", address, source);
        // A reply is its body and four bytes of id.
        let socket = open(Protocol::Req0, max_message + 4, address)?;
        let incoming = descriptor::incoming(&socket).map_err(fail)?;
        let outgoing = descriptor::outgoing(&socket).map_err(fail)?;
        let party = Arc::new(Party::new().map_err(fail)?);
        let told = party.clone();
        let census = count(&socket, address, move |pipe, event| told.notify(pipe, event))?;
        dial::start(&socket, address, &census, Persistence::Once)?;
        Ok(Self { socket, incoming, outgoing, party, census })
    }

    /// Hands a message to the connection, if it takes one now.
    pub(crate) fn try_send(&self, message: Message) -> std::result::Result<(), (Message, nng::Error)> {
        self.socket.try_send(message)
    }

    /// The next reply, its id in front of its body; `None` when there is none
    /// now.
    pub(crate) fn try_receive(&self) -> nng::Result<Option<Message>> {
        loop {
            let mut message = match self.socket.try_recv() {
                Ok(message) => message,
                Err(nng::Error::TryAgain) => return Ok(None),
                Err(error) => return Err(error),
            };
            // Whoever puts devices' words before our id answers no request of
            // ours.
            if let Ok(id) = <[u8; 4]>::try_from(message.as_header().as_slice()) {
                message.push_front(&id);
                return Ok(Some(message));
            }
        }
    }

    /// Ends the connection; what libnng has accepted may leave before.
    pub(crate) fn close(&self) {
        if matches!(self.party.stage(), Stage::Up(..)) {
            let mut fds = [PollFd::new(&self.outgoing, PollFlags::IN), PollFd::new(&self.party.over, PollFlags::IN)];
            let _ = wait_for(&mut fds, Some(Instant::now() + LINGER));
        }
        self.end();
    }

    fn end(&self) {
        self.census.close();
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
        Ok(Self { stage: Mutex::new(Stage::Dialling), begun: Flag::new()?, over: Flag::new()? })
    }

    pub(crate) fn stage(&self) -> Stage {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What libnng tells of a connection, on a thread of its own.
    fn notify(&self, pipe: Pipe, event: PipeEvent) {
        let mut stage = self.lock();
        *stage = match (event, *stage) {
            (PipeEvent::AddPre, Stage::Dialling) => Stage::Coming(pipe),
            (PipeEvent::AddPost, Stage::Coming(coming)) if coming == pipe => Stage::Up(pipe, next_connection()),
            // Its end was told before, on another thread.
            (PipeEvent::AddPost, Stage::Dialling) => Stage::Over,
            // Not one that speaks our protocol: the next one may.
            (PipeEvent::RemovePost, Stage::Coming(coming)) if coming == pipe => Stage::Dialling,
            (PipeEvent::RemovePost, Stage::Up(up, _)) if up == pipe => Stage::Over,
            (_, same) => same,
        };
        if matches!(*stage, Stage::Up(..) | Stage::Over) {
            self.begun.raise();
        }
        if *stage == Stage::Over {
            self.over.raise();
        }
    }
}
