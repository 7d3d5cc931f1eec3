//! Children that the guard has not started. As the first process of a
//! container it gets every process whose own parent has ended; in Python it has
//! those that the script started before `start`. Nobody else waits for them,
//! and each would stay a zombie.

use std::io::Read;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::process::WaitOptions;
use signal_hook::consts::SIGCHLD;

use super::worker::Worker;
use crate::Result;

/// What polls readable when a child has ended.
pub(super) struct Orphans {
    receiver: UnixStream,
}

impl Orphans {
    /// `None` where it is not this process's business: the author's own code,
    /// which ran in it before, may wait for what it has started.
    pub(super) fn adopted(runs_only_the_guard: bool) -> Result<Option<Self>> {
        if !runs_only_the_guard && std::process::id() != 1 {
            return Ok(None);
        }
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, sender)?;
        let orphans = Self { receiver };
        // What has ended before.
        orphans.reap(None);
        Ok(Some(orphans))
    }

    /// To be polled.
    pub(super) fn fd(&self) -> PollFd<'_> {
        PollFd::new(&self.receiver, PollFlags::IN)
    }

    /// Waits for every child that has ended; how the worker did, it is told.
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
