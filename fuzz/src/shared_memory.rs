//! Shared memory: a peer that writes any words, bytes and bells.
//!
//! An input is a script: what the peer does, one step after the other, to a
//! listener that receives and answers meanwhile.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::sp::{Protocol, frame_header};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{
    Deadline, Endpoint, Options, Pull, PullEvent, Push, Reply, ReplyEvent, Ticket, Transport,
};
use ekuiper_transport_shm::ShmTransport;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Limit of a message's length, in bytes.
const MAX_MESSAGE: usize = 4096;

/// The layout, spelled out: it is documented, and not the code's under test.
const CAPACITY: u32 = 131_072;
const LENGTH: u32 = 4096 + 2 * CAPACITY;
const RING: u32 = 512;
const TAIL: u32 = 0;
const HEAD: u32 = 128;
const RECEIVER: u32 = 256;
const SENDER: u32 = 384;
const FROM_LISTENER: u32 = 0;
const FROM_DIALLER: u32 = 1;
const BELL: u8 = 0xeb;

/// Time in which the honest peer's message arrives, whatever else there is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The honest side, made once: an input costs it one connection at most.
struct Stage {
    pull: Box<dyn Pull>,
    reply: Box<dyn Reply>,
    honest: Box<dyn Push>,
    at: [Address; 2],
    inputs: u32,
    _folder: tempfile::TempDir,
}

/// Whatever a peer does to its memory and its socket, another peer's message
/// arrives, and no message is longer than the limit.
pub fn shared_memory(data: &[u8]) {
    static STAGE: LazyLock<Mutex<Stage>> = LazyLock::new(|| Mutex::new(Stage::new()));
    lock(&STAGE).play(data);
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = ["pull", "reply"].map(|name| Address::new(folder.path().join(name)).unwrap());
        let mut options = Options::default();
        options.max_message = MAX_MESSAGE;
        let shm = ShmTransport::new();
        let pull = shm.pull(&Endpoint::Listen(at[0].clone()), &options).unwrap();
        let reply = shm.reply(&at[1], &options).unwrap();
        let honest = shm.push(&Endpoint::Dial(at[0].clone()), &options).unwrap();
        honest.connect(soon()).unwrap();
        Self { pull, reply, honest, at, inputs: 0, _folder: folder }
    }

    fn play(&mut self, data: &[u8]) {
        let Some((first, script)) = data.split_first() else { return };
        let asks = first & 1 != 0;
        let Some(mut peer) = Peer::dial(self.at[usize::from(asks)].path()) else { return };
        if first & 2 == 0 {
            let own = if asks { Protocol::Request } else { Protocol::Push };
            peer.append(&own.header());
            peer.socket_bytes(&[BELL]);
        }
        let mut script = Script(script);
        let mut ticket = None;
        while let Some(step) = script.byte() {
            match step % 8 {
                0 => peer.append(script.bytes()),
                1 => {
                    let body = script.bytes();
                    peer.append(&[&frame_header(body.len()), body].concat());
                }
                2 => peer.set(FROM_DIALLER, TAIL, script.word()),
                3 => peer.set(FROM_LISTENER, HEAD, script.word()),
                4 => peer.set(u32::from(step >> 4 & 1), if step & 8 == 0 { RECEIVER } else { SENDER }, script.word()),
                5 => peer.put(script.word() % (LENGTH - 4), &script.word().to_ne_bytes()),
                6 if step & 8 == 0 => peer.socket_bytes(&[BELL]),
                6 => peer.socket_bytes(script.bytes()),
                _ => self.act(&mut ticket, usize::from(step >> 3)),
            }
        }
        self.act(&mut ticket, 0);
        drop(peer);
        self.is_well();
    }

    /// Receives what is there, and answers with so many bytes and more.
    fn act(&self, ticket: &mut Option<Ticket>, length: usize) {
        let mut buffer = Vec::new();
        for _ in 0..4 {
            if self.pull.receive(&mut buffer, past()).is_ok() {
                assert!(buffer.len() <= MAX_MESSAGE);
            }
            if let Ok(ReplyEvent::Request(asked)) = self.reply.receive(&mut buffer, past()) {
                assert!(buffer.len() <= MAX_MESSAGE);
                *ticket = Some(asked);
            }
        }
        if let Some(ticket) = ticket.take() {
            let _ = self.reply.send(&ticket, &vec![7; length * 128], past());
        }
    }

    /// Asserts that the honest peer's next message arrives.
    fn is_well(&mut self) {
        self.inputs = self.inputs.wrapping_add(1);
        let message = [&b"honest "[..], &self.inputs.to_be_bytes()].concat();
        self.honest.send(&message, soon()).unwrap();
        let mut buffer = Vec::new();
        loop {
            if let PullEvent::Message(_) = self.pull.receive(&mut buffer, soon()).unwrap() {
                assert!(buffer.len() <= MAX_MESSAGE);
                if buffer == message {
                    return;
                }
            }
        }
    }
}

/// A peer that has the memory as a file.
struct Peer {
    socket: UnixStream,
    memory: File,
    tail: u32,
}

impl Peer {
    fn dial(path: &Path) -> Option<Self> {
        let socket = UnixStream::connect(path).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(&socket, &mut [IoSliceMut::new(&mut greeting)], &mut ancillary, flags).ok()?;
        // What the listener does not take yet would block this thread, which is
        // the listener's, too.
        socket.set_nonblocking(true).unwrap();
        let memory = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Some(Self { socket, memory: memory?.into(), tail: 0 })
    }

    /// Writes bytes at an offset.
    fn put(&self, offset: u32, bytes: &[u8]) {
        self.memory.write_all_at(bytes, offset.into()).unwrap();
    }

    fn set(&mut self, ring: u32, word: u32, value: u32) {
        if (ring, word) == (FROM_DIALLER, TAIL) {
            self.tail = value;
        }
        self.put(ring * RING + word, &value.to_ne_bytes());
    }

    /// Writes bytes behind those that were written last, and publishes them.
    fn append(&mut self, bytes: &[u8]) {
        for (at, byte) in (0..).zip(bytes) {
            let index = self.tail.wrapping_add(at) % CAPACITY;
            self.put(4096 + FROM_DIALLER * CAPACITY + index, &[*byte]);
        }
        self.set(FROM_DIALLER, TAIL, self.tail.wrapping_add(bytes.len() as u32));
    }

    fn socket_bytes(&mut self, bytes: &[u8]) {
        let _ = self.socket.write(bytes);
    }
}

/// The rest of the input.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Returns as many bytes as the next one says, at most all.
    fn bytes(&mut self) -> &'a [u8] {
        let length = self.byte().map_or(0, usize::from).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// Returns a word, small or large.
    fn word(&mut self) -> u32 {
        match self.bytes() {
            [] => 0,
            [one] => (*one).into(),
            [low, high] => u16::from_le_bytes([*low, *high]).into(),
            more => more.iter().take(4).rev().fold(0, |word, byte| word << 8 | u32::from(*byte)),
        }
    }
}

fn past() -> Deadline {
    Some(Instant::now())
}

fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}
