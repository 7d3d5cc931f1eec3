//! The protocol between supervisor and worker, and the worker's end of it.
//!
//! A frame is a tag, the length of the rest in four bytes, and the rest.
//! Numbers are little-endian: both ends are the same executable.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use ekuiper_core::buffer::trim;
use ekuiper_core::message::Meta;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::ConnectionId;
use ekuiper_transport_ipc::platform::NO_SIGNAL;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};

use super::page::Inherited;

/// A command from the engine.
const COMMAND: u8 = b'C';
/// The start of a symbol that a previous worker has run.
const AGAIN: u8 = b'G';
const READY: u8 = b'R';
const ANSWER: u8 = b'A';
const OVER: u8 = b'O';
/// A sink's connection, sent with its descriptor.
const HOLD: u8 = b'H';
const LET_GO: u8 = b'L';

const HEAD: usize = 5;

/// The longest frame that a worker sends: an answer's text is far shorter.
const MAX_SAID: usize = 1 << 20;

fn send(socket: &UnixStream, tag: u8, parts: &[&[u8]]) -> io::Result<()> {
    (&*socket).write_all(&frame(tag, parts)?)
}

fn frame(tag: u8, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| io::Error::other("a frame of more than 4 GiB"))?;
    let mut frame = Vec::with_capacity(HEAD + length as usize);
    frame.push(tag);
    frame.extend_from_slice(&length.to_le_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    Ok(frame)
}

/// Sends the worker a command to execute.
pub(super) fn tell(socket: &UnixStream, command: &[u8], again: bool) -> io::Result<()> {
    send(socket, if again { AGAIN } else { COMMAND }, &[command])
}

/// A message from a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WorkerReport {
    /// The worker accepts commands.
    Ready,
    /// The answer to the last command, and the number of its launch; 0 if it
    /// launched nothing.
    Answer(u64, Vec<u8>),
    /// The symbol of this launch has ended.
    Over(u64),
    /// The next descriptor received is this connection of this sink.
    Hold(ConnectionId, Meta),
    /// The connection has ended in order.
    LetGo(ConnectionId),
}

/// Removes the first complete frame from the received bytes.
///
/// # Errors
/// The frame is invalid.
pub(super) fn parse(buffer: &mut Vec<u8>) -> io::Result<Option<WorkerReport>> {
    let Some(([tag, length @ ..], rest)) = buffer.split_first_chunk::<HEAD>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    let wrong = || io::Error::other("the worker sent an invalid frame");
    if length > MAX_SAID {
        return Err(wrong());
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let said = match (*tag, body.split_first_chunk::<8>()) {
        (READY, None) => WorkerReport::Ready,
        (ANSWER, Some((launch, answer))) => WorkerReport::Answer(u64::from_le_bytes(*launch), answer.to_vec()),
        (OVER, Some((launch, []))) => WorkerReport::Over(u64::from_le_bytes(*launch)),
        (HOLD, Some((id, meta))) => {
            let meta = serde_json::from_slice(meta).map_err(|_| wrong())?;
            WorkerReport::Hold(ConnectionId(u64::from_le_bytes(*id)), meta)
        }
        (LET_GO, Some((id, []))) => WorkerReport::LetGo(ConnectionId(u64::from_le_bytes(*id))),
        _ => return Err(wrong()),
    };
    buffer.drain(..HEAD + length);
    Ok(Some(said))
}

/// The worker's end.
pub(in crate::runtime) struct Link {
    socket: UnixStream,
    /// Held while a frame is written, since symbols' threads write as well.
    writing: Mutex<()>,
}

impl Link {
    pub(in crate::runtime) fn new(inherited: Inherited) -> Self {
        Self { socket: inherited.socket, writing: Mutex::default() }
    }

    /// Sends a frame. Errors are ignored: the end of the supervisor is noticed
    /// by `receive`.
    fn say(&self, tag: u8, parts: &[&[u8]]) {
        let _writing = lock(&self.writing);
        let _ = send(&self.socket, tag, parts);
    }

    /// Reports that the worker accepts commands.
    pub(in crate::runtime) fn ready(&self) {
        self.say(READY, &[]);
    }

    /// Sends the answer to the last command; `launch` is the number of its
    /// launch, or 0.
    pub(in crate::runtime) fn answer(&self, launch: u64, answer: &[u8]) {
        self.say(ANSWER, &[&launch.to_le_bytes(), answer]);
    }

    /// Reports that the symbol of a launch has ended.
    pub(in crate::runtime) fn over(&self, launch: u64) {
        self.say(OVER, &[&launch.to_le_bytes()]);
    }

    /// Sends the supervisor a duplicate of a sink's connection, in which it can
    /// see unread messages should the worker die.
    pub(super) fn hold(&self, connection: ConnectionId, meta: &Meta, descriptor: &OwnedFd) {
        let meta = serde_json::to_vec(meta).unwrap_or_default();
        let Ok(frame) = frame(HOLD, &[&connection.0.to_le_bytes(), &meta]) else { return };
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let _writing = lock(&self.writing);
        let sent = sendmsg(&self.socket, &[IoSlice::new(&frame)], &mut ancillary, NO_SIGNAL);
        if let Ok(sent) = sent {
            let _ = (&self.socket).write_all(&frame[sent..]);
        }
    }

    /// Reports that a connection has ended in order.
    pub(super) fn let_go(&self, connection: ConnectionId) {
        self.say(LET_GO, &[&connection.0.to_le_bytes()]);
    }

    /// Waits for a command, and returns whether it restores a symbol of a
    /// previous worker; `None` once the supervisor or this plugin ends.
    pub(in crate::runtime) fn receive(&self, command: &mut Vec<u8>) -> Option<bool> {
        let mut head = [0; HEAD];
        (&self.socket).read_exact(&mut head).ok()?;
        let [tag, length @ ..] = head;
        trim(command);
        command.resize(u32::from_le_bytes(length) as usize, 0);
        (&self.socket).read_exact(command).ok()?;
        Some(tag == AGAIN)
    }

    /// Ends all waits.
    pub(in crate::runtime) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &mut UnixStream) -> Vec<WorkerReport> {
        let mut buffer = Vec::new();
        socket.read_to_end(&mut buffer).unwrap();
        std::iter::from_fn(|| parse(&mut buffer).unwrap()).collect()
    }

    #[test]
    fn what_is_said_is_heard() {
        let (mut supervisor, socket) = UnixStream::pair().unwrap();
        let link = Link { socket, writing: Mutex::default() };
        tell(&supervisor, b"start", false).unwrap();
        tell(&supervisor, b"", true).unwrap();
        let mut command = Vec::new();
        assert_eq!(link.receive(&mut command), Some(false));
        assert_eq!(command, b"start");
        assert_eq!(link.receive(&mut command), Some(true));
        assert_eq!(command, b"");
        link.ready();
        link.answer(7, b"ok");
        link.over(7);
        link.close();
        assert_eq!(link.receive(&mut command), None);
        assert_eq!(
            heard(&mut supervisor),
            [WorkerReport::Ready, WorkerReport::Answer(7, b"ok".to_vec()), WorkerReport::Over(7)]
        );
    }

    #[test]
    fn a_frame_may_come_in_pieces_and_nonsense_is_none() {
        let mut buffer = vec![ANSWER, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'o'];
        assert_eq!(parse(&mut buffer).unwrap(), None);
        buffer.push(b'k');
        assert_eq!(parse(&mut buffer).unwrap(), Some(WorkerReport::Answer(1, b"ok".to_vec())));
        assert!(buffer.is_empty());
        for nonsense in [&[b'X', 0, 0, 0, 0][..], &[ANSWER, 0, 0, 0, 0], &[ANSWER, 255, 255, 255, 255]] {
            assert!(parse(&mut nonsense.to_vec()).is_err(), "{nonsense:?}");
        }
    }
}
