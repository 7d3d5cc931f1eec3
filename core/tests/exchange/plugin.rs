//! A plugin's process: it carries out what it receives, and answers.

use std::time::Instant;

use ekuiper_core::exchange::{PluginEnd, Step};
use ekuiper_core::message::HANDSHAKE;
use ekuiper_core::sp::Requester;
use ekuiper_core::transport::ConnectionId;

use crate::wire::Wire;

/// One process. Ours lets [`PluginEnd`] decide; an official one has a REQ
/// socket that outlives its connections, and sends keepalives.
pub(crate) struct Process {
    official: bool,
    generation: u32,
    end: PluginEnd,
    requester: Requester,
    /// An official one's connection.
    connection: Option<ConnectionId>,
    /// The request that was sent last, with its id, and where.
    latest: Vec<u8>,
    latest_to: Option<ConnectionId>,
    /// What it has to carry out or, when that is done, to answer.
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

    /// Does whatever is next; returns the command that it carried out in doing
    /// so.
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

    /// As `ekuiper_sdk` drives it over a transport.
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

    /// As the official SDKs do: the socket sends on whatever connection there
    /// is, and its open request again on a new one.
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

    /// An official one that has waited long enough says so.
    pub(crate) fn keepalive(&mut self, wire: &mut Wire) {
        let open = self.connection.filter(|connection| wire.is_open(*connection));
        if let (true, None, Some(connection)) = (self.official, &self.work, open) {
            self.send(wire, connection, HANDSHAKE);
        }
    }

    /// The latest request is sent once more: a socket that repeats does so
    /// until it sees the reply.
    pub(crate) fn repeat(&mut self, wire: &mut Wire) {
        if let (true, Some(connection)) = (self.official, self.latest_to) {
            wire.send_to_host(connection, &self.latest);
        }
    }

    /// Its connection ends, or it does; it notices when it uses it next.
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

    /// Some answers look a little like a handshake.
    fn answer(&self, command: u32) -> Vec<u8> {
        format!("handshakes:{command}:{}", self.generation).into_bytes()
    }
}
