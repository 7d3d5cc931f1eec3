//! What keeps tests from hanging, from meeting one another, and from leaving
//! something behind.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ekuiper_host::{Source, Tuple};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::tools;

/// How long anything may take that takes a moment on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// By when that is.
pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Receives a source's next row.
///
/// # Panics
/// None comes.
pub fn next(source: &mut Source) -> Tuple {
    source.next_within(PATIENCE).unwrap().expect("the source goes on")
}

/// Waits until a file has so many lines, and returns them: a sink without acks
/// has no other event.
///
/// # Panics
/// It has fewer.
pub fn lines_of(path: &Path, count: usize) -> Vec<String> {
    let give_up = soon();
    loop {
        let text = std::fs::read_to_string(path);
        if let Ok(text) = &text
            && text.lines().count() >= count
        {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(Instant::now() < give_up, "only this has come: {text:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long a test may take in all, its turn included; a build of the programs
/// that it needs, which may wait for another, begins it anew.
const TEST_TIMEOUT: Duration = Duration::from_secs(170);

/// Ends the process, with a message, when a test takes too long: every wait in
/// the tests has a deadline, and this is for the mistake in one. Peers and
/// plugins notice the end and go too.
#[must_use = "it watches until it is dropped"]
pub struct Watchdog(Option<mpsc::Sender<()>>);

impl Watchdog {
    /// Watches the calling test.
    pub fn start() -> Self {
        let (alive, ended) = mpsc::channel();
        let current = std::thread::current();
        std::thread::spawn(move || {
            let mut before = tools::builds();
            while ended.recv_timeout(TEST_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = tools::builds();
                if now == before && now.is_multiple_of(2) {
                    let test = current.name().unwrap_or("a test");
                    let _ = writeln!(std::io::stderr(), "{test} hangs: it has run for {TEST_TIMEOUT:?}");
                    std::process::exit(101);
                }
                before = now;
            }
        });
        Self(Some(alive))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

/// The right to use names in `/tmp` that are always the same, such as those of
/// the plugin `mirror` under eKuiper; on this machine one test at a time has
/// it.
#[must_use = "the turn ends when it is dropped"]
pub struct Turn(#[allow(dead_code)] UnixListener);

impl Turn {
    /// Waits for the turn.
    ///
    /// # Panics
    /// It does not come.
    pub fn take(what: &str) -> Self {
        // An abstract name is nobody's as soon as its process has ended, and
        // is no file.
        let name = SocketAddr::from_abstract_name(format!("ekuiper-interop-{what}")).unwrap();
        let give_up = Instant::now() + TEST_TIMEOUT;
        loop {
            match UnixListener::bind_addr(&name) {
                Ok(listener) => return Self(listener),
                Err(error) if error.kind() != std::io::ErrorKind::AddrInUse || Instant::now() > give_up => {
                    panic!("no turn for {what}: {error}")
                }
                // There is no event to wait for.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// A name that no other test on this machine has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Socket files in `/tmp` whose name contains `part`.
pub fn sockets_in_tmp(part: &str) -> Vec<PathBuf> {
    sockets_in(Path::new("/tmp")).into_iter().filter(|path| path.to_string_lossy().contains(part)).collect()
}

/// Socket files in a folder.
pub fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "ipc")).collect()
}

/// A process that is not this one's child, or need not be: its end can be
/// waited for.
pub struct Process {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    /// The living process of this number.
    ///
    /// # Panics
    /// There is none.
    pub fn of(pid: u32) -> Self {
        Self::find(pid).expect("the process lives")
    }

    fn find(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(pid.try_into().ok()?)?;
        Some(Self { pid, fd: pidfd_open(pid, PidfdFlags::empty()).ok()? })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// The processes that it has started and that live.
    pub fn children(&self) -> Vec<Self> {
        let found =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let is_child = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
            fields.next() != Some("Z") && fields.next() == Some(&self.pid().to_string())
        };
        found.filter(is_child).filter_map(Self::find).collect()
    }

    /// How many threads of this name it has.
    pub fn threads(&self, name: &str) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid.as_raw_nonzero()));
        let tasks = tasks.into_iter().flatten().filter_map(Result::ok);
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|comm| comm.trim_end() == name).count()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end.
    pub fn ended(&self) {
        assert!(self.ends_within(PATIENCE), "process {:?} has not ended", self.pid);
    }

    /// Whether it ends in time.
    pub fn ends_within(&self, patience: Duration) -> bool {
        ends_within(&self.fd, patience)
    }
}

/// Whether the process of this descriptor ends in time.
pub(crate) fn ends_within(process: &OwnedFd, patience: Duration) -> bool {
    let give_up = Instant::now() + patience;
    loop {
        let left = Timespec::try_from(give_up.saturating_duration_since(Instant::now())).unwrap();
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return ready == 1,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("cannot wait for a process: {error}"),
        }
    }
}
