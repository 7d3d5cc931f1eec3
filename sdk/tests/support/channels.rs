//! The host's end of a request channel, and the reading of data channels.

use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{CallKind, EncodedMeta, FunctionMeta, HANDSHAKE, encode_call};
use ekuiper_core::transport::{Options, Pull, PullEvent, Reply, ReplyEvent, Ticket, Transport, TransportError};
use ekuiper_transport_uds::UdsTransport;
use serde_json::Value;

use super::soon;

/// A control or function channel.
pub struct Channel {
    pub reply: Box<dyn Reply>,
    /// The answers of commands.
    ticket: Option<Ticket>,
    /// The number of handshakes received.
    pub handshakes: usize,
}

/// An event on a request channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Request(Vec<u8>),
    Gone,
}

impl Channel {
    pub fn listen(address: &Address) -> Self {
        let reply = UdsTransport::new().reply(address, &Options::default()).unwrap();
        Self { reply, ticket: None, handshakes: 0 }
    }

    /// The next request, or the end of a connection.
    pub fn next(&mut self) -> Asked {
        let mut buffer = Vec::new();
        loop {
            match self.reply.receive(&mut buffer, soon()).expect("the plugin says something") {
                ReplyEvent::Request(ticket) => {
                    self.ticket = Some(ticket);
                    self.handshakes += usize::from(buffer == HANDSHAKE);
                    return Asked::Request(buffer);
                }
                ReplyEvent::Disconnected(_) => return Asked::Gone,
                ReplyEvent::Connected(_) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    /// Waits for the plugin's handshake.
    pub fn greeted(mut self) -> Self {
        assert_eq!(self.next(), Asked::Request(HANDSHAKE.to_vec()));
        self
    }

    /// Sends a command, without waiting for its answer.
    pub fn send(&mut self, command: &[u8]) {
        self.try_send(command).unwrap();
    }

    /// Sends a command to a plugin that may hang up.
    pub fn try_send(&mut self, command: &[u8]) -> Result<(), TransportError> {
        let ticket = self.ticket.take().expect("the plugin is ready");
        self.reply.send(&ticket, command, soon())
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, command: &[u8]) -> Vec<u8> {
        self.send(command);
        match self.next() {
            Asked::Request(answer) => answer,
            Asked::Gone => panic!("the plugin went away without an answer"),
        }
    }

    /// As [`Channel::ask`], for answers that are text.
    pub fn ask_text(&mut self, command: &[u8]) -> String {
        String::from_utf8(self.ask(command)).unwrap()
    }

    /// A function's `state` and `result`.
    pub fn call_raw(&mut self, call: &[u8]) -> Result<Value, String> {
        let reply: Value = serde_json::from_slice(&self.ask(call)).unwrap();
        match reply["state"].as_bool().unwrap() {
            true => Ok(reply["result"].clone()),
            false => Err(reply["result"].as_str().unwrap().to_owned()),
        }
    }

    pub fn call(&mut self, kind: CallKind, args: &Value) -> Result<Value, String> {
        self.call_raw(&encoded(kind, args))
    }

    /// Whether nothing arrives for `duration`.
    pub fn is_silent_for(&mut self, duration: Duration) -> bool {
        let mut buffer = Vec::new();
        matches!(self.reply.receive(&mut buffer, Some(Instant::now() + duration)), Err(TransportError::Timeout))
    }
}

/// A call in its wire format.
pub fn encoded(kind: CallKind, args: &Value) -> Vec<u8> {
    let meta = FunctionMeta { rule_id: "r1".into(), op_id: "o1".into(), instance_id: 2, func_id: 3 };
    let meta = (kind == CallKind::Exec).then(|| EncodedMeta::from(&meta));
    let mut call = Vec::new();
    encode_call(Format::Json, &mut call, kind, args.as_array().unwrap(), meta.as_ref()).unwrap();
    call
}

/// The next message of a data or ack channel, as JSON; `None` when its peer
/// disconnected.
pub fn drain(pull: &dyn Pull) -> Option<Value> {
    let mut buffer = Vec::new();
    loop {
        match pull.receive(&mut buffer, soon()).expect("the plugin sends something") {
            PullEvent::Message(_) => return Some(serde_json::from_slice(&buffer).unwrap()),
            PullEvent::Disconnected(_) => return None,
            PullEvent::Connected(_) => {}
        }
    }
}
