//! The loop of a request channel: one handshake per connection, then commands
//! and their answers.

use std::time::{Duration, Instant};

use ekuiper_core::buffer::trim;
use ekuiper_core::exchange::{PluginEnd, Step};
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{ConnectionId, Request, TransportError};
use ekuiper_transport_ipc::wait::deadline_after;

/// The handler of a request channel's commands.
pub(super) trait Answer {
    /// Called when a connection has begun.
    fn greeted(&mut self) {}

    /// Appends the answer to a command, whose buffer may be changed.
    fn answer(&mut self, command: &mut Vec<u8>, reply: &mut Vec<u8>);

    /// Appends an answer that is an error with this text.
    fn refuse(&mut self, text: &str, reply: &mut Vec<u8>);

    /// Called when the last answer was sent, or its connection has ended.
    fn sent(&mut self) {}
}

/// The wait for the first connection after which the missing host is reported.
const SILENCE: Duration = Duration::from_secs(2);

/// A channel's patience while no host is connected.
pub(super) struct Patience<'a> {
    /// The maximum time without a connection.
    pub(super) absence: Duration,
    /// Called when no host has connected within [`SILENCE`] of the start.
    pub(super) on_silence: &'a dyn Fn(),
}

impl Patience<'_> {
    /// Waits for the first connection.
    fn connect(&self, request: &dyn Request) -> Result<ConnectionId, TransportError> {
        let start = Instant::now();
        match request.connect(Some(start + SILENCE.min(self.absence))) {
            Err(TransportError::Timeout) if self.absence > SILENCE => {
                (self.on_silence)();
                request.connect(Some(start + self.absence))
            }
            connected => connected,
        }
    }
}

/// Serves until the socket is closed, or no host has been connected for too
/// long. Each connection begins with the greeting.
///
/// No keepalives are sent, and nothing is ever sent twice (faults 1, 2 and 4).
///
/// # Errors
/// [`TransportError::Timeout`]: no host was connected for too long. Other errors
/// are the transport's.
pub(super) fn serve(
    request: &dyn Request,
    patience: Option<Patience<'_>>,
    greeting: &[u8],
    server: &mut impl Answer,
) -> Result<(), TransportError> {
    let mut end = PluginEnd::new();
    let (mut command, mut reply) = (Vec::new(), Vec::new());
    let mut connection = None;
    let connect = |is_first: bool| match &patience {
        Some(patience) if is_first => patience.connect(request),
        Some(patience) => request.connect(Some(deadline_after(patience.absence))),
        None => request.connect(None),
    };
    let too_long = Throttle::new();
    loop {
        let stepped = match end.step() {
            Step::Connect => match connect(connection.is_none()) {
                Ok(connected) => {
                    connection = Some(connected);
                    end.connected(connected);
                    Ok(())
                }
                Err(error) => return if matches!(error, TransportError::Closed) { Ok(()) } else { Err(error) },
            },
            Step::Greet(connection) => {
                server.greeted();
                request.send(connection, greeting, None).map(|()| end.sent())
            }
            Step::Receive => request.receive(&mut command, None).map(|()| {
                if let Some(connection) = connection {
                    end.received(connection);
                }
            }),
            Step::Answer(connection) => {
                reply.clear();
                server.answer(&mut command, &mut reply);
                trim(&mut command);
                let mut sent = request.send(connection, &reply, None);
                if let Err(TransportError::TooLong { length, max }) = sent {
                    let text = format!("the answer of {length} bytes is longer than the limit of {max}");
                    if let Some(others) = too_long.pass(Instant::now()) {
                        tracing::error!(others, "{text}");
                    }
                    reply.clear();
                    server.refuse(&text, &mut reply);
                    sent = request.send(connection, &reply, None);
                }
                trim(&mut reply);
                server.sent();
                sent.map(|()| end.sent())
            }
        };
        match stepped {
            Ok(()) => {}
            Err(TransportError::Closed) => return Ok(()),
            Err(TransportError::Disconnected) => end.disconnected(),
            Err(error) => return Err(error),
        }
    }
}
