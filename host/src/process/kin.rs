//! The processes of a plugin, which may be at the other end of its channels;
//! every other process is a stranger, whatever it sends.
//!
//! A plugin's processes are the one that was started, its process group, and
//! its descendants: a plugin run by a wrapper (`conda run`, a shell), or one
//! that has created its own session, is admitted while every process between it
//! and the started one is alive. The host's own process is trusted too: its
//! code can do anything to it anyway. The process of an attached plugin, which
//! somebody else starts, is the first that completes its handshake.
//!
//! Not recognized: a process that has left the group and is no longer a
//! descendant (it was forked twice, and the process between has ended), and one
//! in a container started by somebody else. Neither is admitted. Nor is a
//! process that had ended, and was reaped by its parent, before its connection
//! was checked.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{Admission, PeerProcess};
use ekuiper_transport_ipc::process;

use rustix::process::Pid;

use super::Process;
use crate::Result;
use crate::sync::{lock, wait_while};

/// Maximum time for which a connecting descendant of this host waits while the
/// plugin's process is being started, whose id is known shortly after it runs.
/// Only a start that hangs takes longer.
const START_GRACE: Duration = Duration::from_secs(1);

/// The processes of one start of a plugin.
#[derive(Debug)]
pub(crate) struct Kin {
    plugin: String,
    state: Mutex<State>,
    changed: Condvar,
    strangers: Throttle,
}

#[derive(Debug, Default)]
struct State {
    /// The started processes; their groups and descendants belong to them.
    started: Vec<u32>,
    /// A process is being started.
    is_starting: bool,
    /// Somebody else starts the process, which is not known yet.
    is_unknown: bool,
    visitor: Option<Visitor>,
}

/// A process of the same plugin that is tried beside this one, and may support
/// no other address.
struct Visitor {
    kin: Arc<Kin>,
    tell: Box<dyn Fn() + Send>,
}

impl std::fmt::Debug for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Visitor").field(&self.kin.plugin).finish()
    }
}

impl Kin {
    /// Creates an empty set of processes.
    pub(crate) fn new(plugin: &str) -> Arc<Self> {
        Arc::new(Self {
            plugin: plugin.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
            strangers: Throttle::new(),
        })
    }

    /// Starts a process, which belongs to the plugin from its first moment.
    pub(crate) fn start(&self, start: impl FnOnce() -> Result<Process>) -> Result<Process> {
        lock(&self.state).is_starting = true;
        let started = start();
        if let Ok(process) = &started {
            self.let_in(process.pid());
        }
        lock(&self.state).is_starting = false;
        self.changed.notify_all();
        started
    }

    /// Admits every process until [`settle_on`](Self::settle_on): somebody else
    /// starts the plugin's.
    pub(crate) fn expect_anybody(&self) {
        lock(&self.state).is_unknown = true;
    }

    /// Makes a process, which somebody else has started, the plugin's.
    pub(crate) fn settle_on(&self, process: Pid) {
        let mut state = lock(&self.state);
        state.started.push(process.as_raw_nonzero().get().cast_unsigned());
        state.is_unknown = false;
    }

    /// Adds a process, its group and its descendants to the plugin, regardless
    /// of its parent.
    fn let_in(&self, process: u32) {
        lock(&self.state).started.push(process);
    }

    /// Removes the started processes, which have ended: their ids may be
    /// reused.
    pub(crate) fn end(&self) {
        lock(&self.state).started.clear();
    }

    /// Calls `tell` when a process of `kin` connects to this plugin's channels;
    /// the process is not admitted.
    pub(crate) fn expect_visitor(&self, kin: &Arc<Kin>, tell: impl Fn() + Send + 'static) {
        lock(&self.state).visitor = Some(Visitor { kin: kin.clone(), tell: Box::new(tell) });
    }

    pub(crate) fn expect_no_visitor(&self) {
        lock(&self.state).visitor.take();
    }

    /// Returns whether a process is one of the plugin's.
    fn includes(&self, process: u32) -> bool {
        let (started, is_starting) = {
            let state = lock(&self.state);
            if state.is_unknown {
                return true;
            }
            (state.started.clone(), state.is_starting)
        };
        if belongs(process, &started) {
            return true;
        }
        // The process being started is a descendant of this host.
        if !is_starting || !process::is_descendant(process, std::process::id()) {
            return false;
        }
        let state = wait_while(&self.changed, lock(&self.state), START_GRACE, |state| state.is_starting);
        let started = state.started.clone();
        drop(state);
        belongs(process, &started)
    }

    /// Notifies the trial that its process has connected here.
    fn is_visited(&self, process: u32) -> bool {
        let expected = lock(&self.state).visitor.as_ref().map(|visitor| visitor.kin.clone());
        if !expected.is_some_and(|kin| kin.includes(process)) {
            return false;
        }
        if let Some(visitor) = &lock(&self.state).visitor {
            (visitor.tell)();
        }
        true
    }

    fn log(&self, process: Option<u32>) {
        let Some(others) = self.strangers.pass(Instant::now()) else { return };
        match process {
            Some(pid) => {
                // The process may have been the plugin's, and is ending.
                let Ok(name) = std::fs::read(format!("/proc/{pid}/comm")) else {
                    tracing::debug!(plugin = self.plugin, pid, "a connection was closed: its process has ended");
                    return;
                };
                let name = String::from_utf8_lossy(&name);
                tracing::warn!(
                    plugin = self.plugin,
                    pid,
                    others,
                    "a connection was closed: the process at its other end ({}) is not one of the plugin's",
                    ekuiper_core::printable::one_line(name.trim_end_matches('\n')),
                );
            }
            None => tracing::warn!(
                plugin = self.plugin,
                others,
                "a connection was closed: the process at its other end is in another pid namespace, \
                 and cannot be known to be one of the plugin's",
            ),
        }
    }
}

impl Admission for Kin {
    fn admits(&self, process: PeerProcess) -> bool {
        let process = match process {
            PeerProcess::Pid(pid) => Some(pid),
            PeerProcess::Elsewhere(_) => None,
        };
        let admitted = process.is_some_and(|pid| pid == std::process::id() || self.includes(pid));
        if !admitted && !process.is_some_and(|pid| self.is_visited(pid)) {
            self.log(process);
        }
        admitted
    }
}

fn belongs(process: u32, started: &[u32]) -> bool {
    // Cheapest check first: nearly always it is the started process itself.
    started.contains(&process)
        || started.iter().any(|leader| process::is_in_group(process, *leader))
        || (!started.is_empty() && process::ancestors(process).any(|ancestor| started.contains(&ancestor)))
}
