//! Drives a request channel: handshake once per connection, then commands and
//! their answers.

use std::time::{Duration, Instant};

use ekuiper_core::exchange::{PluginEnd, Step};
use ekuiper_core::message::HANDSHAKE;
use ekuiper_core::transport::{Request, TransportError};

/// Serves until the socket is closed, or the host has been gone for `absence`.
///
/// `answer` appends the answer to a command. No keepalives are sent, and
/// nothing is ever sent twice (faults 1, 2 and 4).
pub(crate) fn serve(
    request: &dyn Request,
    absence: Option<Duration>,
    mut answer: impl FnMut(&[u8], &mut Vec<u8>),
) -> Result<(), TransportError> {
    let mut end = PluginEnd::new();
    let (mut command, mut reply) = (Vec::new(), Vec::new());
    let mut connection = None;
    loop {
        let stepped = match end.step() {
            Step::Connect => match request.connect(absence.map(|absence| Instant::now() + absence)) {
                Ok(connected) => {
                    connection = Some(connected);
                    end.connected(connected);
                    Ok(())
                }
                Err(TransportError::Timeout) => return Err(TransportError::Timeout),
                Err(error) => Err(error),
            },
            Step::Greet(connection) => request.send(connection, HANDSHAKE, None).map(|()| end.sent()),
            Step::Receive => request.receive(&mut command, None).map(|()| {
                if let Some(connection) = connection {
                    end.received(connection);
                }
            }),
            Step::Answer(connection) => {
                reply.clear();
                answer(&command, &mut reply);
                match request.send(connection, &reply, None) {
                    Err(TransportError::TooLong { length, max }) => {
                        let text = format!("the answer of {length} bytes is longer than the limit of {max}");
                        tracing::error!("{text}");
                        reply.clear();
                        ekuiper_core::message::encode_error(&mut reply, &text);
                        request.send(connection, &reply, None).map(|()| end.sent())
                    }
                    sent => sent.map(|()| end.sent()),
                }
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
