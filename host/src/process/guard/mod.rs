//! Guard of this process's groups of processes: ends them when this process, the
//! host, is gone without having ended them, as after SIGKILL.
//!
//! A plugin cannot be relied on to notice: an idle plugin on the official Go SDK
//! does not, nor do a plugin's own children, nor what a wrapper like `conda run`
//! or an installer runs as its child. A parent-death signal reaches only the
//! direct child, and fires when the *thread* that spawned it ends. So there is a
//! process that does nothing but wait for the host's end.
//!
//! # Life
//!
//! [`Guard::of_this_process`] creates a pair of sockets and copies the host: the
//! guard is a child of the host, and there is one, for whoever holds it: each
//! `Host`, and each group. The last one to let go of it ends it and waits for
//! it, so that nothing is left of it, even where no process reaps orphans. The
//! guard's end raises no SIGCHLD, and is invisible to an engine that waits for
//! any child (`waitpid(-1)`).
//!
//! The guard prepares itself and reports it; only then is a group's leader
//! started, which sends its process id to the guard before it executes anything.
//! So no process ever runs without a guard.
//!
//! The guard has its own session without a terminal, blocks every signal that
//! can be blocked, has `/` as its working directory, is named `ekuiper-guard`,
//! and has one descriptor: its end of the pair. In particular it holds no
//! group's output, which would never end.
//!
//! The guard reads. The end of the stream means that the host is gone, for
//! whatever reason: SIGTERM to the groups, one second, SIGKILL. A host that is
//! merely stopped keeps its descriptors, and its plugins.
//!
//! A host that has ended a group itself has the guard forget it, and waits for
//! the answer ([`Guard::dismiss`]) before it reaps the group's leader: so the
//! group's id cannot be reused meanwhile. Once the host is gone, init may
//! release the ids; the guard checks every 10 ms whether the groups are gone,
//! and the kernel reuses an id only after all others.
//!
//! # Costs and limits
//!
//! - The guard is a copy of the host: it shows the host's command line and
//!   resident memory in `ps`. The memory is shared, and pages that the host
//!   changes later are copied: in the worst case the guard holds as much memory
//!   as the host had when the first `Host` was built. Build it before filling
//!   large caches. The copy takes 2 ms per 100 MB (measured), which holds the
//!   host's other threads up, and fails where the system refuses to commit that
//!   memory (`vm.overcommit_memory=2`). The starts of plugins copy nothing.
//! - A process that leaves its group (`setsid`, `setpgid`: a daemon) is out of
//!   reach, as it is for the host.
//! - A process that the host forks without executing a program (for example
//!   Python's `multiprocessing` with `fork`) holds the host's end of the pair, and
//!   the guard waits for that process's end too.
//! - Two things can end a guard early: SIGKILL to itself, and the end of its
//!   container or cgroup, which ends the plugins too. The next start or end of a
//!   group notices that, and a guard that is stopped, and has another one guard
//!   them all. Until then one that was killed is a zombie.
//! - If the host was killed, and no process reaps orphans, the guard and the
//!   processes it has ended remain as zombies.
#![allow(unsafe_code)] // after the copy

mod watch;

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use ekuiper_transport_ipc::platform::NO_SIGNAL;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, socketpair};
use rustix::process::{Pid, Signal};

use super::fork::{self, LINE, LINE_FLAGS, clear_of_stdio, retry};
use crate::sync::lock;

/// Maximum number of groups.
const MAX_GROUPS: usize = 65_536;

/// Maximum time for the guard to take a message or to answer, which only a guard
/// that somebody has stopped exceeds.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(5);

/// Maximum time for a new guard to begin, which nobody has had the time to stop:
/// a machine with much else to do takes seconds.
const BEGINNING: std::time::Duration = std::time::Duration::from_secs(60);

/// What a guard is asked to forget that is only to answer.
const NO_GROUP: c_int = 0;

/// The guard of this process, while anybody holds it.
static OWN: Mutex<Weak<Guard>> = Mutex::new(Weak::new());

/// The guard of a process's groups, which ends with the last reference.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The host's process: a copy of it has no guard.
    owner: Pid,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    watcher: Watcher,
    /// The groups that it guards, from the time at which their leaders run.
    groups: Vec<Pid>,
}

/// The guard's process. Dropping it ends the process, and waits until nothing
/// is left of it.
#[derive(Debug)]
struct Watcher {
    line: Arc<OwnedFd>,
    pid: Pid,
}

/// The host's end of the connection to the guard, for a group's leader.
#[derive(Debug)]
pub(crate) struct Line(Arc<OwnedFd>);

/// What the host tells the guard, and the guard repeats when a group is
/// dismissed.
#[derive(Clone, Copy)]
struct Message {
    order: Order,
    group: c_int,
}

#[derive(Clone, Copy)]
enum Order {
    Guard,
    Dismiss,
}

impl Message {
    const LENGTH: usize = 5;

    fn encode(self) -> [u8; Self::LENGTH] {
        let [first, second, third, fourth] = self.group.to_ne_bytes();
        [self.order as u8, first, second, third, fourth]
    }

    fn decode([order, group @ ..]: [u8; Self::LENGTH]) -> Option<Self> {
        let order = [Order::Guard, Order::Dismiss].into_iter().find(|known| *known as u8 == order)?;
        Some(Self { order, group: c_int::from_ne_bytes(group) })
    }
}

impl Guard {
    /// Returns the guard of this process, after starting it if there is none.
    ///
    /// # Errors
    /// The operating system has no process, memory or descriptor for it.
    pub(crate) fn of_this_process() -> io::Result<Arc<Self>> {
        let owner = rustix::process::getpid();
        let mut own = lock(&OWN);
        if let Some(guard) = own.upgrade().filter(|guard| guard.owner == owner) {
            return Ok(guard);
        }
        let state = State { watcher: Watcher::start()?, groups: Vec::new() };
        let guard = Arc::new(Self { owner, state: Mutex::new(state) });
        *own = Arc::downgrade(&guard);
        Ok(guard)
    }

    /// Returns the connection for the leader of a new group.
    ///
    /// # Errors
    /// The guard was killed, and there cannot be another one; or it guards as
    /// many groups as it can.
    pub(crate) fn line(&self) -> io::Result<Line> {
        let mut state = lock(&self.state);
        if state.groups.len() >= MAX_GROUPS {
            return Err(Errno::AGAIN.into());
        }
        state.revive()?;
        Ok(Line(state.watcher.line.clone()))
    }

    /// Counts a group whose leader has told the guard of itself.
    pub(crate) fn enlist(&self, group: Pid, line: &Line) {
        let mut state = lock(&self.state);
        state.groups.push(group);
        // Another guard, which has not heard of it.
        if !Arc::ptr_eq(&state.watcher.line, &line.0) {
            let _ = state.watcher.guard(group);
        }
    }

    /// Has the guard forget a group that has been ended, whose id must still be
    /// the group's.
    pub(crate) fn dismiss(&self, group: Pid) {
        // A copy of the host's process has the guard's number only.
        if self.owner != rustix::process::getpid() {
            return;
        }
        let mut state = lock(&self.state);
        state.groups.retain(|other| *other != group);
        if state.watcher.dismiss(group).is_err()
            && let Err(error) = state.replace()
        {
            tracing::error!(%error, "the guard was killed, and there cannot be another one: plugins may outlive this process");
        }
    }

    #[cfg(test)]
    pub(crate) fn pid(&self) -> Pid {
        lock(&self.state).watcher.pid
    }
}

impl State {
    /// Replaces a guard that was killed or stopped.
    fn revive(&mut self) -> io::Result<()> {
        if self.watcher.answers() { Ok(()) } else { self.replace() }
    }

    /// Has another guard guard the groups.
    fn replace(&mut self) -> io::Result<()> {
        // The former one ends no group: it is killed before its line is closed.
        self.watcher = Watcher::start()?;
        tracing::warn!("the guard of the plugins' processes was killed or stopped: there is another one");
        self.groups.iter().try_for_each(|group| self.watcher.guard(*group))
    }
}

impl Watcher {
    /// Starts a guard, which has no group yet.
    fn start() -> io::Result<Self> {
        // Each message is received whole.
        let (host, guard) = socketpair(AddressFamily::UNIX, LINE, LINE_FLAGS, None)?;
        let line = Arc::new(clear_of_stdio(host)?);
        set_socket_timeout(&line, Timeout::Recv, Some(BEGINNING))?;
        set_socket_timeout(&line, Timeout::Send, Some(ANSWER))?;
        let mut space = vec![0; MAX_GROUPS];
        // SAFETY: `be_guard` makes system calls on the stack's own memory, and
        // on `space`.
        let pid = unsafe { fork::copy(|| watch::be_guard(guard.as_fd(), &mut space)) }?;
        drop(guard);
        let started = Self { line, pid };
        let mut report = [0];
        match retry(|| rustix::net::recv(&started.line, &mut report, RecvFlags::empty())) {
            Ok((_, 1)) if report == [0] => {
                set_socket_timeout(&started.line, Timeout::Recv, Some(ANSWER))?;
                Ok(started)
            }
            // Error numbers are below 256.
            Ok((_, 1)) => Err(io::Error::from_raw_os_error(report[0].into())),
            Ok(_) => Err(io::Error::other("it was killed")),
            Err(Errno::AGAIN) => Err(io::Error::new(io::ErrorKind::TimedOut, "the guard did not begin in time")),
            Err(errno) => Err(errno.into()),
        }
    }

    fn is_alive(&self) -> bool {
        matches!(fork::wait_for(self.pid.as_raw_nonzero().get(), libc::WNOHANG), Ok(None))
    }

    /// Returns whether it does its work. One that is stopped would miss the
    /// host's end.
    fn answers(&self) -> bool {
        self.is_alive() && self.ask(NO_GROUP).is_ok()
    }

    fn send(&self, order: Order, group: c_int) -> io::Result<[u8; Message::LENGTH]> {
        let message = Message { order, group }.encode();
        retry(|| rustix::net::send(&self.line, &message, NO_SIGNAL))?;
        Ok(message)
    }

    fn guard(&self, group: Pid) -> io::Result<()> {
        self.send(Order::Guard, group.as_raw_nonzero().get()).map(drop)
    }

    /// Waits until the guard has forgotten the group.
    fn dismiss(&self, group: Pid) -> io::Result<()> {
        self.ask(group.as_raw_nonzero().get())
    }

    fn ask(&self, group: c_int) -> io::Result<()> {
        let message = self.send(Order::Dismiss, group)?;
        let mut answer = [0; Message::LENGTH];
        match retry(|| rustix::net::recv(&self.line, &mut answer, RecvFlags::empty()))? {
            _ if answer == message => Ok(()),
            _ => Err(Errno::PIPE.into()),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // A child of this process that has not been reaped: the id is its own.
        if self.is_alive() {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            let _ = fork::wait_for(self.pid.as_raw_nonzero().get(), 0);
        }
    }
}

impl Line {
    /// Tells the guard that this process leads a group. For a process that is to
    /// execute a program.
    pub(crate) fn lead(&self) -> io::Result<()> {
        let group = rustix::process::getpid().as_raw_nonzero().get();
        let message = Message { order: Order::Guard, group }.encode();
        retry(|| rustix::net::send(&self.0, &message, NO_SIGNAL))?;
        Ok(())
    }
}
