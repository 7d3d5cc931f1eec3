//! The sockets that the sinks listen on: making one where another process still
//! listens, and letting go of their addresses when the plugin is to end.
//!
//! An engine that updates a plugin, or is itself killed and started again,
//! starts the next process while this one is still collecting what its sinks
//! had been sent. The next one has the same rules, and so the same addresses,
//! and an engine does not repeat a start that is refused. So this process stops
//! listening as soon as it is to end, and reads on; and the next one waits for
//! an address that is in use for longer than any plugin takes to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Pull, TransportError};
use ekuiper_transport_ipc::process;
use ekuiper_transport_ipc::wait::wait_for;
use rustix::event::{PollFd, PollFlags};

use crate::{Error, Result};

/// The pause after the first attempt; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Which part of a start's time an address is waited for: the rest is for all
/// else, so that the engine has an answer that names the reason.
const SHARE: f64 = 0.8;

/// How long a listener that is asked for its process may take to say its first
/// word.
const GREETING: Duration = Duration::from_secs(1);

/// All that this process listens on for its sinks.
#[derive(Clone)]
pub(super) struct Listening {
    state: Arc<Mutex<State>>,
    /// How long an address that is in use is waited for.
    patience: Duration,
}

#[derive(Default)]
struct State {
    open: Vec<Weak<dyn Pull>>,
    /// Nothing new is listened on.
    is_over: bool,
}

impl Listening {
    /// On nothing yet; a symbol's start may take this long.
    pub(super) fn new(start_timeout: Duration) -> Self {
        Self { state: Arc::default(), patience: start_timeout.mul_f64(SHARE) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens at `address` by `listen`, as soon as no other process does.
    /// `abandoned` ends the wait for that.
    ///
    /// # Errors
    /// The other process does not let go of it in time, the plugin ends, or
    /// nobody waits for the start any more. Others are the transport's.
    pub(super) fn listen(
        &self,
        address: &Address,
        abandoned: &AtomicBool,
        listen: impl Fn() -> Result<Box<dyn Pull>, TransportError>,
    ) -> Result<Arc<dyn Pull>> {
        let (end, mut pause) = (Instant::now() + self.patience, FIRST_PAUSE);
        loop {
            let in_use = match listen() {
                Ok(pull) => return Ok(self.add(Arc::from(pull))),
                Err(TransportError::AddressInUse(in_use)) => in_use,
                Err(source) => return Err(Error::Transport { what: format!("data channel {address}"), source }.into()),
            };
            if abandoned.load(Ordering::Acquire) || self.is_over() {
                return Err(format!("data channel {in_use} is in use by a live process, and the plugin ends").into());
            }
            if Instant::now() >= end {
                return Err(format!(
                    "data channel {in_use} is in use by {}, which has not let go of it within {:?}: stop it, or choose \
                     another socket folder or another name for the rule",
                    holder(address),
                    self.patience
                )
                .into());
            }
            tracing::debug!(%address, "another process still listens there, it is waited for");
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn add(&self, pull: Arc<dyn Pull>) -> Arc<dyn Pull> {
        let mut state = self.lock();
        state.open.retain(|open| open.strong_count() > 0);
        state.open.push(Arc::downgrade(&pull));
        if state.is_over {
            pull.stop_listening();
        }
        pull
    }

    /// Whether the plugin is to end.
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Lets go of all addresses; what has connected goes on.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.is_over = true;
        let open = std::mem::take(&mut state.open);
        drop(state);
        open.iter().filter_map(Weak::upgrade).for_each(|pull| pull.stop_listening());
    }
}

/// Who listens at an address, for people.
fn holder(address: &Address) -> String {
    let connected = ekuiper_transport_ipc::connect(address).ok().and_then(|socket| {
        // A libnng before 1.6 never accepts again when a connection is gone
        // before it has said its first word (nanomsg/nng#1518).
        let _ = wait_for(&mut [PollFd::new(&socket, PollFlags::IN)], Some(Instant::now() + GREETING));
        process::peer(&socket).ok().flatten()
    });
    let Some(pid) = connected else { return "a live process".into() };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", name.trim_end())
}
