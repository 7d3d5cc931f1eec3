//! The worker's process, as its guard has it.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, Signal, WaitStatus, pidfd_open, pidfd_send_signal};

use super::account::Held;
use super::link::{self, Said};
use super::page;
use crate::Result;

/// How long a worker may take to take a command; it has nothing else to do.
const TAKE: Duration = Duration::from_secs(5);

/// A worker; dropping it kills it.
pub(super) struct Worker {
    child: Child,
    pidfd: OwnedFd,
    socket: UnixStream,
    /// What it has said and is not a whole frame yet.
    buffer: Vec<u8>,
    /// Descriptors that have come, and whose frames have not.
    descriptors: VecDeque<OwnedFd>,
    /// The connections of its sinks.
    held: Vec<Held>,
    /// It takes commands.
    pub(super) ready: bool,
    /// Until when it has to say the next.
    pub(super) deadline: Option<Instant>,
    /// It has hung up.
    leaves: bool,
    /// How it has ended, where it was waited for with other children.
    ended: Option<ExitStatus>,
    reaped: bool,
}

impl Worker {
    /// Starts this command line, or this same executable once more. It may take
    /// `patience` to be ready.
    pub(super) fn start(command: Option<&[String]>, memory: &OwnedFd, patience: Duration) -> Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_write_timeout(Some(TAKE))?;
        // Nothing else is started meanwhile: only the worker inherits it.
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let (variable, value) = page::variable(&theirs, memory);
        let mut command = match command {
            Some([program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            _ => itself(),
        };
        let mut child = command.env(variable, value).spawn()?;
        // It is not waited for yet, so the number is its own.
        let pidfd = Pid::from_raw(child.id().cast_signed()).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = match pidfd {
            Some(Ok(pidfd)) => pidfd,
            other => {
                let _ = child.kill();
                let _ = child.wait();
                let error = other.and_then(std::result::Result::err).unwrap_or(Errno::SRCH);
                return Err(format!("the worker cannot be watched: {error}").into());
            }
        };
        let deadline = Some(Instant::now() + patience);
        Ok(Self {
            child,
            pidfd,
            socket,
            buffer: Vec::new(),
            descriptors: VecDeque::new(),
            held: Vec::new(),
            ready: false,
            deadline,
            leaves: false,
            ended: None,
            reaped: false,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// To be polled: it has ended, and it has said something.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let socket = (!self.leaves).then(|| PollFd::new(&self.socket, PollFlags::IN));
        std::iter::once(PollFd::new(&self.pidfd, PollFlags::IN)).chain(socket)
    }

    /// It takes no commands any more, and has this long to end.
    pub(super) fn leave(&mut self, patience: Duration) {
        if !std::mem::replace(&mut self.leaves, true) {
            self.ready = false;
            self.deadline = Some(Instant::now() + patience);
        }
    }

    /// Tells it to carry out a command.
    pub(super) fn tell(&self, command: &[u8], again: bool) -> io::Result<()> {
        link::tell(&self.socket, command, again)
    }

    /// Tells it to end in order, whatever it is doing.
    pub(super) fn end(&self) {
        let _ = pidfd_send_signal(self.pidfd.as_fd(), Signal::TERM);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Whether it has ended by then.
    pub(super) fn ends_by(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], left.as_ref()) {
                Err(Errno::INTR) => {}
                ended => return ended.is_ok_and(|ended| ended > 0),
            }
        }
    }

    /// Appends what it has said; whether it has hung up. Who says nonsense is
    /// killed.
    pub(super) fn hear(&mut self, said: &mut Vec<Said>) -> bool {
        let gone = loop {
            let mut piece = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut piece)], &mut ancillary, flags) {
                Ok(received) if received.bytes == 0 => break true,
                Ok(received) => {
                    self.buffer.extend_from_slice(&piece[..received.bytes]);
                    for message in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                            self.descriptors.extend(descriptors);
                        }
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break false,
                Err(_) => break true,
            }
        };
        loop {
            match link::parse(&mut self.buffer) {
                Ok(Some(Said::Hold(connection, meta))) => {
                    let held = self.descriptors.pop_front().map(|descriptor| Held { connection, meta, descriptor });
                    self.held.extend(held);
                }
                Ok(Some(Said::LetGo(connection))) => self.held.retain(|held| held.connection != connection),
                Ok(Some(frame)) => said.push(frame),
                Ok(None) => return gone,
                Err(error) => {
                    tracing::error!(pid = self.pid(), "{error}: it is killed");
                    self.kill();
                    return true;
                }
            }
        }
    }

    /// This child has been waited for: it may have been the worker.
    pub(super) fn was_reaped(&mut self, pid: Pid, status: WaitStatus) {
        if self.ended.is_none() && pid == Pid::from_child(&self.child) {
            self.ended = Some(ExitStatus::from_raw(status.as_raw()));
        }
    }

    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
    }

    /// How it has ended, and the connections that it has left. One that has not
    /// ended is killed.
    pub(super) fn reap(mut self) -> (io::Result<ExitStatus>, Vec<Held>) {
        self.kill();
        self.reaped = true;
        let status = self.ended.map_or_else(|| self.child.wait(), Ok);
        (status, std::mem::take(&mut self.held))
    }
}

/// This executable with its arguments, also when its file has been replaced, as
/// an update does.
fn itself() -> Command {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    command
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            if self.ended.is_none() {
                let _ = self.child.wait();
            }
        }
    }
}
