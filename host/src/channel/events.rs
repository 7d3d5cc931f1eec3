//! Events of a channel: their sender, and their meaning.

use std::sync::atomic::Ordering;
use std::time::Instant;

use ekuiper_core::exchange::{Arrival, Departure};
use ekuiper_core::message::Hello;
use ekuiper_core::transport::{ConnectionId, ReplyEvent, Ticket, TransportError};

use super::{Channel, Failure, State};

/// Maximum length of a stranger's first bytes in an error.
const QUOTED: usize = 80;

impl Channel {
    /// Handles the next event. Without one by the deadline, fails with the
    /// reason why no command can be sent. An event wakes the tasks that wait,
    /// once the channel is free.
    pub(super) fn step(&self, state: &mut State, deadline: Instant) -> Result<Option<Arrival>, Failure> {
        let handled = self.handle_next(state, deadline);
        if !state.tasks.is_empty() && !matches!(handled, Err(Failure::NotReady(_))) {
            std::mem::take(&mut state.tasks).into_iter().for_each(|task| self.state.wake_on_release(&task));
        }
        handled
    }

    fn handle_next(&self, state: &mut State, deadline: Instant) -> Result<Option<Arrival>, Failure> {
        match self.reply.receive(&mut state.buffer, Some(deadline)) {
            Ok(ReplyEvent::Connected(connection)) => {
                self.connected(state, connection);
                Ok(None)
            }
            Ok(ReplyEvent::Disconnected(connection)) => self.disconnected(state, connection).map(|()| None),
            Ok(ReplyEvent::Oversized(ticket, length)) => oversized(state, ticket, length),
            Ok(ReplyEvent::Request(ticket)) => Ok(Some(self.requested(state, ticket))),
            Err(TransportError::Timeout) => Err(Failure::NotReady(state.not_ready())),
            Err(TransportError::Closed) => {
                state.tell(Err(Failure::OutcomeUnknown));
                Err(Failure::ProcessEnded)
            }
            Err(error) => Err(Failure::Transport(error)),
        }
    }

    fn connected(&self, state: &mut State, connection: ConnectionId) {
        state.connections += 1;
        state.count(connection);
    }

    fn disconnected(&self, state: &mut State, connection: ConnectionId) -> Result<(), Failure> {
        state.connections = state.connections.saturating_sub(1);
        state.count(connection);
        state.hellos.remove(&connection);
        let was_peer = state.end.peer() == Some(connection);
        let departure = state.end.departed(connection);
        let has_peer = state.end.peer().is_some();
        if was_peer {
            state.lost_at = (!has_peer).then(Instant::now);
        }
        self.has_peer.store(has_peer, Ordering::SeqCst);
        if departure == Departure::OutcomeUnknown {
            state.tell(Err(Failure::OutcomeUnknown));
            return Err(Failure::OutcomeUnknown);
        }
        Ok(())
    }

    /// Interprets a request. The answer to a posted command is passed on.
    fn requested(&self, state: &mut State, ticket: Ticket) -> Arrival {
        let connection = ticket.connection;
        let arrival = state.end.arrived(ticket, &state.buffer);
        state.count(connection);
        if state.end.peer().is_some() {
            state.lost_at = None;
            self.has_peer.store(true, Ordering::SeqCst);
        }
        if matches!(arrival, Arrival::Handshake | Arrival::SendAgain) {
            self.scope.count_greeting();
        }
        match arrival {
            Arrival::Answer if state.posted.is_some() => state.tell(Ok(())),
            Arrival::SendAgain if state.posted.is_some() => self.send_posted_again(state),
            Arrival::Handshake => state.introduce(connection),
            Arrival::Rival => self.rival(state, connection),
            Arrival::Garbage => {
                let said = state.buffer[..state.buffer.len().min(QUOTED)].to_vec();
                if let Some(others) = state.garbages.pass(Instant::now()) {
                    let said = String::from_utf8_lossy(&said);
                    tracing::info!(address = %self.address, %said, others, "a connection does not speak the plugin protocol");
                }
                state.garbage.get_or_insert(said);
            }
            Arrival::Stale => tracing::debug!(address = %self.address, "an answer without a call was dropped"),
            _ => {}
        }
        arrival
    }

    /// Handles a second connection of the plugin's processes with a handshake:
    /// it takes the first one's place when that has ended, as after a
    /// reconnect.
    fn rival(&self, state: &mut State, connection: ConnectionId) {
        state.introduce(connection);
        if let Some(others) = state.rivals.pass(Instant::now()) {
            tracing::warn!(address = %self.address, ?connection, others, "the plugin connected twice: the second connection waits");
        }
    }
}

impl State {
    /// Stores what the plugin has announced of itself.
    fn introduce(&mut self, connection: ConnectionId) {
        if let Some(hello) = Hello::decode(&self.buffer) {
            self.hellos.insert(connection, hello);
        }
    }
}

fn oversized(state: &mut State, ticket: Ticket, length: u64) -> Result<Option<Arrival>, Failure> {
    state.count(ticket.connection);
    match state.end.arrived(ticket, b"") {
        Arrival::Answer if state.posted.is_some() => {
            state.tell(Err(Failure::AnswerTooLong(length)));
            Ok(None)
        }
        Arrival::Answer => Err(Failure::AnswerTooLong(length)),
        arrival => Ok(Some(arrival)),
    }
}
