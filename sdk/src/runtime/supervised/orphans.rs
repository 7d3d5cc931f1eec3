//! Children that the supervisor has not started. As the first process of a
//! container it inherits every process whose parent has ended; in Python it has
//! the children that the script started before `start`. No other code waits for
//! them, and each would remain a zombie.

use std::io::Read;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::process::WaitOptions;
use signal_hook::consts::SIGCHLD;

use super::worker::Worker;
use crate::Result;

/// The descriptor that polls readable when a child has ended.
pub(super) struct Orphans {
    receiver: UnixStream,
}

impl Orphans {
    /// Starts to catch SIGCHLD. Returns `None` if this process must not reap
    /// other children, because the author's code that ran in it before may wait
    /// for them.
    pub(super) fn adopted(runs_only_the_guard: bool) -> Result<Option<Self>> {
        if !runs_only_the_guard && std::process::id() != 1 {
            return Ok(None);
        }
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, sender)?;
        let orphans = Self { receiver };
        // Reap the children that have already ended.
        orphans.reap(None);
        Ok(Some(orphans))
    }

    /// The descriptor to poll.
    pub(super) fn fd(&self) -> PollFd<'_> {
        PollFd::new(&self.receiver, PollFlags::IN)
    }

    /// Reaps every child that has ended, and passes the worker's status to
    /// `worker`.
    pub(super) fn reap(&self, worker: Option<&mut Worker>) {
        while matches!((&self.receiver).read(&mut [0; 64]), Ok(1..)) {}
        let mut worker = worker;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(worker) = worker.as_deref_mut() {
                worker.was_reaped(pid, status);
            }
        }
    }
}
