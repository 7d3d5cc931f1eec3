//! Which process is the engine, so that rows of no other reach a sink.
//!
//! A sink listens for its rows, and whoever can reach its socket could send
//! some. The engine is the process that listens where the plugin dials its
//! control channel: from there it has its orders, and the same process sends
//! the rows. That holds for an engine that has started the plugin, directly or
//! through a wrapper, and for one that has not, as when an author starts the
//! plugin by hand against eKuiper's plugin test server; that its parent is the
//! engine does not. It holds across pid namespaces too, where the kernel tells
//! processes there apart (Linux 6.9, and not on `nng`); elsewhere all processes
//! outside the plugin's namespace are taken for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{Admission, Options, PeerProcess};

/// The engine's process, once the control channel has reached it. In a plugin
/// of two processes they share the word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Engine(&'static AtomicU64);

/// Not known, as in fresh memory. Some transports never tell.
const UNKNOWN: u64 = 0;

/// Some process in another pid namespace: the kernel does not tell which.
const ELSEWHERE: u64 = u64::MAX;

/// Marks the number of a process in another pid namespace, which is no pid.
const FOREIGN: u64 = 1 << 63;

fn word(process: PeerProcess) -> u64 {
    match process {
        PeerProcess::Pid(pid) => u64::from(pid),
        PeerProcess::Elsewhere(Some(number)) => FOREIGN | number,
        PeerProcess::Elsewhere(None) => ELSEWHERE,
    }
}

impl Engine {
    /// One that is not known yet, in the memory of this process.
    pub(super) fn new() -> Self {
        Self(Box::leak(Box::new(AtomicU64::new(UNKNOWN))))
    }

    /// The one that another process of this plugin finds out.
    pub(super) fn shared(word: &'static AtomicU64) -> Self {
        Self(word)
    }

    /// The options of the control channel, which finds out who the engine is.
    pub(super) fn finding(self, options: &Options) -> Options {
        admitting(options, Finds(self))
    }

    /// The options of a socket that takes no other process's rows.
    pub(super) fn only(self, options: &Options) -> Options {
        admitting(options, Only(self, Throttle::new()))
    }
}

fn admitting(options: &Options, admission: impl Admission + 'static) -> Options {
    let mut options = options.clone();
    options.admission = Some(Arc::new(admission));
    options
}

#[derive(Debug)]
struct Finds(Engine);

impl Admission for Finds {
    fn admits(&self, process: PeerProcess) -> bool {
        self.0.0.store(word(process), Ordering::Release);
        true
    }
}

#[derive(Debug)]
struct Only(Engine, Throttle);

impl Admission for Only {
    fn admits(&self, process: PeerProcess) -> bool {
        let engine = self.0.0.load(Ordering::Acquire);
        let admitted = [UNKNOWN, word(process)].contains(&engine) || process == PeerProcess::Pid(std::process::id());
        if !admitted && let Some(others) = self.1.pass(Instant::now()) {
            tracing::warn!(?process, others, "a connection was closed: the process at its other end is not the engine");
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PeerProcess::{Elsewhere, Pid};

    #[test]
    fn only_the_process_at_the_control_channel_is_the_engine() {
        let engine = Engine::new();
        let only = engine.only(&Options::default()).admission.unwrap();
        let finds = engine.finding(&Options::default()).admission.unwrap();
        let all = [Pid(7), Pid(8), Elsewhere(None), Elsewhere(Some(7)), Elsewhere(Some(8))];
        assert!(all.iter().all(|process| only.admits(*process)), "before anything is known");
        // The engine is started again and again.
        for found in all {
            assert!(finds.admits(found));
            for other in all {
                assert_eq!(only.admits(other), other == found, "{found:?} {other:?}");
            }
            assert!(only.admits(Pid(std::process::id())));
        }
    }
}
