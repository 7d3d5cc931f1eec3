//! Admission of libnng's connections: by the process at the other end, and by
//! the number of connections.
//!
//! libnng reports a connection once both headers have been exchanged, before
//! its protocol is started. A connection that is closed then never becomes part
//! of the socket, and is not reported further.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use ekuiper_core::address::Address;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Options, PeerProcess, Result};
use nng::options::Options as _;
use nng::options::transport::ipc::PeerPid;
use nng::{Pipe, PipeEvent, Socket};

use crate::census::Census;
use crate::ffi;
use crate::socket::nng_error;

/// The filter between libnng's threads and the users of connection events.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    options: Options,
    census: Arc<Census>,
    /// Refused connections, until libnng has freed them.
    refused: Mutex<HashSet<Pipe>>,
}

impl Gatekeeper {
    /// Makes libnng report to `census` and `notify` the connections of `socket`
    /// that `options` admit.
    pub(crate) fn install(
        socket: &Socket,
        address: &Address,
        census: &Arc<Census>,
        options: &Options,
        notify: impl Fn(Pipe, PipeEvent) + Send + Sync + 'static,
    ) -> Result<()> {
        let counted = census.clone();
        let gatekeeper = Self { options: options.clone(), census: census.clone(), refused: Mutex::default() };
        let told = socket.pipe_notify(move |pipe, event| {
            if !gatekeeper.lets_through(pipe, event) {
                return;
            }
            if !counted.listens() {
                notify(pipe, event);
                return counted.notify(pipe, event);
            }
            // Counted before the user is told: an event tells how much room is
            // left.
            counted.notify(pipe, event);
            if event == PipeEvent::AddPost {
                gatekeeper.keep_the_limit(pipe);
            }
            notify(pipe, event);
        });
        told.map_err(|error| nng_error("create a socket for", address, error))
    }

    /// Whether the event should be passed on.
    fn lets_through(&self, pipe: Pipe, event: PipeEvent) -> bool {
        match event {
            PipeEvent::AddPre if !self.admits(pipe) => {
                self.refused().insert(pipe);
                ffi::close(pipe);
                false
            }
            PipeEvent::RemovePost => !self.refused().remove(&pipe),
            _ => true,
        }
    }

    fn refused(&self) -> MutexGuard<'_, HashSet<Pipe>> {
        lock(&self.refused)
    }

    /// Closes a connection that was accepted at the same moment as the last one
    /// that there was room for.
    fn keep_the_limit(&self, pipe: Pipe) {
        if self.census.joined() > self.options.max_connections {
            tracing::debug!(?pipe, "connection closed: too many connections");
            ffi::close(pipe);
        }
    }

    fn admits(&self, pipe: Pipe) -> bool {
        if self.census.listens() && self.census.joined() >= self.options.max_connections {
            tracing::debug!(?pipe, "connection closed: too many connections");
            return false;
        }
        let Some(admission) = &self.options.admission else { return true };
        admission.admits(peer_process(pipe))
    }
}

/// The process at the other end of a connection.
pub(crate) fn peer_process(pipe: Pipe) -> PeerProcess {
    // libnng queries the kernel for this now (posix_ipcconn.c, ipc_peerid).
    let process = pipe.get_opt::<PeerPid>().ok().and_then(|pid| u32::try_from(pid).ok());
    // libnng exposes no descriptor for further queries.
    process.filter(|pid| *pid != 0).map_or(PeerProcess::Elsewhere(None), PeerProcess::Pid)
}
