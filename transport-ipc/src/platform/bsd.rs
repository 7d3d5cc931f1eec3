//! macOS and the BSDs: kqueue and pipes. What they do not report is documented
//! where it is asked for. Compiled, and not run, by the project's own checks.
#![allow(unsafe_code)] // kqueue and a socket option that rustix has no safe function for; each block says why it is sound

use std::ffi::{CStr, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::kqueue::{self, Event, EventFilter, EventFlags, ProcessEvents};
use rustix::event::{PollFlags, Timespec};
use rustix::fs::{AtFlags, OFlags, linkat, unlinkat};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, Signal};
use rustix::time::{ClockId, clock_gettime};

use super::{Interest, MAX_READY};

/// The poll event of a peer that has closed its side of a connection.
pub const PEER_CLOSED: PollFlags = PollFlags::HUP;

/// Makes a send to a closed connection an error and no signal: Rust's and
/// Python's programs ignore that signal.
pub const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Opens a folder only to name the files in it.
pub const ONLY_NAMES: OFlags = OFlags::empty();

/// A flag that can be waited for: its descriptor polls readable while it is
/// set. Setting, clearing and the state that it signals must be under one lock,
/// unless it is never cleared.
#[derive(Debug)]
pub struct Flag {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Flag {
    /// Creates a clear flag.
    ///
    /// # Errors
    /// The process or the system has no free descriptor.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe()?;
        for end in [&reader, &writer] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok(Self { reader, writer })
    }

    /// Sets the flag.
    pub fn raise(&self) {
        // A full pipe is readable too: errors do not matter here.
        let _ = rustix::io::write(&self.writer, &[1]);
    }

    /// Clears the flag.
    pub fn lower(&self) {
        while rustix::io::read(&self.reader, &mut [0; 64]).is_ok_and(|count| count > 0) {}
    }
}

impl AsFd for Flag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
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
        let queue = kqueue::kqueue()?;
        rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self(queue))
    }

    /// Adds a descriptor, which is reported by `id`. It leaves the set when it
    /// is closed.
    ///
    /// # Errors
    /// It cannot be waited for, or the system has no room for it.
    pub fn add(&self, descriptor: impl AsFd, id: u64, interest: Interest) -> rustix::io::Result<()> {
        let descriptor = descriptor.as_fd();
        let (filters, once): (&[bool], _) = match interest {
            Interest::Input => (&[false], EventFlags::empty()),
            Interest::InputOrRoom => (&[false, true], EventFlags::empty()),
            Interest::InputOnce => (&[false], EventFlags::ONESHOT),
            Interest::RoomOnce => (&[true], EventFlags::ONESHOT),
        };
        filters.iter().try_for_each(|is_room| self.change(event(descriptor, id, *is_room, EventFlags::ADD | once)))
    }

    /// Arms a descriptor that is reported once again, or changes what is reported.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn arm(&self, descriptor: impl AsFd, id: u64, interest: Interest) -> rustix::io::Result<()> {
        self.remove(&descriptor);
        self.add(descriptor, id, interest)
    }

    /// Removes a descriptor, if it is in the set.
    pub fn remove(&self, descriptor: impl AsFd) {
        let descriptor = descriptor.as_fd();
        for is_room in [false, true] {
            let _ = self.change(event(descriptor, 0, is_room, EventFlags::DELETE));
        }
    }

    fn change(&self, event: Event) -> rustix::io::Result<()> {
        let mut none: [Event; 0] = [];
        // SAFETY: the descriptor of the change is open, since it is borrowed.
        unsafe { kqueue::kevent(&self.0, &[event], &mut none, Some(Duration::ZERO)) }.map(drop)
    }

    /// Waits until descriptors are ready, and calls `ready` with the id of each;
    /// with none after `timeout`, or when a signal was handled. `None` waits
    /// without a limit.
    ///
    /// # Errors
    /// The system has no memory.
    pub fn wait(&self, timeout: Option<&Timespec>, ready: impl FnMut(u64)) -> rustix::io::Result<()> {
        let mut events = Vec::with_capacity(MAX_READY);
        // SAFETY: there is no change, and descriptors leave the set when they
        // are closed.
        let waited =
            unsafe { kqueue::kevent_timespec(&self.0, &[], rustix::buffer::spare_capacity(&mut events), timeout) };
        match waited {
            Ok(_) => events.iter().map(|event| event.udata() as usize as u64).for_each(ready),
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

fn event(descriptor: BorrowedFd<'_>, id: u64, is_room: bool, flags: EventFlags) -> Event {
    let number = descriptor.as_raw_fd();
    let filter = if is_room { EventFilter::Write(number) } else { EventFilter::Read(number) };
    // All ids fit: machines of these systems have 64 bits.
    Event::new(filter, flags, id as usize as *mut _)
}

/// A process. Its descriptor polls readable once the process has ended.
#[derive(Debug)]
pub struct ProcessHandle {
    end: Poller,
    pid: Pid,
}

impl ProcessHandle {
    /// Opens a process. The caller makes sure that the id is still its own.
    ///
    /// # Errors
    /// [`Errno::SRCH`]: there is no such process; others: it cannot be watched.
    pub fn open(pid: Pid) -> rustix::io::Result<Self> {
        let queue = kqueue::kqueue()?;
        rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
        let end = Poller(queue);
        let filter = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
        end.change(Event::new(filter, EventFlags::ADD, std::ptr::null_mut()))?;
        Ok(Self { end, pid })
    }

    /// Sends a signal, unless the process has ended. Its parent must not have
    /// reaped it yet: a later process may have its id.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(self.pid, signal);
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// A folder whose new files are noticed: not on these systems.
#[derive(Debug)]
pub struct FolderWatch(OwnedFd);

impl FolderWatch {
    /// Watches a folder.
    ///
    /// # Errors
    /// [`Errno::NOTSUP`], always: look at the folder now and then.
    pub fn new(_: &Path) -> rustix::io::Result<Self> {
        Err(Errno::NOTSUP)
    }

    /// Takes all pending notices, of which there are none.
    ///
    /// # Errors
    /// None.
    pub fn take(&self, _: impl FnMut(Option<&OsStr>)) -> rustix::io::Result<()> {
        Ok(())
    }
}

impl AsFd for FolderWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The system's clock that costs the least to read, since any time.
pub fn coarse_now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Closes received descriptors in programs that this process starts: these
/// systems cannot do that while they receive.
pub const RECEIVE_CLOSED: RecvFlags = RecvFlags::empty();

/// The name of a process: not told here.
pub fn process_name(_: u32) -> String {
    String::new()
}

/// Names this process as the system shows it: by its file's name, here.
pub fn name_process(_: &OsStr) {}

/// Fills `bytes` with random ones of the kernel.
///
/// # Errors
/// `/dev/urandom` cannot be opened.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}

/// Creates zeroed memory of `length` bytes, which this process's children
/// inherit: a file without a name.
///
/// # Errors
/// No file can be created in the folder of temporary files.
pub fn shared_memory(name: &CStr, length: u64) -> io::Result<OwnedFd> {
    let mut number = [0; 8];
    random(&mut number)?;
    let name = format!("{}-{:016x}", name.to_string_lossy(), u64::from_ne_bytes(number));
    let path = std::env::temp_dir().join(name);
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.set_len(length)?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
    Ok(file.into())
}

/// Moves a file within a folder.
///
/// # Errors
/// `AlreadyExists` when there is a file of the new name.
pub fn rename_new(folder: impl AsFd, old: &Path, new: &Path) -> io::Result<()> {
    linkat(&folder, old, &folder, new, AtFlags::empty())?;
    unlinkat(&folder, old, AtFlags::empty())?;
    Ok(())
}

/// Makes this thread's timers as precise as the system can: these systems have
/// no such setting.
pub fn no_timer_slack() {}

/// This process's executable.
///
/// # Errors
/// The system does not tell.
pub fn own_executable() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The process id of the peer of a connected Unix socket (`LOCAL_PEERPID`).
#[cfg(target_vendor = "apple")]
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut pid: libc::pid_t = 0;
    // SAFETY: any number is a process id.
    unsafe { option(socket, libc::SOL_LOCAL, libc::LOCAL_PEERPID, &mut pid)? };
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0))
}

/// The process id of the peer of a connected Unix socket (`LOCAL_PEERCRED`,
/// FreeBSD 13).
#[cfg(target_os = "freebsd")]
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    /// The level of options of Unix sockets (unix(4)).
    const SOL_LOCAL: libc::c_int = 0;
    // SAFETY: it consists of plain numbers, of which zeros are valid.
    let mut credentials: libc::xucred = unsafe { std::mem::zeroed() };
    // SAFETY: any numbers are valid.
    unsafe { option(socket, SOL_LOCAL, libc::LOCAL_PEERCRED, &mut credentials)? };
    // SAFETY: zeroed before, and any number is a process id.
    let pid = unsafe { credentials.cr_pid__c_anonymous_union.cr_pid };
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0))
}

/// The process id of the peer of a connected Unix socket: not told by this
/// system, so that no plugin is admitted.
#[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    rustix::net::sockopt::socket_type(socket).map(|_| None).map_err(Into::into)
}

/// Reads an option of a socket.
///
/// # Safety
/// Any bytes are a valid `T`.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
unsafe fn option<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and the target is that
    // large.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut *value).cast(), &raw mut length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An identity of the peer process in another namespace: these systems have
/// none.
pub(crate) fn peer_inode(_: BorrowedFd<'_>) -> Option<u64> {
    None
}

/// The parent of a process.
#[cfg(target_vendor = "apple")]
pub(crate) fn parent(process: u32) -> Option<u32> {
    // SAFETY: it consists of plain numbers, of which zeros are valid.
    let mut found: libc::proc_bsdinfo = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::proc_bsdinfo>() as libc::c_int;
    let pid = process.try_into().ok()?;
    // SAFETY: the kernel writes at most `size` bytes, and the target is that
    // large.
    let written = unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, (&raw mut found).cast(), size) };
    (written == size && found.pbi_ppid != 0).then_some(found.pbi_ppid)
}

/// The parent of a process.
#[cfg(target_os = "freebsd")]
pub(crate) fn parent(process: u32) -> Option<u32> {
    let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, process.try_into().ok()?];
    // SAFETY: it consists of plain numbers and pointers, of which zeros are
    // valid.
    let mut found: libc::kinfo_proc = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::kinfo_proc>();
    let place = (&raw mut found).cast();
    // SAFETY: the kernel reads the name, and writes at most `size` bytes, and
    // the target is that large.
    let outcome = unsafe { libc::sysctl(name.as_ptr(), name.len() as _, place, &raw mut size, std::ptr::null(), 0) };
    let is_whole = outcome == 0 && size == size_of::<libc::kinfo_proc>();
    is_whole.then_some(found.ki_ppid).and_then(|parent| u32::try_from(parent).ok()).filter(|parent| *parent != 0)
}

/// The parent of a process: not told by this system.
#[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
pub(crate) fn parent(_: u32) -> Option<u32> {
    None
}

/// The number of bytes in flight on a Unix socket: these systems do not report
/// it.
pub fn unread(_: BorrowedFd<'_>) -> usize {
    0
}

/// The number of bytes in flight on all of this process's connections to a
/// socket file: these systems do not list the connections.
pub fn unread_at(_: &Path) -> Option<usize> {
    None
}
