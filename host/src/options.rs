//! Settings of a host, with eKuiper's names and defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ekuiper_core::codec::Format;
use ekuiper_core::restart::RestartPolicy;
use ekuiper_core::transport;

use crate::plugin_log::PluginLog;
use crate::plugin_options::PluginOptions;
use crate::source::backlog::Bounds;

/// A host's settings.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Folder of all sockets. `None`: a private folder of the host, and `/tmp`
    /// for plugins that support no other.
    pub(crate) ipc_dir: Option<PathBuf>,
    /// Interpreter of Python plugins. `None`: `python`, or `python3` where there
    /// is no `python`.
    pub(crate) python_bin: Option<String>,
    /// Maximum time from a plugin's start to its handshake, and for the start of
    /// a symbol.
    pub(crate) init_timeout: Duration,
    /// Maximum time until a plugin accepts a message.
    pub(crate) send_timeout: Duration,
    /// Maximum time until a plugin answers a call or a `stop`, or acknowledges a
    /// message.
    pub(crate) recv_timeout: Duration,
    /// When a crashed plugin is restarted.
    pub(crate) restart: RestartPolicy,
    /// Time from SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// Log level of plugins that read it from their launch options.
    pub(crate) log_level: Option<String>,
    /// Settings of single plugins, by name.
    pub(crate) plugin_options: BTreeMap<String, PluginOptions>,
    /// Where the lines of plugins go.
    pub(crate) plugin_log: PluginLog,
    pub(crate) max_message: usize,
    /// Format of messages to and from plugins that support more than JSON.
    pub(crate) format: Format,
    /// Maximum number of unacknowledged messages to a sink.
    pub(crate) ack_window: u64,
    /// Maximum size of the calls that wait to be sent, in bytes.
    pub(crate) call_queue: usize,
    /// Maximum time to drain a sink; `drain_stall`: without progress.
    pub(crate) drain_timeout: Duration,
    pub(crate) drain_stall: Duration,
    /// Maximum pause of a plugin in the middle of a message.
    pub(crate) stall_timeout: Duration,
    /// Maximum time to busy-poll before blocking.
    pub(crate) spin: Duration,
    /// Maximum number of events queued for a subscriber that does not read.
    pub(crate) event_queue: usize,
    /// How much is queued of a source that cannot block until it is read.
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
            plugin_options: BTreeMap::new(),
            plugin_log: PluginLog::default(),
            max_message: transport::Options::default().max_message,
            format: Format::MessagePack,
            ack_window: 1024,
            call_queue: 64 << 20,
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
