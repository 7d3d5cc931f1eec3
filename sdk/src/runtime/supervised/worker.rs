//! The worker's process, as its supervisor sees it.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use ekuiper_transport_ipc::platform::{ProcessHandle, RECEIVE_CLOSED, own_executable};
use ekuiper_transport_ipc::wait::deadline_after;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, WaitStatus};

use super::account::HeldConnection;
use super::link::{self, WorkerReport};
use super::page;
use crate::Result;

/// The write timeout of a command: an idle worker reads it immediately.
const TAKE: Duration = Duration::from_secs(5);

/// A worker process, which is killed on drop.
pub(super) struct Worker {
    child: Child,
    process: ProcessHandle,
    socket: UnixStream,
    /// Received bytes that are not a complete frame yet.
    buffer: Vec<u8>,
    /// Received descriptors whose frames have not arrived yet.
    descriptors: VecDeque<OwnedFd>,
    /// The connections of the worker's sinks.
    held: Vec<HeldConnection>,
    /// Whether the worker accepts commands.
    pub(super) ready: bool,
    /// The deadline of the worker's next message.
    pub(super) deadline: Option<Instant>,
    /// Whether the worker has closed its socket.
    leaves: bool,
    /// The exit status, if the worker was reaped together with other children.
    ended: Option<ExitStatus>,
    reaped: bool,
}

impl Worker {
    /// Starts a command line, or this executable again. The worker must be ready
    /// within `patience`.
    pub(super) fn start(command: Option<&[String]>, memory: &OwnedFd, patience: Duration) -> Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_write_timeout(Some(TAKE))?;
        // No other child is started meanwhile, so only the worker inherits it.
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let (variable, value) = page::variable(&theirs, memory);
        let mut command = match command {
            Some([program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            _ => itself()?,
        };
        let mut child = command.env(variable, value).spawn()?;
        // The child was not reaped yet, so the pid is still its own.
        let process = match ProcessHandle::open(Pid::from_child(&child)) {
            Ok(process) => process,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("cannot watch the worker's process: {error}").into());
            }
        };
        let deadline = Some(deadline_after(patience));
        Ok(Self {
            child,
            process,
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

    /// The descriptors to poll: for the worker's end, and for its messages.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let socket = (!self.leaves).then(|| PollFd::new(&self.socket, PollFlags::IN));
        std::iter::once(PollFd::new(&self.process, PollFlags::IN)).chain(socket)
    }

    /// Sends the worker no more commands, and sets the deadline of its end.
    pub(super) fn leave(&mut self, patience: Duration) {
        if !std::mem::replace(&mut self.leaves, true) {
            self.ready = false;
            self.deadline = Some(deadline_after(patience));
        }
    }

    /// Sends the worker a command to execute.
    pub(super) fn tell(&self, command: &[u8], again: bool) -> io::Result<()> {
        link::tell(&self.socket, command, again)
    }

    /// Asks the worker to shut down in order.
    pub(super) fn end(&self) {
        self.process.signal(Signal::TERM);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Waits for the worker's end, and returns whether it ended before
    /// `deadline`.
    pub(super) fn ends_by(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&self.process, PollFlags::IN)], left.as_ref()) {
                Err(Errno::INTR) => {}
                ended => return ended.is_ok_and(|ended| ended > 0),
            }
        }
    }

    /// Appends the worker's messages to `said`, and returns whether it has
    /// closed its socket. A worker that sends an invalid frame is killed.
    pub(super) fn hear(&mut self, said: &mut Vec<WorkerReport>) -> bool {
        let gone = loop {
            let mut piece = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RECEIVE_CLOSED;
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
                Ok(Some(WorkerReport::Hold(connection, meta))) => {
                    let held =
                        self.descriptors.pop_front().map(|descriptor| HeldConnection { connection, meta, descriptor });
                    self.held.extend(held);
                }
                Ok(Some(WorkerReport::LetGo(connection))) => self.held.retain(|held| held.connection != connection),
                Ok(Some(frame)) => said.push(frame),
                Ok(None) => return gone,
                Err(error) => {
                    tracing::error!(pid = self.pid(), "{error} and is killed");
                    self.kill();
                    return true;
                }
            }
        }
    }

    /// Records the status of a reaped child, which may have been the worker.
    pub(super) fn was_reaped(&mut self, pid: Pid, status: WaitStatus) {
        if self.ended.is_none() && pid == Pid::from_child(&self.child) {
            self.ended = Some(ExitStatus::from_raw(status.as_raw()));
        }
    }

    pub(super) fn kill(&self) {
        self.process.signal(Signal::KILL);
    }

    /// Kills and reaps the worker, and returns its status and the connections
    /// that it left.
    pub(super) fn reap(mut self) -> (io::Result<ExitStatus>, Vec<HeldConnection>) {
        self.kill();
        self.reaped = true;
        let status = self.ended.map_or_else(|| self.child.wait(), Ok);
        (status, std::mem::take(&mut self.held))
    }
}

/// The command line of this process, even if the file of its executable was
/// replaced, as by an update.
fn itself() -> io::Result<Command> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(own_executable()?);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    Ok(command)
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
