//! The sockets on which sinks listen: waiting for an address that another
//! process still uses, and releasing all addresses at shutdown.
//!
//! An engine that updates a plugin, or that is killed and restarted, starts the
//! next process while this one still collects messages that its sinks were sent.
//! The next process has the same rules, hence the same addresses, and an engine
//! does not retry a start that was refused. Therefore this process stops
//! listening as soon as it shuts down, but continues to read; and the next
//! process waits for an address in use longer than any plugin takes to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Pull, TransportError};
use ekuiper_transport_ipc::platform::process_name;
use ekuiper_transport_ipc::process;
use ekuiper_transport_ipc::wait::{deadline_after, wait_for};
use rustix::event::{PollFd, PollFlags};

use super::built_in::DataSocket;
use crate::{Error, Result};

/// The pause after the first attempt; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The share of the start timeout spent waiting for an address; the rest is for
/// the remaining steps, so that the engine gets an answer with the reason.
const SHARE: f64 = 0.8;

/// The maximum wait for the greeting of a listener whose process is looked up.
const GREETING: Duration = Duration::from_secs(1);

/// The listening sockets of this process's sinks.
#[derive(Clone)]
pub(super) struct Listening {
    state: Arc<Mutex<ListeningState>>,
    /// The maximum wait for an address in use.
    patience: Duration,
}

#[derive(Default)]
struct ListeningState {
    open: Vec<Weak<dyn Pull>>,
    /// Whether new sockets stop listening immediately.
    is_over: bool,
}

impl Listening {
    /// Creates an empty set, for symbols with this start timeout.
    pub(super) fn new(start_timeout: Duration) -> Self {
        Self { state: Arc::default(), patience: start_timeout.mul_f64(SHARE) }
    }

    fn lock(&self) -> MutexGuard<'_, ListeningState> {
        lock(&self.state)
    }

    /// Listens at `address` by `listen`, once no other process does.
    /// `abandoned` ends that wait.
    ///
    /// # Errors
    /// The other process does not release the address in time, the plugin shuts
    /// down, or the start was abandoned. Other errors are the transport's.
    pub(super) fn listen(
        &self,
        address: &Address,
        abandoned: &AtomicBool,
        listen: impl Fn() -> Result<DataSocket, TransportError>,
    ) -> Result<DataSocket> {
        let (end, mut pause) = (deadline_after(self.patience), FIRST_PAUSE);
        loop {
            let in_use = match listen() {
                Ok(socket) => {
                    self.add(&socket.0);
                    return Ok(socket);
                }
                Err(TransportError::AddressInUse(in_use)) => in_use,
                Err(source) => {
                    return Err(Error::Transport { what: format!("data channel {address} failed"), source }.into());
                }
            };
            if abandoned.load(Ordering::Acquire) || self.is_over() {
                return Err(format!(
                    "data channel {in_use} is in use by a live process, and the plugin is shutting down"
                )
                .into());
            }
            if Instant::now() >= end {
                return Err(format!(
                    "data channel {in_use} is in use by {}, which has not released it within {:?}: stop it, or choose \
                     another socket folder or another name for the rule",
                    holder(address),
                    self.patience
                )
                .into());
            }
            tracing::debug!(%address, "waiting for another process to release the address");
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn add(&self, pull: &Arc<dyn Pull>) {
        let mut state = self.lock();
        state.open.retain(|open| open.strong_count() > 0);
        state.open.push(Arc::downgrade(pull));
        if state.is_over {
            pull.stop_listening();
        }
    }

    /// Whether the plugin is shutting down.
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Stops listening on all addresses; established connections stay open.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.is_over = true;
        let open = std::mem::take(&mut state.open);
        drop(state);
        open.iter().filter_map(Weak::upgrade).for_each(|pull| pull.stop_listening());
    }
}

/// A description of the process that listens at an address.
fn holder(address: &Address) -> String {
    let connected = ekuiper_transport_ipc::connect(address).ok().and_then(|socket| {
        // A libnng before 1.6 stops accepting when a connection closes before
        // the listener's greeting (nanomsg/nng#1518).
        let _ = wait_for(&mut [PollFd::new(&socket, PollFlags::IN)], Some(deadline_after(GREETING)));
        process::peer(&socket).ok().flatten()
    });
    let Some(pid) = connected else { return "a live process".into() };
    format!("process {pid} ({})", process_name(pid))
}
