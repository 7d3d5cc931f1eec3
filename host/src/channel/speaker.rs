//! Filter for the connection of a pull socket that belongs to the symbol. Only
//! the plugin's processes are admitted (see `kin`), and they may connect twice:
//! the events and messages of a second connection must not be taken for the
//! first one's. Where a transport cannot identify processes (`zeromq`), neither
//! must a stranger's.

use ekuiper_core::transport::ConnectionId;

/// The connections of one socket. The plugin's is the first that sends
/// something, as long as it is connected.
#[derive(Debug, Default)]
pub(crate) struct SpeakerFilter {
    connections: Vec<ConnectionId>,
    speaker: Option<ConnectionId>,
    over: bool,
    /// Messages of every connection count.
    hears_all: bool,
    /// Number of consecutive events of strangers.
    strangers: usize,
}

impl SpeakerFilter {
    /// Creates a filter for a socket where each message stands for itself and
    /// takes nothing back: the plugin may send it on another connection than the
    /// last, before that one's disconnect is known.
    pub(crate) fn hearing_all() -> Self {
        Self { hears_all: true, ..Self::default() }
    }

    /// Returns whether nothing is connected at this moment.
    pub(crate) fn has_nobody(&self) -> bool {
        self.connections.is_empty()
    }

    /// Forgets who has spoken and left so far; who is connected may speak.
    pub(crate) fn begin(&mut self) {
        (self.speaker, self.over) = (None, false);
    }

    /// Adds a connection.
    pub(crate) fn came(&mut self, connection: ConnectionId) {
        self.connections.push(connection);
        self.strangers += 1;
    }

    /// Notes a message; returns whether it counts.
    pub(crate) fn said(&mut self, connection: ConnectionId) -> bool {
        let counts = self.hears_all || !self.over && *self.speaker.get_or_insert(connection) == connection;
        self.strangers = if counts { 0 } else { self.strangers.saturating_add(1) };
        counts
    }

    /// Removes a connection.
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

    /// Resets the count of strangers' events.
    pub(crate) fn reset_strangers(&mut self) {
        self.strangers = 0;
    }

    /// Returns whether there is nothing of the plugin to read: connections are
    /// read in turn, and the others have had several turns since its last event.
    /// Thus a flood of strangers does not keep a caller beyond its deadline.
    pub(crate) fn is_plugin_silent(&self) -> bool {
        self.strangers > 16 + 2 * self.connections.len()
    }

    /// Returns whether the plugin has disconnected: nothing more will arrive.
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
        assert!(!peers.is_plugin_silent());
        peers.said(STRANGER);
        assert!(peers.is_plugin_silent());
        peers.said(PLUGIN);
        assert!(!peers.is_plugin_silent());
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
