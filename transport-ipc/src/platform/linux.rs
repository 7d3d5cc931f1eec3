//! Linux: epoll, eventfd, pidfd, memfd, and `/proc`.
#![allow(unsafe_code)] // options and ioctls that rustix has no function for; each block says why it is sound

use std::ffi::{CStr, OsStr, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFlags, Timespec, epoll, eventfd};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::fs::{
    AtFlags, MemfdFlags, OFlags, RenameFlags, fstat, fstatfs, linkat, memfd_create, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, getpeername};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use super::{Interest, MAX_READY};

/// The poll event of a peer that has closed its side of a connection.
pub const PEER_CLOSED: PollFlags = PollFlags::RDHUP;

/// Makes a send to a closed connection an error and no signal.
pub const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;

/// Opens a folder only to name the files in it, which needs no right to list
/// them.
pub const ONLY_NAMES: OFlags = OFlags::PATH;

/// A flag that can be waited for: its descriptor polls readable while it is
/// set. Setting, clearing and the state that it signals must be under one lock,
/// unless it is never cleared.
#[derive(Debug)]
pub struct Flag(OwnedFd);

impl Flag {
    /// Creates a clear flag.
    ///
    /// # Errors
    /// The process or the system has no free descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Sets the flag.
    pub fn raise(&self) {
        // A full counter is readable too: errors do not matter here.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Clears the flag.
    pub fn lower(&self) {
        // Nothing to read: the flag was clear already.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Flag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A set of descriptors that are waited for together. It polls readable itself
/// while one of them is ready.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// Creates an empty set.
    ///
    /// # Errors
    /// The process or the system has no free descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Adds a descriptor, which is reported by `id`. It leaves the set when it
    /// is closed.
    ///
    /// # Errors
    /// It is in the set already, it cannot be waited for, or the system has no
    /// room for it.
    pub fn add(&self, descriptor: impl AsFd, id: u64, interest: Interest) -> rustix::io::Result<()> {
        epoll::add(&self.0, descriptor, epoll::EventData::new_u64(id), flags(interest))
    }

    /// Arms a descriptor that is reported once again, or changes what is reported.
    ///
    /// # Errors
    /// [`Errno::NOENT`]: it is not in the set.
    pub fn arm(&self, descriptor: impl AsFd, id: u64, interest: Interest) -> rustix::io::Result<()> {
        epoll::modify(&self.0, descriptor, epoll::EventData::new_u64(id), flags(interest))
    }

    /// Removes a descriptor, if it is in the set.
    pub fn remove(&self, descriptor: impl AsFd) {
        let _ = epoll::delete(&self.0, descriptor);
    }

    /// Waits until descriptors are ready, and calls `ready` with the id of each;
    /// with none after `timeout`, or when a signal was handled. `None` waits
    /// without a limit.
    ///
    /// # Errors
    /// The system has no memory.
    pub fn wait(&self, timeout: Option<&Timespec>, ready: impl FnMut(u64)) -> rustix::io::Result<()> {
        let mut space = [const { MaybeUninit::uninit() }; MAX_READY];
        match epoll::wait(&self.0, &mut space, timeout) {
            Ok((events, _)) => events.iter().map(|event| event.data.u64()).for_each(ready),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Input => epoll::EventFlags::IN,
        Interest::InputOrRoom => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        Interest::InputOnce => epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
        Interest::RoomOnce => epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT,
    }
}

/// A process, which is not mistaken for a later one with its id. Its descriptor
/// polls readable once the process has ended.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Opens a process. The caller makes sure that the id is still its own.
    ///
    /// # Errors
    /// [`Errno::SRCH`]: there is no such process; others: it cannot be watched.
    pub fn open(pid: Pid) -> rustix::io::Result<Self> {
        pidfd_open(pid, PidfdFlags::empty()).map(Self)
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.0, signal);
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A folder whose new files are noticed. Its descriptor polls readable once
/// there are some.
#[derive(Debug)]
pub struct FolderWatch(OwnedFd);

impl FolderWatch {
    /// Maximum number of notices taken at a time: all that the kernel queues
    /// (`fs.inotify.max_queued_events`).
    const MAX_NOTICES: usize = 16384;

    /// Watches a folder.
    ///
    /// # Errors
    /// There is no such folder, or the system watches no more of them.
    pub fn new(folder: &Path) -> rustix::io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let made = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, folder, made)?;
        Ok(Self(watch))
    }

    /// Takes all pending notices, and calls `made` with the name of each new
    /// file, or with `None` when there were too many to name.
    ///
    /// # Errors
    /// There will be no further notices.
    pub fn take(&self, mut made: impl FnMut(Option<&OsStr>)) -> rustix::io::Result<()> {
        let mut space = [const { MaybeUninit::uninit() }; 4096];
        let mut notices = inotify::Reader::new(&self.0, &mut space);
        for _ in 0..Self::MAX_NOTICES {
            match notices.next() {
                Ok(notice) if notice.events().contains(ReadFlags::IGNORED) => return Err(Errno::NOENT),
                Ok(notice) if notice.events().contains(ReadFlags::QUEUE_OVERFLOW) => made(None),
                Ok(notice) => {
                    if let Some(name) = notice.file_name() {
                        made(Some(OsStr::from_bytes(name.to_bytes())));
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for FolderWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The system's clock that costs the least to read, since any time; it may be
/// some milliseconds late.
pub fn coarse_now() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Closes received descriptors in programs that this process starts.
pub const RECEIVE_CLOSED: RecvFlags = RecvFlags::CMSG_CLOEXEC;

/// The name of a process.
pub fn process_name(process: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Names this process as the system shows it.
pub fn name_process(name: &OsStr) {
    let _ = std::fs::write("/proc/self/comm", name.as_bytes());
}

/// Fills `bytes` with random ones of the kernel.
///
/// # Errors
/// The kernel has none yet, early in its start.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    // As few bytes as are asked for here come all at once.
    getrandom(bytes, GetRandomFlags::NONBLOCK)?;
    Ok(())
}

/// Creates zeroed memory of `length` bytes, which this process's children
/// inherit.
///
/// # Errors
/// The process or the system has no free descriptor, or no memory.
pub fn shared_memory(name: &CStr, length: u64) -> io::Result<OwnedFd> {
    let memory = memfd_create(name, MemfdFlags::empty())?;
    rustix::fs::ftruncate(&memory, length)?;
    Ok(memory)
}

/// Moves a file within a folder.
///
/// # Errors
/// `AlreadyExists` when there is a file of the new name.
pub fn rename_new(folder: impl AsFd, old: &Path, new: &Path) -> io::Result<()> {
    match renameat_with(&folder, old, &folder, new, RenameFlags::NOREPLACE) {
        // Not every file system supports that.
        Err(Errno::INVAL | Errno::NOSYS) => {
            linkat(&folder, old, &folder, new, AtFlags::empty()).and_then(|()| unlinkat(&folder, old, AtFlags::empty()))
        }
        moved => moved,
    }?;
    Ok(())
}

/// Makes this thread's timers as precise as the system can: they are 50 µs late
/// by default.
pub fn no_timer_slack() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// This process's executable, even if its file was replaced, as by an update.
///
/// # Errors
/// None here.
pub fn own_executable() -> io::Result<PathBuf> {
    Ok("/proc/self/exe".into())
}

/// The process id of the peer of a connected Unix socket (`SO_PEERCRED`).
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and the target is that
    // large; it consists of plain numbers, zeroed before, and any bits are
    // valid.
    let (outcome, credentials) = unsafe {
        let place = credentials.as_mut_ptr().cast();
        let socket: c_int = socket.as_raw_fd();
        let outcome = libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut length);
        (outcome, credentials.assume_init())
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0))
}

/// The inode of a pidfd of the peer process of a connected Unix socket; `None`
/// where the kernel has no such option, or gives all pidfds the same inode.
pub(crate) fn peer_inode(socket: BorrowedFd<'_>) -> Option<u64> {
    /// The magic number of the file system whose inodes are processes
    /// (`PID_FS_MAGIC`).
    const PID_FS: u64 = 0x5049_4446;
    let mut pidfd: c_int = -1;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and the target is that
    // large.
    let outcome = unsafe {
        let place = (&raw mut pidfd).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERPIDFD, place, &raw mut length)
    };
    if outcome != 0 || pidfd < 0 {
        return None;
    }
    // SAFETY: the kernel has just created it, and it has no other owner.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let is_own_inode = fstatfs(&pidfd).is_ok_and(|system| system.f_type as u64 == PID_FS);
    is_own_inode.then(|| fstat(&pidfd).ok().map(|status| status.st_ino)).flatten()
}

/// The parent of a process.
pub(crate) fn parent(process: u32) -> Option<u32> {
    if !is_proc_ours() {
        return None;
    }
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    parent_in(&stat)
}

/// Whether `/proc` shows this pid namespace: in a namespace created without its
/// own `/proc` it does not.
fn is_proc_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let own = std::fs::read_link("/proc/self");
        own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
    })
}

/// Parses the parent out of a process's `stat`: its id, its name in
/// parentheses, which may contain parentheses itself, its state, and then its
/// parent.
fn parent_in(stat: &[u8]) -> Option<u32> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let parent = stat[name_end + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty()).nth(1)?;
    str::from_utf8(parent).ok()?.parse().ok().filter(|parent| *parent != 0)
}

/// The number of bytes in flight on a Unix socket, including the kernel's
/// overhead; 0 when the system does not report it.
pub fn unread(socket: BorrowedFd<'_>) -> usize {
    /// The ioctl `TIOCOUTQ`, alias `SIOCOUTQ` (unix(7)).
    const OUTPUT_QUEUE: Opcode = 0x5411;
    // SAFETY: on a socket this request writes one int and reads nothing
    // (Linux, net/unix/af_unix.c, unix_ioctl), which is what `Getter` says.
    let bytes = unsafe { ioctl(socket, Getter::<OUTPUT_QUEUE, c_int>::new()) };
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0)
}

/// The number of bytes in flight on all of this process's connections to the
/// socket file at `path`, including those of libraries; `None` when the system
/// does not list the connections.
pub fn unread_at(path: &Path) -> Option<usize> {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc/self/fd").ok()? {
        let Ok(entry) = entry else { continue };
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let (true, Some(number)) = (is_socket, number) else { continue };
        // SAFETY: both uses are system calls that only query. Another thread
        // may close this descriptor meanwhile, or open another one with its
        // number: the calls then fail, or report on the other one, which the
        // name sorts out again at the next call; neither touches memory or a
        // socket's state.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let name = getpeername(socket).ok().flatten().and_then(|name| SocketAddrUnix::try_from(name).ok());
        let is_there = name.is_some_and(|name| {
            name.path_bytes()
                .is_some_and(|bytes| bytes.strip_suffix(b"\0").unwrap_or(bytes) == path.as_os_str().as_bytes())
        });
        if is_there {
            sum += unread(socket);
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_misleads_nobody() {
        assert_eq!(parent_in(b"7 (a) S 99 (b)) S 12 7 7 0"), Some(12));
        assert_eq!(parent_in(b"7 (a)  R 0 7"), None);
        assert_eq!(parent_in(b"7"), None);
    }

    #[test]
    fn what_is_unread_is_seen_with_the_descriptor_and_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut dialled = UnixStream::connect(&path).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        assert_eq!((unread(dialled.as_fd()), unread_at(&path)), (0, Some(0)));
        dialled.write_all(b"abc").unwrap();
        let queued = unread(dialled.as_fd());
        assert!(queued >= 3);
        assert_eq!((unread_at(&path), unread_at(&folder.path().join("other"))), (Some(queued), Some(0)));
        accepted.read_exact(&mut [0; 3]).unwrap();
        assert_eq!((unread(dialled.as_fd()), unread_at(&path)), (0, Some(0)));
    }
}
