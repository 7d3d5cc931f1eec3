//! Receiving in the background, for cases that test the other side.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use ekuiper_core::transport::{ConnectionId, Pull, PullEvent, Reply, ReplyEvent, Ticket, TransportError};

use crate::PATIENCE;

/// An event of a pull socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulled {
    Message(ConnectionId, Vec<u8>),
    Connected(ConnectionId),
    Disconnected(ConnectionId),
}

/// An event of a reply socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Request(Ticket, Vec<u8>),
    Oversized(Ticket, u64),
    Connected(ConnectionId),
    Disconnected(ConnectionId),
}

/// A thread that receives events until it is dropped, which closes the socket.
pub(crate) struct Pump<S: Closes + ?Sized, E> {
    pub(crate) socket: Arc<S>,
    events: mpsc::Receiver<E>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) trait Closes {
    fn close_it(&self);
}

impl Closes for dyn Pull {
    fn close_it(&self) {
        self.close();
    }
}

impl Closes for dyn Reply {
    fn close_it(&self) {
        self.close();
    }
}

pub(crate) type PullPump = Pump<dyn Pull, Pulled>;
pub(crate) type ReplyPump = Pump<dyn Reply, Asked>;

impl<S: Closes + Send + Sync + ?Sized + 'static, E: Send + 'static> Pump<S, E> {
    fn start(socket: Arc<S>, mut receive: impl FnMut(&S) -> Result<E, TransportError> + Send + 'static) -> Self {
        let (send, events) = mpsc::channel();
        let own = socket.clone();
        let thread = std::thread::spawn(move || {
            loop {
                match receive(&own) {
                    Ok(event) => {
                        let _ = send.send(event);
                    }
                    Err(TransportError::Closed) => return,
                    Err(error) => panic!("receiving failed: {error}"),
                }
            }
        });
        Self { socket, events, thread: Some(thread) }
    }

    /// Returns the next event, and fails if there is none in time.
    pub(crate) fn next(&self) -> E {
        self.events.recv_timeout(PATIENCE).expect("nothing came")
    }

    /// Returns the next event, if there is one already.
    pub(crate) fn try_next(&self) -> Option<E> {
        self.events.try_recv().ok()
    }
}

impl<S: Closes + ?Sized, E> Drop for Pump<S, E> {
    fn drop(&mut self) {
        self.socket.close_it();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl PullPump {
    pub(crate) fn of(socket: Arc<dyn Pull>) -> Self {
        let mut buffer = Vec::new();
        Self::start(socket, move |socket| {
            Ok(match socket.receive(&mut buffer, None)? {
                PullEvent::Message(connection) => Pulled::Message(connection, buffer.clone()),
                PullEvent::Connected(connection) => Pulled::Connected(connection),
                PullEvent::Disconnected(connection) => Pulled::Disconnected(connection),
            })
        })
    }

    /// Returns the next message, and skips connection events before it.
    pub(crate) fn message(&self) -> Vec<u8> {
        loop {
            if let Pulled::Message(_, body) = self.next() {
                return body;
            }
        }
    }

    /// Returns the next event, which must be a new connection.
    pub(crate) fn connected(&self) -> ConnectionId {
        match self.next() {
            Pulled::Connected(connection) => connection,
            other => panic!("expected a connection, got {other:?}"),
        }
    }
}

impl ReplyPump {
    pub(crate) fn of(socket: Arc<dyn Reply>) -> Self {
        let mut buffer = Vec::new();
        Self::start(socket, move |socket| {
            Ok(match socket.receive(&mut buffer, None)? {
                ReplyEvent::Request(ticket) => Asked::Request(ticket, buffer.clone()),
                ReplyEvent::Oversized(ticket, length) => Asked::Oversized(ticket, length),
                ReplyEvent::Connected(connection) => Asked::Connected(connection),
                ReplyEvent::Disconnected(connection) => Asked::Disconnected(connection),
            })
        })
    }

    /// Returns the next request, and skips connection events before it.
    pub(crate) fn request(&self) -> (Ticket, Vec<u8>) {
        loop {
            match self.next() {
                Asked::Request(ticket, body) => return (ticket, body),
                Asked::Oversized(_, length) => panic!("expected a request, got one of {length} bytes"),
                Asked::Connected(_) | Asked::Disconnected(_) => {}
            }
        }
    }

    /// Returns the next event, which must be a new connection.
    pub(crate) fn connected(&self) -> ConnectionId {
        match self.next() {
            Asked::Connected(connection) => connection,
            other => panic!("expected a connection, got {other:?}"),
        }
    }
}
