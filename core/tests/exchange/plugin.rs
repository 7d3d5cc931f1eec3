//! A model of a plugin's process: it executes what it receives, and answers.

use std::time::Instant;

use ekuiper_core::exchange::{PluginEnd, Step};
use ekuiper_core::message::HANDSHAKE;
use ekuiper_core::sp::Requester;
use ekuiper_core::transport::ConnectionId;

use crate::wire::Wire;

/// One process. Ours follows [`PluginEnd`]; an official one has a REQ socket
/// that outlives its connections, and sends keepalives.
pub(crate) struct Process {
    official: bool,
    generation: u32,
    end: PluginEnd,
    requester: Requester,
    /// The connection of an official process.
    connection: Option<ConnectionId>,
    /// The latest request, with its id and its connection.
    latest: Vec<u8>,
    latest_to: Option<ConnectionId>,
    /// The command to execute or, when that is done, to answer.
    work: Option<Work>,
}

enum Work {
    Execute(u32),
    Answer(u32),
}

impl Process {
    pub(crate) fn new(generation: u32, official: bool) -> Self {
        Self {
            official,
            generation,
            end: PluginEnd::new(),
            requester: Requester::new(generation.wrapping_mul(0x9e37_79b9), None),
            connection: None,
            latest: Vec::new(),
            latest_to: None,
            work: None,
        }
    }

    /// Performs the next action; returns the command that was executed in it,
    /// if any.
    pub(crate) fn run(&mut self, wire: &mut Wire) -> Option<u32> {
        if let Some(Work::Execute(command)) = self.work {
            self.work = Some(Work::Answer(command));
            return Some(command);
        }
        if self.official {
            self.run_official(wire)
        } else {
            self.run_ours(wire)
        }
        None
    }

    /// Follows [`PluginEnd`], as `ekuiper_sdk` does over a transport.
    fn run_ours(&mut self, wire: &mut Wire) {
        let step = self.end.step();
        let (Step::Greet(connection) | Step::Answer(connection)) = step else {
            match (step, self.connection.filter(|connection| wire.is_open(*connection))) {
                (Step::Receive, Some(connection)) => {
                    if self.receive(wire, connection) {
                        self.end.received(connection);
                    }
                }
                (Step::Receive, None) => self.lost(),
                _ => {
                    let connection = wire.connect();
                    self.connection = Some(connection);
                    self.end.connected(connection);
                }
            }
            return;
        };
        let body = match self.work.take() {
            Some(Work::Execute(command) | Work::Answer(command)) => self.answer(command),
            None => HANDSHAKE.to_vec(),
        };
        if !wire.is_open(connection) {
            return self.lost();
        }
        self.send(wire, connection, &body);
        self.end.sent();
    }

    fn lost(&mut self) {
        self.requester.cancel();
        self.end.disconnected();
    }

    /// Follows the official SDKs: the socket sends on any connection that
    /// exists, and repeats its pending request on a new one.
    fn run_official(&mut self, wire: &mut Wire) {
        let Some(connection) = self.connection.filter(|connection| wire.is_open(*connection)) else {
            let connection = wire.connect();
            self.connection = Some(connection);
            if self.latest.is_empty() {
                self.send(wire, connection, HANDSHAKE);
            } else if self.requester.is_waiting() {
                self.latest_to = Some(connection);
                wire.send_to_host(connection, &self.latest);
            }
            return;
        };
        match self.work.take() {
            Some(Work::Execute(command) | Work::Answer(command)) => {
                let body = self.answer(command);
                self.send(wire, connection, &body);
            }
            None => {
                self.receive(wire, connection);
            }
        }
    }

    /// Sends the keepalive of an official process that has waited long enough.
    pub(crate) fn keepalive(&mut self, wire: &mut Wire) {
        let open = self.connection.filter(|connection| wire.is_open(*connection));
        if let (true, None, Some(connection)) = (self.official, &self.work, open) {
            self.send(wire, connection, HANDSHAKE);
        }
    }

    /// Sends the latest request again: a socket that repeats requests does so
    /// until it sees the reply.
    pub(crate) fn repeat(&mut self, wire: &mut Wire) {
        if let (true, Some(connection)) = (self.official, self.latest_to) {
            wire.send_to_host(connection, &self.latest);
        }
    }

    /// Ends the process's connection; the process notices when it next uses it.
    pub(crate) fn disconnect(&mut self, wire: &mut Wire, lose: bool) {
        if let Some(connection) = self.connection {
            wire.close(connection, lose);
        }
    }

    fn send(&mut self, wire: &mut Wire, connection: ConnectionId, body: &[u8]) {
        self.latest = [&self.requester.begin(Instant::now()), body].concat();
        self.latest_to = Some(connection);
        wire.send_to_host(connection, &self.latest);
    }

    fn receive(&mut self, wire: &mut Wire, connection: ConnectionId) -> bool {
        let Some(packet) = wire.take_at_plugin(connection) else { return false };
        let Some(body) = self.requester.accept(&packet) else { return false };
        let command = std::str::from_utf8(body).unwrap().parse().expect("a command's number");
        self.work = Some(Work::Execute(command));
        true
    }

    /// Returns the answer to a command; some answers resemble a handshake.
    fn answer(&self, command: u32) -> Vec<u8> {
        format!("handshakes:{command}:{}", self.generation).into_bytes()
    }
}
