//! Notices that the plugin is to end: a signal, or its parent's death.

#![allow(unsafe_code, reason = "a signal handler that tells this process from one that it has forked")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};
use rustix::process::{PidfdFlags, getpid, getppid, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::bell::Bell;
use super::control::GRACE;
use crate::Result;

/// What polls readable when the plugin is to end.
pub(super) struct Ends {
    receiver: UnixStream,
    /// Kept for the signals.
    _sender: UnixStream,
    parent: Option<OwnedFd>,
}

impl Ends {
    /// Catches SIGTERM and SIGINT, and watches the parent, from here on.
    pub(super) fn new() -> Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            catch(signal, sender.try_clone()?)?;
        }
        // The parent as it is now. Its number says nothing later: it may be
        // another's by then, and an orphan's parent need not be process 1.
        let parent = getppid().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok().map(|fd| (pid, fd)));
        // Had it died in between, its number might be another's already.
        let parent = parent.filter(|(pid, _)| getppid() == Some(*pid)).map(|(_, fd)| fd);
        if parent.is_none() {
            tracing::debug!("the parent cannot be watched: its end is noticed by the control channel's");
        }
        Ok(Self { receiver, _sender: sender, parent })
    }

    /// To be polled, for `PollFlags::IN`.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let parent = self.parent.as_ref().map(|parent| PollFd::new(parent, PollFlags::IN));
        std::iter::once(PollFd::new(&self.receiver, PollFlags::IN)).chain(parent)
    }
}

/// Makes `signal` send a byte to `sender`, in this process alone.
///
/// A child that a symbol forks has the handler and the socket too. What it is
/// sent is meant for it: it goes on as if nothing had been caught here.
fn catch(signal: i32, sender: UnixStream) -> std::io::Result<()> {
    let (owner, was_default) = (getpid(), is_default(signal));
    let handler = move || {
        if getpid() == owner {
            let _ = send(&sender, &[0], SendFlags::DONTWAIT);
        } else if was_default {
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        // Another handler that was there before has been called already.
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

/// Ends what is going on, and closes the control channel, when the plugin is
/// to end. Should that not end the process within its grace time, the process
/// simply ends.
pub(super) fn watch(bell: Arc<Bell>, close: impl FnOnce() + Send + 'static) -> Result<()> {
    let ends = Ends::new()?;
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut fds: Vec<_> = ends.fds().collect();
        while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
        bell.end();
        close();
        // No word from here on: whoever read the log may be what is gone.
        std::thread::sleep(GRACE + GRACE / 8);
        std::process::exit(0);
    })?;
    Ok(())
}
