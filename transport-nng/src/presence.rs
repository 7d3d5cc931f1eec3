//! Whether a sending socket has peers.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use nng::{Pipe, PipeEvent};

use crate::flag::Flag;

/// Told by libnng's threads, waited for by whoever sends.
#[derive(Debug)]
pub(crate) struct Presence {
    peers: Mutex<Peers>,
    /// Up while there is a peer.
    pub(crate) some: Flag,
    /// Up while there is none.
    pub(crate) none: Flag,
}

#[derive(Debug, Default)]
struct Peers {
    /// All that libnng has told of and not withdrawn.
    known: HashSet<Pipe>,
    /// Those that speak our protocol.
    ready: HashSet<Pipe>,
}

impl Presence {
    pub(crate) fn new() -> io::Result<Self> {
        let presence = Self { peers: Mutex::default(), some: Flag::new()?, none: Flag::new()? };
        presence.none.raise();
        Ok(presence)
    }

    /// What libnng tells of a connection, on a thread of its own.
    pub(crate) fn notify(&self, pipe: Pipe, event: PipeEvent) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let had_some = !peers.ready.is_empty();
        match event {
            PipeEvent::AddPre => {
                peers.known.insert(pipe);
            }
            // Else it is gone already: its end is told on another thread.
            PipeEvent::AddPost if peers.known.contains(&pipe) => {
                peers.ready.insert(pipe);
            }
            PipeEvent::RemovePost => {
                peers.known.remove(&pipe);
                peers.ready.remove(&pipe);
            }
            _ => {}
        }
        match (had_some, !peers.ready.is_empty()) {
            (false, true) => {
                self.none.lower();
                self.some.raise();
            }
            (true, false) => {
                self.some.lower();
                self.none.raise();
            }
            _ => {}
        }
    }
}
