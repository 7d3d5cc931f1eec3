//! A peer without our code: it takes the memory as a file, and writes into it
//! whatever a test wants, valid or not. All offsets are spelled out.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};

use ekuiper_conformance::PATIENCE;
use ekuiper_core::address::Address;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

pub(crate) const GREETING: [u8; 8] = *b"\0ShM\0\x01\0\0";
pub(crate) const WITHOUT_MEMORY: [u8; 8] = *b"\0ShM\0\x01\0\x01";
pub(crate) const BELL: [u8; 1] = [0xeb];
pub(crate) const CAPACITY: u32 = 131_072;
pub(crate) const LENGTH: u64 = 4096 + 2 * 131_072;
/// The words of a ring, from its own beginning on.
pub(crate) const TAIL: u64 = 0;
pub(crate) const HEAD: u64 = 128;
pub(crate) const RECEIVER: u64 = 256;
pub(crate) const SENDER: u64 = 384;
/// The rings: from the listener, and from the dialler.
pub(crate) const FROM_LISTENER: u64 = 0;
pub(crate) const FROM_DIALLER: u64 = 1;

pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The memory, as a file.
pub(crate) struct Memory(pub(crate) std::fs::File);

impl Memory {
    /// Makes memory that holds the listener's header, if it is long enough.
    pub(crate) fn create(seals: SealFlags, length: u64, header: [u8; 8]) -> Self {
        let descriptor = memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let memory = Self(descriptor.into());
        ftruncate(&memory.0, length).unwrap();
        if length > 8192 {
            memory.append(FROM_LISTENER, &header);
        }
        fcntl_add_seals(&memory.0, seals).unwrap();
        memory
    }

    pub(crate) fn word(&self, ring: u64, word: u64) -> u32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, ring * 512 + word).unwrap();
        u32::from_ne_bytes(bytes)
    }

    pub(crate) fn set(&self, ring: u64, word: u64, value: u32) {
        self.0.write_all_at(&value.to_ne_bytes(), ring * 512 + word).unwrap();
    }

    /// Writes bytes that do not wrap around, without publishing them.
    pub(crate) fn bytes(&self, ring: u64, at: u32, bytes: &[u8]) {
        let offset = 4096 + ring * u64::from(CAPACITY) + u64::from(at % CAPACITY);
        self.0.write_all_at(bytes, offset).unwrap();
    }

    /// Appends bytes that do not wrap around, and publishes them.
    pub(crate) fn append(&self, ring: u64, bytes: &[u8]) {
        let tail = self.word(ring, TAIL);
        self.bytes(ring, tail, bytes);
        self.set(ring, TAIL, tail.wrapping_add(bytes.len() as u32));
    }
}

/// A connection to a listener under test.
pub(crate) struct RawPeer {
    pub(crate) socket: UnixStream,
    pub(crate) memory: Memory,
}

impl RawPeer {
    /// Connects, and takes the memory.
    pub(crate) fn dial(address: &Address) -> Self {
        let socket = UnixStream::connect(address.path()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&socket, &mut [IoSliceMut::new(&mut greeting)], &mut ancillary, flags).unwrap();
        assert_eq!((received.bytes, greeting), (8, GREETING));
        let memory = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Self { socket, memory: Memory(memory.expect("the memory").into()) }
    }

    /// Connects, and sends a header of SP through the ring.
    pub(crate) fn dial_as(address: &Address, header: [u8; 8]) -> Self {
        let peer = Self::dial(address);
        peer.send(&header);
        peer
    }

    /// Appends bytes to the dialler's ring, and rings.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.memory.append(FROM_DIALLER, bytes);
        self.ring();
    }

    pub(crate) fn ring(&self) {
        let _ = (&self.socket).write(&BELL);
    }

    /// Whether the listener closes the connection, in time.
    pub(crate) fn is_closed(&self) -> bool {
        let mut bytes = [0; 64];
        loop {
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// Accepts the next connection, and sends `bytes` and `descriptors` on it.
pub(crate) fn accept_with(listener: &UnixListener, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> UnixStream {
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    socket
}

/// Accepts the next connection as a listener that follows the rules so far.
pub(crate) fn accept_as(listener: &UnixListener, header: [u8; 8]) -> RawPeer {
    let memory = Memory::create(SEALS, LENGTH, header);
    let socket = accept_with(listener, &GREETING, &[memory.0.as_fd()]);
    RawPeer { socket, memory }
}

/// A file that is no memory, of the right length.
pub(crate) fn file() -> OwnedFd {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LENGTH).unwrap();
    file.into()
}

/// Makes `memfd_create` fail in this process from now on, as a sandbox does.
#[allow(unsafe_code)]
pub(crate) fn forbid_memory() {
    rustix::thread::set_no_new_privs(true).unwrap();
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let number = libc::SYS_memfd_create as u32;
    let mut steps = [
        // The number of the call, at the beginning of `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: `program` and its steps live until the call returns, and the
    // kernel copies them. The filter denies one call, whose callers take errors.
    let filtered = unsafe {
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    assert_eq!(filtered, 0, "{}", std::io::Error::last_os_error());
}
