//! Which connection to a listening pull socket is the symbol's. Only the
//! plugin's processes are let in (see `kin`), and they may connect twice: a
//! second connection's coming, going and words must not be taken for the
//! first one's. Where a transport cannot tell processes apart (`zeromq`),
//! neither must a stranger's.

use ekuiper_core::transport::ConnectionId;

/// The connections of one socket: the plugin's is the first that sends
/// something, as long as it lives.
#[derive(Debug, Default)]
pub(crate) struct SpeakerFilter {
    connections: Vec<ConnectionId>,
    speaker: Option<ConnectionId>,
    over: bool,
    /// What any connection says counts.
    hears_all: bool,
    /// How many events in a row were strangers'.
    strangers: usize,
}

impl SpeakerFilter {
    /// A filter for a socket at which each message stands for itself and takes
    /// nothing back: the plugin may send it on another connection than the last,
    /// before that one's end is known.
    pub(crate) fn hearing_all() -> Self {
        Self { hears_all: true, ..Self::default() }
    }

    /// Nobody is connected just now.
    pub(crate) fn has_nobody(&self) -> bool {
        self.connections.is_empty()
    }

    /// Somebody has connected.
    pub(crate) fn came(&mut self, connection: ConnectionId) {
        self.connections.push(connection);
        self.strangers += 1;
    }

    /// Somebody has sent something; whether that counts.
    pub(crate) fn said(&mut self, connection: ConnectionId) -> bool {
        let counts = self.hears_all || !self.over && *self.speaker.get_or_insert(connection) == connection;
        self.strangers = if counts { 0 } else { self.strangers.saturating_add(1) };
        counts
    }

    /// Somebody has left.
    pub(crate) fn left(&mut self, connection: ConnectionId) {
        self.connections.retain(|other| *other != connection);
        if self.hears_all {
            return;
        }
        self.over |= match self.speaker {
            Some(speaker) => speaker == connection,
            None => self.connections.is_empty(),
        };
    }

    /// Forgets how many events were strangers'.
    pub(crate) fn listen_anew(&mut self) {
        self.strangers = 0;
    }

    /// The plugin has sent nothing more so far: each connection is heard in
    /// its turn, and the others have had several. Who floods the socket does
    /// not keep anybody from going on.
    pub(crate) fn has_heard_the_plugin(&self) -> bool {
        self.strangers > 16 + 2 * self.connections.len()
    }

    /// The plugin has left: nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUGIN: ConnectionId = ConnectionId(1);
    const STRANGER: ConnectionId = ConnectionId(2);

    #[test]
    fn a_stranger_comes_and_goes_and_is_not_heard() {
        let mut peers = SpeakerFilter::default();
        peers.came(PLUGIN);
        peers.came(STRANGER);
        assert!(peers.said(PLUGIN));
        assert!(!peers.said(STRANGER));
        peers.left(STRANGER);
        assert!(!peers.is_over());
        peers.left(PLUGIN);
        assert!(peers.is_over());
    }

    #[test]
    fn one_that_may_use_any_connection_is_heard_on_each() {
        let mut peers = SpeakerFilter::hearing_all();
        // It was stopped while it connected, and connects anew.
        peers.came(PLUGIN);
        peers.left(PLUGIN);
        assert!(peers.has_nobody() && !peers.is_over());
        let (former, next) = (ConnectionId(3), ConnectionId(4));
        peers.came(former);
        assert!(peers.said(former));
        // The end of the former is told later.
        peers.came(next);
        assert!(peers.said(next));
        peers.left(former);
        assert!(peers.said(next) && !peers.is_over());
    }

    #[test]
    fn a_stranger_that_comes_first_and_is_silent_takes_no_place() {
        let mut peers = SpeakerFilter::default();
        peers.came(STRANGER);
        peers.came(PLUGIN);
        peers.left(STRANGER);
        assert!(!peers.is_over());
        assert!(peers.said(PLUGIN));
    }

    #[test]
    fn a_flooder_is_heard_for_a_few_turns() {
        let mut peers = SpeakerFilter::default();
        peers.came(PLUGIN);
        peers.came(STRANGER);
        peers.said(PLUGIN);
        (0..20).for_each(|_| assert!(!peers.said(STRANGER)));
        assert!(!peers.has_heard_the_plugin());
        peers.said(STRANGER);
        assert!(peers.has_heard_the_plugin());
        peers.said(PLUGIN);
        assert!(!peers.has_heard_the_plugin());
    }

    #[test]
    fn one_that_leaves_without_a_word_was_the_plugin_if_it_was_alone() {
        let mut peers = SpeakerFilter::default();
        peers.came(PLUGIN);
        peers.left(PLUGIN);
        assert!(peers.is_over());
        assert!(!peers.said(STRANGER));
    }
}
