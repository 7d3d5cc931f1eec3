//! A model of the host: handles one event at a time, as `ekuiper_host` does
//! with [`HostEnd`] over a transport.

use ekuiper_core::exchange::{Arrival, Departure, HostEnd};
use ekuiper_core::transport::{ConnectionId, TransportError};

use crate::wire::{Event, Wire};

/// The host's end, and the one command in progress.
#[derive(Default)]
pub(crate) struct Host {
    end: HostEnd,
    call: Option<Call>,
}

/// A command in progress.
#[derive(Clone, Copy)]
struct Call {
    command: u32,
    /// The connection that the command was sent on; none until it is sent.
    sent_to: Option<ConnectionId>,
}

/// The outcome of a command, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command was not sent, or no plugin has seen it.
    NotSent,
    /// The answer is to this command, according to the plugin.
    Answered(u32),
    /// No answer arrived while the caller waited.
    TimedOut,
    /// The command's connection ended.
    Unknown,
}

/// An event that the world checks.
pub(crate) enum Told {
    Done(u32, Outcome),
    Arrival(Arrival),
    Nothing,
}

impl Host {
    pub(crate) fn is_idle(&self) -> bool {
        self.call.is_none()
    }

    pub(crate) fn call(&mut self, command: u32, wire: &mut Wire) -> Told {
        self.call = Some(Call { command, sent_to: None });
        self.try_send(wire)
    }

    /// The caller's deadline passes.
    pub(crate) fn give_up(&mut self) -> Told {
        match self.call.take() {
            None => Told::Nothing,
            Some(Call { command, sent_to: None }) => Told::Done(command, Outcome::NotSent),
            Some(Call { command, .. }) => {
                self.end.abandon();
                Told::Done(command, Outcome::TimedOut)
            }
        }
    }

    fn try_send(&mut self, wire: &mut Wire) -> Told {
        let Some(Call { command, .. }) = self.call else { return Told::Nothing };
        let Ok(ticket) = self.end.begin() else { return Told::Nothing };
        let sent_to = match wire.send(&ticket, command.to_string().as_bytes()) {
            Ok(()) => Some(ticket.connection),
            Err(TransportError::Misuse(_) | TransportError::Disconnected) => {
                self.end.cancel_send();
                None
            }
            Err(_) => {
                self.end.not_sent(ticket);
                self.call = None;
                return Told::Done(command, Outcome::NotSent);
            }
        };
        self.call = Some(Call { command, sent_to });
        Told::Nothing
    }

    /// Handles one event; `None` when there is none.
    pub(crate) fn tend(&mut self, wire: &mut Wire) -> Option<[Told; 2]> {
        let event = wire.receive()?;
        Some(match event {
            Event::Disconnected(connection) => [self.disconnected(connection), self.after(wire)],
            Event::Request(ticket, body) => {
                let from = ticket.connection;
                let arrival = self.end.arrived(ticket, &body);
                [self.arrived(from, arrival, &body), self.after(wire)]
            }
        })
    }

    /// Retries a command that waits to be sent; called after every event.
    fn after(&mut self, wire: &mut Wire) -> Told {
        match self.call {
            Some(Call { sent_to: None, .. }) => self.try_send(wire),
            _ => Told::Nothing,
        }
    }

    fn disconnected(&mut self, connection: ConnectionId) -> Told {
        let departure = self.end.departed(connection);
        match self.call {
            Some(Call { command, sent_to: Some(sent_to) }) if sent_to == connection => {
                assert_eq!(departure, Departure::OutcomeUnknown, "command {command} was out");
                self.call = None;
                Told::Done(command, Outcome::Unknown)
            }
            _ => {
                assert_ne!(departure, Departure::OutcomeUnknown, "no command was out there");
                Told::Nothing
            }
        }
    }

    fn arrived(&mut self, from: ConnectionId, arrival: Arrival, body: &[u8]) -> Told {
        match (arrival, self.call) {
            (Arrival::Answer, Some(Call { command, sent_to })) => {
                assert_eq!(sent_to, Some(from), "the answer to {command} comes from where it went");
                self.call = None;
                let number = std::str::from_utf8(body).ok().and_then(|text| text.split(':').nth(1)?.parse().ok());
                Told::Done(command, Outcome::Answered(number.expect("a plugin's answer")))
            }
            (Arrival::Answer, None) => panic!("an answer, and no command was out"),
            (Arrival::SendAgain, Some(Call { command, sent_to })) => {
                assert_eq!(sent_to, Some(from), "{command} was out there");
                self.call = Some(Call { command, sent_to: None });
                Told::Arrival(arrival)
            }
            (Arrival::SendAgain, None) => panic!("nothing to send again"),
            _ => Told::Arrival(arrival),
        }
    }
}
