//! The identity of the engine's process, so that a sink accepts rows from no
//! other process.
//!
//! A sink listens for its rows, and any process that can reach its socket could
//! send some. The engine is the process that listens on the plugin's control
//! channel: the same process sends commands and rows. This holds for an engine
//! that has started the plugin, directly or through a wrapper, and for one that
//! has not, as when an author starts the plugin by hand against eKuiper's plugin
//! test server; the plugin's parent, in contrast, need not be the engine. It
//! also holds across pid namespaces if the kernel distinguishes processes there
//! (Linux 6.9, and not on `nng`); otherwise all processes outside the plugin's
//! namespace count as one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{Admission, Options, PeerProcess};

/// The engine's process, known once the control channel has connected. The two
/// processes of a supervised plugin share the word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Engine(&'static AtomicU64);

/// The engine is unknown, as in zeroed memory. Some transports never report it.
const UNKNOWN: u64 = 0;

/// A process in another pid namespace that the kernel does not identify.
const ELSEWHERE: u64 = u64::MAX;

/// The flag of a process in another pid namespace, whose number is not a pid.
const FOREIGN: u64 = 1 << 63;

fn word(process: PeerProcess) -> u64 {
    match process {
        PeerProcess::Pid(pid) => u64::from(pid),
        PeerProcess::Elsewhere(Some(number)) => FOREIGN | number,
        PeerProcess::Elsewhere(None) => ELSEWHERE,
    }
}

impl Engine {
    /// Creates an unknown engine in the memory of this process.
    pub(super) fn new() -> Self {
        Self(Box::leak(Box::new(AtomicU64::new(UNKNOWN))))
    }

    /// Creates an engine in memory shared with the other process of this
    /// plugin.
    pub(super) fn shared(word: &'static AtomicU64) -> Self {
        Self(word)
    }

    /// The options of the control channel, which identify the engine.
    pub(super) fn finding(self, options: &Options) -> Options {
        admitting(options, FindEngine(self))
    }

    /// The options of a socket that admits the engine only.
    pub(super) fn only(self, options: &Options) -> Options {
        admitting(options, AdmitEngine(self, Throttle::new()))
    }
}

fn admitting(options: &Options, admission: impl Admission + 'static) -> Options {
    let mut options = options.clone();
    options.admission = Some(Arc::new(admission));
    options
}

#[derive(Debug)]
struct FindEngine(Engine);

impl Admission for FindEngine {
    fn admits(&self, process: PeerProcess) -> bool {
        self.0.0.store(word(process), Ordering::Release);
        true
    }
}

#[derive(Debug)]
struct AdmitEngine(Engine, Throttle);

impl Admission for AdmitEngine {
    fn admits(&self, process: PeerProcess) -> bool {
        let engine = self.0.0.load(Ordering::Acquire);
        let admitted = [UNKNOWN, word(process)].contains(&engine) || process == PeerProcess::Pid(std::process::id());
        if !admitted && let Some(others) = self.1.pass(Instant::now()) {
            tracing::warn!(?process, others, "refused a connection: the connecting process is not the engine");
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
