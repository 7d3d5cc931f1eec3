//! The detection of a shutdown: a signal, or the parent's death.

#![allow(unsafe_code, reason = "a signal handler that tells this process from one that it has forked")]

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_transport_ipc::platform::ProcessHandle;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};
use rustix::process::{getpid, getppid};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::bell::Bell;
use crate::Result;

/// The maximum duration of the plugin's shutdown: less than the 3 s from SIGTERM
/// to SIGKILL in `ekuiper-host`.
pub(super) const GRACE: Duration = Duration::from_millis(2400);

/// The descriptors that poll readable when the plugin must shut down.
pub(super) struct Ends {
    receiver: UnixStream,
    /// Kept open for the signal handlers.
    _sender: UnixStream,
    parent: Option<ProcessHandle>,
}

impl Ends {
    /// Starts to catch SIGTERM and SIGINT, and to watch the parent.
    pub(super) fn new() -> Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            catch(signal, sender.try_clone()?)?;
        }
        // The pid of the current parent would not do: it may be reused,
        // and an orphan's parent need not be process 1.
        let parent = getppid().and_then(|pid| ProcessHandle::open(pid).ok().map(|fd| (pid, fd)));
        // Check that the parent has not died, and its pid been reused, in
        // between.
        let parent = parent.filter(|(pid, _)| getppid() == Some(*pid)).map(|(_, fd)| fd);
        if parent.is_none() {
            tracing::debug!("cannot watch the parent: its end is noticed by the end of the control channel");
        }
        Ok(Self { receiver, _sender: sender, parent })
    }

    /// The descriptors to poll, for `PollFlags::IN`.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let parent = self.parent.as_ref().map(|parent| PollFd::new(parent, PollFlags::IN));
        std::iter::once(PollFd::new(&self.receiver, PollFlags::IN)).chain(parent)
    }
}

/// Makes `signal` send a byte to `sender`, in this process alone.
///
/// A child that a symbol forks inherits the handler and the socket. A signal
/// sent to the child takes its default action there.
fn catch(signal: i32, sender: UnixStream) -> std::io::Result<()> {
    let (owner, was_default) = (getpid(), is_default(signal));
    let handler = move || {
        if getpid() == owner {
            let _ = send(&sender, &[0], SendFlags::DONTWAIT);
        } else if was_default {
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        // An earlier handler has already been called.
    };
    // SAFETY: the handler makes system calls that are async-signal-safe, and
    // does nothing else: it takes no lock, allocates nothing, and cannot panic.
    unsafe { signal_hook::low_level::register(signal, handler)? };
    Ok(())
}

/// Whether a signal is neither caught nor ignored by this process.
fn is_default(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigIgn:")));
    let masks = masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    masks.fold(0, |all, mask| all | mask) & (1 << (signal - 1)) == 0
}

/// Starts the thread that ends all waits and closes the control channel at
/// shutdown, and exits the process if it has not ended within the grace time.
pub(super) fn watch(bell: Arc<Bell>, close: impl FnOnce() + Send + 'static) -> Result<()> {
    let ends = Ends::new()?;
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut fds: Vec<_> = ends.fds().collect();
        while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
        bell.end();
        close();
        // Nothing is logged from here on: the log's reader may have died.
        std::thread::sleep(GRACE + GRACE / 8);
        std::process::exit(0);
    })?;
    Ok(())
}
