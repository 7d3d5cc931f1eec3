//! A message that was sent and is to be acknowledged, and its outcome.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use ekuiper_core::transport::TransportError;
use ekuiper_transport_ipc::wait::deadline_after;

use super::acks::Acknowledged;
use super::connection::SinkConnection;
use super::session::{ACK, SinkSession};
use crate::background::Task;
use crate::{Error, Result};

/// A message in flight that is to be acknowledged.
pub(crate) struct Sent {
    pub(crate) session: Arc<SinkSession>,
    pub(crate) connection: Arc<SinkConnection>,
    pub(crate) number: u64,
}

impl Sent {
    /// Returns `None` while the acknowledgement may still come; then the outcome,
    /// or (`Err`) the task that finds out why there is none, which may block.
    pub(crate) fn try_outcome(&self) -> Option<std::result::Result<Result<()>, Task<Result<()>>>> {
        let session = &self.session;
        let patience = session.plugin.site.options.recv_timeout;
        match self.connection.await_ack(self.number, Instant::now()) {
            Acknowledged::Timeout(TransportError::Timeout) if !session.is_stopped() => None,
            answer @ Acknowledged::Answer(_) => Some(Ok(session.outcome(&self.connection, answer, patience))),
            lost => {
                self.connection.tell_unknown();
                let (session, connection) = (session.clone(), self.connection.clone());
                let explain = move || session.outcome(&connection, lost, patience);
                Some(Err(self.session.plugin.site.background.start(explain)))
            }
        }
    }

    /// Has `waker` woken when the message is acknowledged, or never will be.
    pub(crate) fn register_task(&self, waker: &Waker) {
        self.connection.acks.register_task(self.number, waker);
    }

    /// Returns the error of a message that was not acknowledged in time.
    pub(crate) fn give_up(&self) -> Error {
        let patience = self.session.plugin.site.options.recv_timeout;
        self.connection.tell_unknown();
        self.connection.mark_broken();
        self.session.explain(&self.connection, TransportError::Timeout, "it does not acknowledge", patience)
    }

    pub(crate) fn wait(&self) -> Result<()> {
        let session = &*self.session;
        let patience = session.plugin.site.options.recv_timeout;
        if let Some(answer) = self.connection.answer(self.number) {
            return session.outcome(&self.connection, answer, patience);
        }
        let waiting = session.enter(ACK).inspect_err(|_| self.connection.tell_unknown())?;
        let acknowledged = self.connection.await_ack(self.number, deadline_after(patience));
        drop(waiting);
        if matches!(acknowledged, Acknowledged::Lost | Acknowledged::Timeout(_)) {
            self.connection.tell_unknown();
        }
        session.outcome(&self.connection, acknowledged, patience)
    }
}

impl SinkSession {
    /// Returns the outcome of a message that is to be acknowledged.
    pub(crate) fn outcome(
        &self,
        connection: &SinkConnection,
        acknowledged: Acknowledged,
        patience: Duration,
    ) -> Result<()> {
        let symbol = || self.control.symbol_name.clone();
        match acknowledged {
            Acknowledged::Answer(outcome) => {
                let plugin = self.plugin.name();
                outcome.map_err(|text| self.kept(Error::Sink { plugin: plugin.to_owned(), symbol: symbol(), text }))
            }
            Acknowledged::Garbage(source) => {
                Err(self.kept(Error::Message { what: self.what().answered(), source: source.into() }))
            }
            _ if self.is_stopped() => Err(Error::Stopped),
            Acknowledged::Lost => {
                connection.mark_broken();
                Err(self.counted(Error::OutcomeUnknown {
                    plugin: self.plugin.name().to_owned(),
                    what: self.what().in_words(format!("a message to sink {}", symbol())),
                    exit: connection.running.process.exit_soon(),
                }))
            }
            Acknowledged::Timeout(error) => {
                connection.mark_broken();
                Err(self.explain(connection, error, "it does not acknowledge", patience))
            }
        }
    }

    /// Waits until at most this many messages are unacknowledged.
    pub(crate) fn make_room(&self, connection: &SinkConnection, unacknowledged: u64) -> Result<()> {
        if connection.sent().saturating_sub(connection.acks.known()) <= unacknowledged {
            return Ok(());
        }
        let patience = self.plugin.site.options.recv_timeout;
        let waiting = self.enter(ACK)?;
        let missing = connection.await_room(unacknowledged, deadline_after(patience));
        drop(waiting);
        missing.map_or(Ok(()), |missing| self.outcome(connection, missing, patience))
    }
}
