//! The plugin's end of a channel: what to send next, and on which connection.

use crate::transport::ConnectionId;

/// The plugin's end of one control or function channel.
///
/// A plugin sends one handshake per connection, never while idle (fault 1). An
/// answer goes to the connection that its command came from, or nowhere (fault
/// 4).
#[derive(Debug, Default)]
pub struct PluginEnd {
    state: PluginEndState,
}

#[derive(Clone, Copy, Debug, Default)]
enum PluginEndState {
    #[default]
    Unconnected,
    Greeting(ConnectionId),
    Listening,
    Working(ConnectionId),
}

/// The plugin's next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for a connection, then call [`PluginEnd::connected`].
    Connect,
    /// Send the handshake on this connection, then call [`PluginEnd::sent`].
    Greet(ConnectionId),
    /// Wait for a command, then call [`PluginEnd::received`].
    Receive,
    /// Execute the command, send the answer on this connection, then call
    /// [`PluginEnd::sent`].
    Answer(ConnectionId),
}

impl PluginEnd {
    /// Creates an end without a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the next action.
    pub fn step(&self) -> Step {
        match self.state {
            PluginEndState::Unconnected => Step::Connect,
            PluginEndState::Greeting(connection) => Step::Greet(connection),
            PluginEndState::Listening => Step::Receive,
            PluginEndState::Working(connection) => Step::Answer(connection),
        }
    }

    /// Records a new connection.
    pub fn connected(&mut self, connection: ConnectionId) {
        self.state = PluginEndState::Greeting(connection);
    }

    /// Records that the handshake or the answer was sent.
    pub fn sent(&mut self) {
        self.state = PluginEndState::Listening;
    }

    /// Records that a command arrived on this connection.
    pub fn received(&mut self, connection: ConnectionId) {
        self.state = PluginEndState::Working(connection);
    }

    /// Records that the connection ended; the answer that was meant for it is
    /// dropped.
    pub fn disconnected(&mut self) {
        self.state = PluginEndState::Unconnected;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_begins_with_a_handshake() {
        let mut end = PluginEnd::new();
        for connection in [ConnectionId(1), ConnectionId(2)] {
            assert_eq!(end.step(), Step::Connect);
            end.connected(connection);
            assert_eq!(end.step(), Step::Greet(connection));
            end.sent();
            assert_eq!(end.step(), Step::Receive);
            end.received(connection);
            assert_eq!(end.step(), Step::Answer(connection));
            end.disconnected();
        }
        assert_eq!(end.step(), Step::Connect, "an answer never reaches another connection");
    }
}
