//! A Unix socket with SP frames and nothing else: the limit. Both ends are
//! here; the other process gets its task as arguments.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ekuiper_core::sp::{FRAME_HEADER, HEADER, Protocol, frame_header};
use ekuiper_core::sync::lock;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Ack, Measured, Peer, Record};
use crate::child::Child;
use crate::clock::{self, Pace};
use crate::reading::text;
use crate::{Error, Result, check};

/// Maximum time to busy-poll before blocking, in the spinning variant.
const SPIN: Duration = Duration::from_micros(20);

/// Size of a read, and of a write where writes are combined.
const CHUNK: usize = 64 << 10;

/// Maximum time for the other process to connect.
const PATIENCE: Duration = Duration::from_secs(10);

/// A raw socket.
pub struct Raw {
    program: PathBuf,
    best: bool,
}

impl Raw {
    /// Creates the simple variant: one blocking write and as few blocking reads
    /// as possible per message.
    pub fn simple(program: PathBuf) -> Self {
        Self { program, best: false }
    }

    /// Creates the fastest variant: busy-polls for 20 µs before blocking, and
    /// writes streams in chunks of 64 KiB.
    pub fn best(program: PathBuf) -> Self {
        Self { program, best: true }
    }

    /// Starts the other process, with this many connections to it.
    fn open(&self, mode: &str, size: usize, channels: usize) -> Result<(Vec<Pipe>, Child)> {
        let folder = tempfile::tempdir().map_err(Error::io("make a folder for the socket"))?;
        let path = folder.path().join("raw");
        let listener = UnixListener::bind(&path).map_err(Error::io("listen on a socket"))?;
        listener.set_nonblocking(true).map_err(Error::io("set up the socket"))?;
        let best = if self.best { "best" } else { "simple" };
        let arguments = ["raw", mode, best, &size.to_string(), &channels.to_string()].map(Into::into);
        let mut child = Child::start(&self.program, arguments.into_iter().chain([path.into()]))?;
        let give_up = Instant::now() + PATIENCE;
        let mut pipes = Vec::new();
        while pipes.len() < channels {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(Error::io("set up the socket"))?;
                    pipes.push(Pipe::new(stream, self.best)?);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if child.has_ended() || Instant::now() > give_up {
                        return Err(Error::Peer("the raw peer does not connect".into()));
                    }
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => return Err(Error::io("accept a connection")(error)),
            }
        }
        Ok((pipes, child))
    }

    /// Sends messages of `size` bytes to the other process, which reports when
    /// it has them.
    fn send(&self, pace: Pace, size: usize) -> Measured {
        let (mut pipes, child) = self.open("sink", size, 1)?;
        let [pipe] = pipes.as_mut_slice() else { return Ok(None) };
        let pipe = std::cell::RefCell::new(pipe);
        let message = text(size);
        let send = || pipe.borrow_mut().put(message.as_bytes()).map(|()| 1);
        let finish = || {
            let mut pipe = pipe.borrow_mut();
            pipe.write(b"")?;
            pipe.read().map(|_| ())
        };
        clock::streams_here(&[child.pid()], size, || clock::feed(pace, send, finish).map(Some))
    }
}

impl Peer for Raw {
    fn name(&self) -> &str {
        if self.best { "raw-best" } else { "raw" }
    }

    fn title(&self) -> &str {
        if self.best { "Unix socket, at its best" } else { "Unix socket" }
    }

    fn is_limit(&self) -> bool {
        true
    }

    fn about(&self) -> String {
        let how = if self.best {
            "spins for 20 µs before it sleeps, streams are written 64 KiB at a time"
        } else {
            "blocking, one write for each message"
        };
        format!("a Unix socket with SP frames of bytes, nothing else: {how}")
    }

    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        let (pipes, child) = self.open("echo", size, channels)?;
        let message = text(size);
        let pipes: Vec<_> = pipes.into_iter().map(std::sync::Mutex::new).collect();
        let sample = clock::latencies(&[child.pid()], channels, |index| {
            let mut pipe = lock(&pipes[index]);
            clock::calls(pace, || {
                pipe.write(message.as_bytes())?;
                check(pipe.read()? == message.as_bytes(), "the raw peer gave back other bytes")
            })
        })?;
        Ok(Some(sample))
    }

    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        if record != Record::Typed {
            return Ok(None);
        }
        let (pipes, child) = self.open("source", size, channels)?;
        let pipes: Vec<_> = pipes.into_iter().map(std::sync::Mutex::new).collect();
        let sample = clock::streams(&[child.pid()], channels, size, |index| {
            let mut pipe = lock(&pipes[index]);
            clock::stream(pace, || {
                check(pipe.read()?.len() == size, "the raw peer sent another message")?;
                Ok(1)
            })
        })?;
        Ok(Some(sample))
    }

    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        let window = match ack {
            Ack::None => return self.send(pace, size),
            Ack::Each => 1,
            Ack::Window(window) => window,
        };
        let (mut pipes, child) = self.open("ack", size, 1)?;
        let [pipe] = pipes.as_mut_slice() else { return Ok(None) };
        let message = text(size);
        let mut under_way = 0;
        clock::streams_here(&[child.pid()], size, || {
            let next = || {
                while under_way < window {
                    pipe.put(message.as_bytes())?;
                    under_way += 1;
                }
                pipe.flush()?;
                let mut acks = 0;
                while acks == 0 || pipe.has_frame() {
                    check(pipe.read()? == b"{}", "the raw peer sent another acknowledgement")?;
                    acks += 1;
                }
                under_way -= acks;
                Ok(acks as u64)
            };
            clock::stream(pace, next).map(Some)
        })
    }

    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        self.send(pace, size)
    }
}

/// Runs the other process.
///
/// # Errors
/// The arguments are unknown, or the socket fails.
pub(crate) fn serve(arguments: &[&str]) -> Result<()> {
    let wrong = || Error::Peer(format!("the raw peer does not know what to do with {arguments:?}"));
    let [mode, best, size, channels, path] = arguments else { return Err(wrong()) };
    let size: usize = size.parse().map_err(|_| wrong())?;
    let channels: usize = channels.parse().map_err(|_| wrong())?;
    std::thread::scope(|scope| {
        for _ in 0..channels {
            let stream = UnixStream::connect(path).map_err(Error::io("connect to the socket"))?;
            let mut pipe = Pipe::new(stream, *best == "best")?;
            // The work ends with the connection.
            scope.spawn(move || match *mode {
                "echo" => pipe.echo(),
                "source" => pipe.pour(size),
                "sink" => pipe.drain(),
                _ => pipe.acknowledge(),
            });
        }
        Ok(())
    })
}

/// One connection.
pub(super) struct Pipe {
    stream: UnixStream,
    best: bool,
    buffer: Vec<u8>,
    /// Start of the received bytes not used yet.
    start: usize,
    end: usize,
    outgoing: Vec<u8>,
}

impl Pipe {
    fn new(stream: UnixStream, best: bool) -> Result<Self> {
        stream.set_nonblocking(best).map_err(Error::io("set up the socket"))?;
        Ok(Self { stream, best, buffer: vec![0; CHUNK], start: 0, end: 0, outgoing: Vec::with_capacity(2 * CHUNK) })
    }

    /// Creates the fastest variant, connected to an SP socket at this path.
    pub(super) fn dial(path: &Path, protocol: Protocol) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(Error::io(format!("connect to {}", path.display())))?;
        Self::greeted(stream, protocol)
    }

    /// Creates the fastest variant, with SP's greetings exchanged.
    pub(super) fn greeted(mut stream: UnixStream, protocol: Protocol) -> Result<Self> {
        let mut greeting = [0; HEADER];
        let greeted = stream.write_all(&protocol.header()).and_then(|()| stream.read_exact(&mut greeting));
        greeted.map_err(Error::io("exchange SP's greetings"))?;
        check(greeting == protocol.peer().header(), "the other end speaks another protocol of SP")?;
        Self::new(stream, true)
    }

    fn echo(&mut self) -> Result<()> {
        loop {
            let length = self.receive()?;
            let body = self.start - length..self.start;
            self.outgoing.extend_from_slice(&frame_header(length));
            self.outgoing.extend_from_slice(&self.buffer[body]);
            self.flush()?;
        }
    }

    fn pour(&mut self, size: usize) -> Result<()> {
        let message = text(size);
        loop {
            self.put(message.as_bytes())?;
        }
    }

    /// Answers an empty message, which follows all others.
    fn drain(&mut self) -> Result<()> {
        loop {
            if self.receive()? == 0 {
                self.write(b"")?;
            }
        }
    }

    fn acknowledge(&mut self) -> Result<()> {
        loop {
            self.receive()?;
            self.frame(b"{}");
            // Combined, where several can be acknowledged at once.
            if !self.best || !self.has_frame() {
                self.flush()?;
            }
        }
    }

    /// Sends a message, or queues it in the fastest variant.
    pub(super) fn put(&mut self, body: &[u8]) -> Result<()> {
        self.frame(body);
        if self.best && self.outgoing.len() < CHUNK { Ok(()) } else { self.flush() }
    }

    /// Sends a message, after those that were queued.
    pub(super) fn write(&mut self, body: &[u8]) -> Result<()> {
        self.frame(body);
        self.flush()
    }

    pub(super) fn frame(&mut self, body: &[u8]) {
        self.outgoing.extend_from_slice(&frame_header(body.len()));
        self.outgoing.extend_from_slice(body);
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Err(error) => return Err(Error::io("write to the raw socket")(error)),
            }
        }
        self.outgoing.clear();
        Ok(())
    }

    /// Returns the next message.
    pub(super) fn read(&mut self) -> Result<&[u8]> {
        let length = self.receive()?;
        Ok(&self.buffer[self.start - length..self.start])
    }

    /// Receives the next message; returns its length; the message ends at
    /// `start`.
    fn receive(&mut self) -> Result<usize> {
        loop {
            if let Some(length) = self.frame_length()
                && self.end - self.start >= FRAME_HEADER + length
            {
                self.start += FRAME_HEADER + length;
                return Ok(length);
            }
            self.fill()?;
        }
    }

    fn frame_length(&self) -> Option<usize> {
        let header = self.buffer[self.start..self.end].first_chunk::<FRAME_HEADER>()?;
        header.last_chunk::<8>().map(|length| u64::from_be_bytes(*length) as usize)
    }

    pub(super) fn has_frame(&self) -> bool {
        self.frame_length().is_some_and(|length| self.end - self.start >= FRAME_HEADER + length)
    }

    fn fill(&mut self) -> Result<()> {
        let whole = self.frame_length().unwrap_or(0) + FRAME_HEADER;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < whole || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < whole {
            self.buffer.resize(whole, 0);
        }
        let spin_until = self.best.then(|| Instant::now() + SPIN);
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Error::Peer("the raw peer has closed the connection".into())),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if spin_until.is_none_or(|end| Instant::now() >= end) {
                        self.wait(PollFlags::IN)?;
                    }
                }
                Err(error) => return Err(Error::io("read from the raw socket")(error)),
            }
        }
    }

    fn wait(&self, flags: PollFlags) -> Result<()> {
        match poll(&mut [PollFd::new(&self.stream, flags)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::io("wait for the raw socket")(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_any_length_come_whole() {
        for best in [false, true] {
            let (one, other) = UnixStream::pair().unwrap();
            let (mut one, mut other) = (Pipe::new(one, best).unwrap(), Pipe::new(other, best).unwrap());
            let echo = std::thread::spawn(move || other.echo());
            for size in [0, 1, 100, CHUNK, CHUNK + 1, 1 << 20, 5] {
                let message = text(size);
                one.write(message.as_bytes()).unwrap();
                assert_eq!(one.read().unwrap(), message.as_bytes(), "{size}");
            }
            drop(one);
            assert!(echo.join().unwrap().is_err());
        }
    }

    #[test]
    fn wrong_arguments_are_told() {
        assert!(serve(&["echo"]).unwrap_err().to_string().contains("echo"));
    }
}
