//! Which of libnng's connections a socket takes: by the process at the other
//! end, and by how many there are.
//!
//! libnng tells of a connection once both headers have been exchanged, before
//! its protocol is started. One that is closed then is never part of the
//! socket, and nobody else here learns of it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ekuiper_core::transport::{Options, PeerProcess};
use nng::options::Options as _;
use nng::options::transport::ipc::PeerPid;
use nng::{Pipe, PipeEvent};

use crate::census::Census;
use crate::ffi;

/// Stands between libnng's threads and those who keep account of connections.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    options: Options,
    census: Arc<Census>,
    /// Those that were sent away, until libnng has freed them.
    refused: Mutex<HashSet<Pipe>>,
}

impl Gatekeeper {
    pub(crate) fn new(options: &Options, census: &Arc<Census>) -> Self {
        Self { options: options.clone(), census: census.clone(), refused: Mutex::default() }
    }

    /// Whether others are to be told of this event.
    pub(crate) fn lets_through(&self, pipe: Pipe, event: PipeEvent) -> bool {
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
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admits(&self, pipe: Pipe) -> bool {
        if self.census.is_full(self.options.max_connections) {
            tracing::debug!(?pipe, "connection closed: there are too many");
            return false;
        }
        let Some(admission) = &self.options.admission else { return true };
        // libnng asks the kernel for it now (posix_ipcconn.c, ipc_peerid).
        let process = pipe.get_opt::<PeerPid>().ok().and_then(|pid| u32::try_from(pid).ok());
        let process = process.filter(|pid| *pid != 0);
        // libnng shows no descriptor to ask for more.
        admission.admits(process.map_or(PeerProcess::Elsewhere(None), PeerProcess::Pid))
    }
}
