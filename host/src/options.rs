//! What can be set on a host, with eKuiper's names and defaults.

use std::path::PathBuf;
use std::time::Duration;

use ekuiper_core::codec::Format;
use ekuiper_core::restart::RestartPolicy;
use ekuiper_core::transport;

use crate::source::backlog::Bounds;

/// A host's settings.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The folder of all sockets; `None`: one of the host's own, and `/tmp`
    /// for plugins that know no other.
    pub(crate) ipc_dir: Option<PathBuf>,
    /// The interpreter; `None`: `python`, or `python3` where there is none.
    pub(crate) python_bin: Option<String>,
    /// From start to handshake, and for the start of a symbol.
    pub(crate) init_timeout: Duration,
    /// Until a plugin takes a message.
    pub(crate) send_timeout: Duration,
    /// Until a plugin answers a call, a `stop`, or acknowledges.
    pub(crate) recv_timeout: Duration,
    /// What becomes of a plugin that has crashed.
    pub(crate) restart: RestartPolicy,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// What plugins that take it from their launch options log.
    pub(crate) log_level: Option<String>,
    pub(crate) max_message: usize,
    /// How messages are written to and by plugins that know more than JSON.
    pub(crate) format: Format,
    /// How many messages to a sink may have no acknowledgement yet.
    pub(crate) ack_window: u64,
    /// For how long a sink is drained at most, and for how long without
    /// progress.
    pub(crate) drain_timeout: Duration,
    pub(crate) drain_stall: Duration,
    /// For how long a plugin may pause in the middle of a message.
    pub(crate) stall_timeout: Duration,
    /// For how long a wait looks for what comes before it sleeps.
    pub(crate) spin: Duration,
    /// How many events wait for a subscriber that does not read.
    pub(crate) event_queue: usize,
    /// How much is kept of a source that cannot wait for its reader.
    pub(crate) source_queue: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ipc_dir: None,
            python_bin: None,
            init_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(5),
            recv_timeout: Duration::from_secs(5),
            restart: RestartPolicy::default(),
            grace: Duration::from_secs(3),
            log_level: None,
            max_message: transport::Options::default().max_message,
            format: Format::MessagePack,
            ack_window: 1024,
            drain_timeout: Duration::from_secs(600),
            drain_stall: Duration::from_secs(10),
            stall_timeout: transport::Options::default().stall_timeout,
            spin: transport::Options::default().spin,
            event_queue: 1024,
            source_queue: Bounds { messages: 10_000, bytes: 64 << 20 },
        }
    }
}

impl Options {
    pub(crate) fn transport(&self) -> transport::Options {
        let mut options = transport::Options::default();
        options.max_message = self.max_message;
        options.stall_timeout = self.stall_timeout;
        options.spin = self.spin;
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_transport_reaches_it() {
        let options = Options {
            max_message: 7,
            stall_timeout: Duration::from_secs(8),
            spin: Duration::ZERO,
            ..Options::default()
        };
        let transport = options.transport();
        let told = (transport.max_message, transport.stall_timeout, transport.spin);
        assert_eq!(told, (7, Duration::from_secs(8), Duration::ZERO));
    }
}
